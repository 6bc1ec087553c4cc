# SPDX-License-Identifier: Apache-2.0
"""Addresses within the page: of things by their names, of the next page, of another order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from gpuledger_collector.documents import Asked

ROWS = 100
"""Rows on one page."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crumb:
    """One step of the way down to a page."""

    text: str
    url: str


def site(name: str) -> str:
    """Return the address of a site."""
    return f"/sites/{_quoted(name)}"


def node(name: str) -> str:
    """Return the address of a node."""
    return f"/nodes/{_quoted(name)}"


def gpu(name: str) -> str:
    """Return the address of a GPU."""
    return f"/gpus/{_quoted(name)}"


def workload(digest: str) -> str:
    """Return the address of a workload."""
    return f"/workloads/{_quoted(digest)}"


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="replace") or "-"


def query(path: str, values: Mapping[str, str]) -> str:
    """Return a path with a query; empty values are left out."""
    given = {name: value for name, value in values.items() if value}
    return f"{path}?{urlencode(given, errors='replace')}" if given else path


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[T]):
    """One column of a table, by which it can be sorted: `is_down_first` where large is what people look for."""

    name: str
    title: str
    key: Callable[[T], Any]
    is_number: bool = False
    is_down_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A column's head: where a click leads, and how the table is sorted by it now (for aria-sort)."""

    title: str
    url: str
    is_number: bool
    sorted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[T]):
    """One page of a table; addresses are None where there is no such page."""

    items: Sequence[T]
    headings: Sequence[Heading]
    first: int
    total: int
    page: int
    pages: int
    before: str | None
    after: str | None


def choice(asked: Asked, name: str) -> str:
    """Return what was asked for, or the empty text."""
    return next((value for given, value in asked.query if given == name), "")


def table(
    path: str, asked: Asked, items: Sequence[T], columns: Sequence[Column[T]], kept: Mapping[str, str] | None = None
) -> Rows[T]:
    """Return the rows that were asked for (`sort`, `order`, `page`); what is no such thing is the default.

    `kept` are the other parts of the query, which all addresses go on with. Without a column that was asked for the
    items stand as they are.
    """
    filters = dict(kept or {})
    column = next((column for column in columns if column.name == choice(asked, "sort")), None)
    is_down = choice(asked, "order") == "desc"
    if column is not None:
        items = sorted(items, key=column.key, reverse=is_down)
    order = {} if column is None else {"sort": column.name, "order": "desc" if is_down else "asc"}
    pages = max(1, -(-len(items) // ROWS))
    text = choice(asked, "page")
    number = min(pages, max(1, int(text))) if text.isascii() and text.isdecimal() and len(text) < 8 else 1

    def page(wanted: int) -> str | None:
        return query(path, {**filters, **order, "page": str(wanted)}) if 1 <= wanted <= pages else None

    return Rows(
        items=items[(number - 1) * ROWS : number * ROWS],
        headings=[_heading(path, filters, one, column, is_down=is_down) for one in columns],
        first=(number - 1) * ROWS + 1,
        total=len(items),
        page=number,
        pages=pages,
        before=page(number - 1),
        after=page(number + 1),
    )


def _heading(
    path: str, filters: Mapping[str, str], column: Column[Any], sorted_by: Column[Any] | None, *, is_down: bool
) -> Heading:
    is_own = column is sorted_by
    wanted = not is_down if is_own else column.is_down_first
    return Heading(
        title=column.title,
        url=query(path, {**filters, "sort": column.name, "order": "desc" if wanted else "asc"}),
        is_number=column.is_number,
        sorted=("descending" if is_down else "ascending") if is_own else "none",
    )
