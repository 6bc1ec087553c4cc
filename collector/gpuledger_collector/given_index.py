# SPDX-License-Identifier: Apache-2.0
"""Leases and schedulers in the index over the log: how their entries become rows, and how rows are read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from gpuledger import wire
from gpuledger.cells import CELL_MS, ceil_to, floor_to
from gpuledger_collector.given_entries import (
    LeasesEntry,
    ScheduleEntry,
    decode_grant,
    decode_lease,
    decode_node,
)
from gpuledger_collector.indexed import EVER_MS, Database, Span, put_meta
from gpuledger_collector.leases import Lease, LeaseBook
from gpuledger_collector.scheduling import Grant, NodeFact, Queue, Scheduling, Seen, Watched

Rows = Callable[..., Sequence[Sequence[Any]]]
"""Answers a query: SQL, and the values of its question marks."""
BOOK_META = "leases_from_ms"


# ---------------------------------------------------------------------------------------------- writing


def take_leases(db: Database, entry: LeasesEntry) -> Span:
    """Bring the lease book up to date; return the span whose rows may change."""
    touched = [lease for name in entry.removed for lease in _leases(db.execute(_LEASE_BY_NAME, (name,)))]
    db.executemany("DELETE FROM lease WHERE name = ?", [(name,) for name in entry.removed])
    for lease in entry.added:
        known = next(iter(_leases(db.execute(_LEASE_BY_NAME, (lease.name,)))), None)
        merged = lease if known is None else _joined(known, lease)
        touched.append(lease)
        body = wire.dump(asdict(merged)).decode("ascii")
        db.execute("INSERT OR REPLACE INTO lease VALUES (?, ?)", (lease.name, body))
    begins = [begin for (begin,) in db.execute("SELECT value FROM meta WHERE key = ?", (BOOK_META,))]
    put_meta(db, BOOK_META, entry.from_ms)
    starts = [lease.from_ms if lease.signed_ms is None else lease.signed_ms for lease in touched]
    if begins != [entry.from_ms]:
        starts += [*(int(begin) for begin in begins), entry.from_ms]
    return floor_to(min(starts, default=entry.from_ms), CELL_MS), EVER_MS


_LEASE_BY_NAME = "SELECT body FROM lease WHERE name = ?"


def _joined(known: Lease, more: Lease) -> Lease:
    return replace(
        known,
        gpus=tuple(sorted({*known.gpus, *more.gpus})),
        nodes=tuple(sorted({*known.nodes, *more.nodes})),
    )


def take_schedule(db: Database, entry: ScheduleEntry) -> Span:
    """Take in one stretch of looks at a scheduler; return the span whose rows may change."""
    db.executemany(
        "UPDATE seen_fact SET to_ms = ? WHERE to_ms IS NULL AND cluster = ? AND node = ? AND job IS ?",
        [(one.to_ms, entry.cluster, one.node, one.job) for one in entry.closed],
    )
    db.executemany(
        "INSERT INTO seen_fact (cluster, node, job, body, from_ms) VALUES (?, ?, ?, ?, ?)",
        [
            (
                entry.cluster,
                one.fact.node,
                None if one.grant is None else one.grant.job,
                wire.dump(asdict(one.fact)).decode("ascii"),
                one.from_ms,
            )
            for one in entry.opened
        ],
    )
    if entry.to_ms > entry.from_ms:
        queues = wire.dump([asdict(queue) for queue in entry.queues]).decode("ascii")
        stretch = (entry.cluster, entry.from_ms, entry.to_ms, queues)
        db.execute("INSERT OR REPLACE INTO watched VALUES (?, ?, ?, ?)", stretch)
    return floor_to(entry.from_ms, CELL_MS), ceil_to(max(entry.to_ms, entry.from_ms + 1), CELL_MS)


# ---------------------------------------------------------------------------------------------- reading


def read_leases(rows: Rows) -> LeaseBook | None:
    """Return the lease book as last logged; None where there never was one."""
    begins = rows("SELECT value FROM meta WHERE key = ?", BOOK_META)
    return LeaseBook(_leases(rows("SELECT body FROM lease ORDER BY name")), int(begins[0][0])) if begins else None


def read_scheduling(rows: Rows, start_ms: int, end_ms: int) -> Scheduling:
    """Return what is known of schedulers in [start_ms, end_ms)."""
    watched = [
        Watched(
            cluster=cluster,
            from_ms=from_ms,
            to_ms=to_ms,
            queues=tuple(Queue(**queue) for queue in json.loads(queues)),
        )
        for cluster, from_ms, to_ms, queues in rows(
            "SELECT cluster, from_ms, to_ms, queues FROM watched WHERE from_ms < ? AND to_ms > ?", end_ms, start_ms
        )
    ]
    facts = _seen(rows(f"{_SEEN} WHERE from_ms < ? AND (to_ms IS NULL OR to_ms > ?)", end_ms, start_ms))
    return Scheduling(watched, facts)


def read_open(rows: Rows, cluster: str) -> list[Seen]:
    """Return the facts about a cluster that were seen by the last look, too."""
    return _seen(rows(f"{_SEEN} WHERE to_ms IS NULL AND cluster = ?", cluster))


def read_watched_to(rows: Rows, cluster: str) -> int | None:
    """Return up to when a cluster was looked at; None: never."""
    found = rows("SELECT MAX(to_ms) FROM watched WHERE cluster = ?", cluster)[0][0]
    return None if found is None else int(found)


_SEEN = "SELECT cluster, job, body, from_ms, to_ms FROM seen_fact"


def _seen(rows: Iterable[Sequence[Any]]) -> list[Seen]:
    return [
        Seen(cluster=cluster, fact=_fact(job, body), from_ms=from_ms, to_ms=to_ms)
        for cluster, job, body, from_ms, to_ms in rows
    ]


def _fact(job: str | None, body: str) -> Grant | NodeFact:
    value = json.loads(body)
    return decode_node(value) if job is None else decode_grant(value)


def _leases(rows: Iterable[Sequence[Any]]) -> list[Lease]:
    return [decode_lease(json.loads(body)) for (body,) in rows]
