# SPDX-License-Identifier: Apache-2.0
"""Tables and sections as forms for people lay them out; long lists keep their sum in a row "others"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
    """A heading, what is said under it, figures by name (`charts`), tables, and what is said below them."""

    heading: str
    lines: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def words(*names: str) -> tuple[Column, ...]:
    """Return columns of texts."""
    return tuple(Column(name=name, is_number=False) for name in names)


def numbers(*names: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(name=name) for name in names)


def line(*texts: str) -> tuple[Cell, ...]:
    """Return a row of plain cells."""
    return tuple(Cell(text=text) for text in texts)


def top(rows: Sequence[T], size: Callable[[T], int], limit: int = TOP) -> tuple[Sequence[T], int, int]:
    """Return the first `limit` rows, how many others there are, and the others' sum."""
    others = rows[limit:]
    return rows[:limit], len(others), sum(size(row) for row in others)
