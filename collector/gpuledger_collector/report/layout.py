# SPDX-License-Identifier: Apache-2.0
"""Tables and sections as forms for people lay them out; long lists keep their sum in a row "others"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from gpuledger.states import State

TOP = 10
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell; `small` is said after or under `text`; a state gives it its colour."""

    text: str
    small: str = ""
    state: State | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; numbers are set flush right. The first columns, up to the first number, name the row."""

    name: str
    is_number: bool = True
    state: State | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table; `total` is a last row; without rows `empty` stands in its place."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] | None = None
    empty: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, what is said under it, a figure by name, tables."""

    heading: str
    lines: tuple[str, ...] = ()
    figure: Literal["", "days", "sites"] = ""
    tables: tuple[Table, ...] = ()


def top(rows: Sequence[T], size: Callable[[T], int], limit: int = TOP) -> tuple[Sequence[T], int, int]:
    """Return the first `limit` rows, how many others there are, and the others' sum."""
    others = rows[limit:]
    return rows[:limit], len(others), sum(size(row) for row in others)
