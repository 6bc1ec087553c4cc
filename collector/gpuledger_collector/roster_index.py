# SPDX-License-Identifier: Apache-2.0
"""The roster and its windows, read from the index over the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuledger_collector.entries import DeclarationEntry
from gpuledger_collector.roster import Entry, Roster, Window, WindowKind

Rows = Callable[..., Sequence[Sequence[Any]]]
"""Answers a query: SQL, and the values of its question marks."""


def read_roster(rows: Rows) -> Roster:
    """Return the roster as last logged, with its windows."""
    entries = tuple(
        Entry(
            gpu=gpu,
            node=node,
            from_ms=from_ms,
            to_ms=to_ms,
            serial=serial,
            site=site,
            cluster=cluster,
            pool=pool,
            model=model,
        )
        for gpu, node, from_ms, to_ms, serial, site, cluster, pool, model in rows(
            "SELECT * FROM roster ORDER BY gpu, from_ms, node"
        )
    )
    declared = rows("SELECT value FROM meta WHERE key = 'roster_declared'")
    return Roster(
        entries=entries,
        windows=tuple(window for entry in read_declarations(rows) if (window := entry.effective) is not None),
        is_declared=bool(declared) and int(declared[0][0]) == 1,
    )


def read_declarations(rows: Rows) -> list[DeclarationEntry]:
    """Return every window ever declared, withdrawn or not, in the order in which they were logged."""
    sql = "SELECT kind, start_ms, end_ms, declared_ms, node, gpu, withdrawn_ms FROM declaration ORDER BY id"
    return [
        DeclarationEntry(
            window=Window(
                kind=WindowKind(kind), start_ms=start_ms, end_ms=end_ms, declared_ms=declared_ms, node=node, gpu=gpu
            ),
            withdrawn_ms=withdrawn_ms,
        )
        for kind, start_ms, end_ms, declared_ms, node, gpu, withdrawn_ms in rows(sql)
    ]
