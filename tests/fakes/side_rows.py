# SPDX-License-Identifier: Apache-2.0
"""The ledger's side tables in memory: sums by hand, so that they share no fault with those of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from gpuledger_collector.allotment import NO_ROWS, AllotmentRows
from gpuledger_collector.commerce import CommerceRow
from gpuledger_collector.figures import Allotted, ClusterSum, CommerceSum, NotSchedulable, QueueSum
from gpuledger_collector.roster_change import Bridge


class SideRows:
    """Answers what LedgerReader asks of side tables, from rows in any order."""

    def __init__(
        self,
        commerce: Iterable[CommerceRow] = (),
        allotted: AllotmentRows = NO_ROWS,
        *,
        openings: Mapping[str, str] | None = None,
        bridge: Bridge | None = None,
    ) -> None:
        self.all_commerce = list(commerce)
        self.allotted = allotted
        self.openings = {} if openings is None else dict(openings)
        self._bridge = bridge

    def commerce(self, start_ms: int, end_ms: int) -> list[CommerceSum]:
        found: dict[Any, list[CommerceRow]] = {}
        for row in self.all_commerce:
            if start_ms <= row.hour_ms < end_ms:
                key = (row.kind.value, row.lease, row.tenant, row.pool, row.site)
                found.setdefault(key, []).append(row)
        return [
            CommerceSum(
                site=rows[0].site,
                pool=rows[0].pool,
                kind=rows[0].kind,
                lease=rows[0].lease,
                tenant=rows[0].tenant,
                tenant_name=self._open(rows[0].tenant),
                slice_ms=sum(row.slice_ms for row in rows),
                low_slice_ms=_added(row.low_slice_ms for row in rows),
                high_slice_ms=_added(row.high_slice_ms for row in rows),
                low_of_slice_ms=_added(row.low_of_slice_ms for row in rows),
                high_of_slice_ms=_added(row.high_of_slice_ms for row in rows),
            )
            for _, rows in sorted(found.items(), key=lambda item: _texts(item[0]))
        ]

    def allotments(self, start_ms: int, end_ms: int) -> list[Allotted]:
        names = ("cluster", "site", "node", "job", "user", "account", "partition")
        sums = ("slice_ms", "busy_slice_ms", "held_slice_ms", "reserved_slice_ms", "untold_slice_ms")
        found = [
            Allotted(
                **record,
                job_name=self._open(record["job"]),
                user_name=self._open(record["user"]),
                account_name=self._open(record["account"]),
            )
            for record in _grouped(self.allotted.allotments, names, sums, start_ms, end_ms, most="gpus")
        ]
        return sorted(found, key=lambda one: (-one.reserved_slice_ms, -one.slice_ms))

    def not_schedulable(self, start_ms: int, end_ms: int) -> list[NotSchedulable]:
        names = ("cluster", "site", "node", "why", "reason", "by", "since_ms")
        sums = ("slice_ms", "free_slice_ms")
        found = [
            NotSchedulable(**record, by_name=self._open(record["by"]))
            for record in _grouped(self.allotted.unschedulable, names, sums, start_ms, end_ms)
        ]
        return sorted(found, key=lambda one: (-one.free_slice_ms, -one.slice_ms))

    def queues(self, start_ms: int, end_ms: int) -> list[QueueSum]:
        names, sums = ("cluster", "partition", "reason"), ("wanted_slice_ms",)
        records = _grouped(self.allotted.queues, names, sums, start_ms, end_ms, most="jobs_max")
        return sorted((QueueSum(**record) for record in records), key=lambda one: -one.wanted_slice_ms)

    def clusters(self, start_ms: int, end_ms: int) -> list[ClusterSum]:
        sums = ("known_ms", "free_slice_ms", "wanted_slice_ms", "idle_wanted_slice_ms")
        return [
            ClusterSum(**{name: record[name] for name in ("cluster", *sums)})
            for record in _grouped(self.allotted.clusters, ("cluster",), sums, start_ms, end_ms)
        ]

    def bridge(self, start_ms: int, end_ms: int) -> Bridge | None:
        del start_ms, end_ms
        return self._bridge

    def _open(self, digest: str | None) -> str | None:
        return None if digest is None else self.openings.get(digest)


def _added(amounts: Iterable[Mapping[Any, int]]) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for one in amounts:
        for key, amount in one.items():
            found[key] = found.get(key, 0) + amount
    return found


def _grouped(
    rows: Iterable[Any], names: tuple[str, ...], sums: tuple[str, ...], start_ms: int, end_ms: int, most: str = ""
) -> list[dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if not start_ms <= row.hour_ms < end_ms:
            continue
        values = {name: getattr(row, name) for name in asdict(row)}
        key = tuple(values[name] for name in names)
        first = {name: values[name] for name in names} | dict.fromkeys(sums, 0)
        first |= {"first_hour_ms": row.hour_ms, "last_hour_ms": row.hour_ms} | ({most: 0} if most else {})
        record = found.setdefault(key, first)
        for name in sums:
            record[name] += values[name]
        if most:
            record[most] = max(record[most], values[most])
        pick: tuple[tuple[str, Callable[[int, int], int]], ...] = (("first_hour_ms", min), ("last_hour_ms", max))
        for name, choose in pick:
            record[name] = choose(record[name], row.hour_ms)
    return [record for _, record in sorted(found.items(), key=lambda item: _texts(item[0]))]


def _texts(key: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in key)
