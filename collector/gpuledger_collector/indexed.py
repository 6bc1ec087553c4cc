# SPDX-License-Identifier: Apache-2.0
"""What is needed of a database to index the log: a connection inside somebody's transaction, spans, named values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

EVER_MS = 2**62
"""An end that is not known yet."""

Span = tuple[int, int]


class _Result(Protocol):
    @property
    def rowcount(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """What is needed of a database connection, inside a transaction that somebody else holds."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> _Result: ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> _Result: ...


def put_meta(db: Database, key: str, value: int | str) -> None:
    """Set one of the store's named values."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
