# SPDX-License-Identifier: Apache-2.0
"""An in-memory ReportReader over ledger rows: plain Python, so that it shares no fault with a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from gpuledger.accounting import Account, add
from gpuledger.cells import DAY_MS, HOUR_MS, floor_to
from gpuledger.states import IDLE, UNKNOWN, State
from gpuledger_collector.figures import Group, Holding, Key
from gpuledger_collector.ledger import Finding, HolderRow, HourRow
from gpuledger_collector.node_figures import DownTime, NodeDay, NodeTime, ReportSums, Scope
from gpuledger_collector.spare import add_tags
from tests.fakes.side_rows import SideRows


class FakeLedger(SideRows):
    """Answers from rows in any order; `openings` maps digests of names to names.

    `extent` is the span of the hours of the rows unless it is given (a last hour that is not over yet). `sides` has the
    rows beside the hours.
    """

    def __init__(
        self,
        hours: Iterable[HourRow],
        holders: Iterable[HolderRow] = (),
        findings: Iterable[Finding] = (),
        *,
        openings: Mapping[str, str] | None = None,
        extent: tuple[int, int] | None = None,
        sides: SideRows | None = None,
    ) -> None:
        sides = SideRows() if sides is None else sides
        known = {**sides.openings, **({} if openings is None else openings)}
        super().__init__(sides.all_commerce, sides.allotted, openings=known, bridge=sides.bridge(0, 0))
        self.hours = list(hours)
        self.holders = list(holders)
        self.all_findings = list(findings)
        self._extent = extent
        self.whole = (self.hours, self.holders)
        """Rows that the digest is of: a part of the ledger keeps that of the whole."""

    def extent(self) -> tuple[int, int] | None:
        if self._extent is not None or not self.hours:
            return self._extent
        return min(row.hour_ms for row in self.hours), max(row.hour_ms for row in self.hours) + HOUR_MS

    def sum_by(self, keys: Sequence[Key], start_ms: int, end_ms: int) -> list[Group]:
        found: dict[tuple[str | int, ...], list[HourRow]] = {}
        for row in self.hours:
            if start_ms <= row.hour_ms < end_ms:
                found.setdefault(tuple(_value(row, key) for key in keys), []).append(row)
        return [_group(key, rows) for key, rows in sorted(found.items())]

    def gpu_accounts(self, start_ms: int, end_ms: int) -> FakeGpuAccounts:
        return FakeGpuAccounts({str(group.key[0]): group.account for group in self.sum_by(["gpu"], start_ms, end_ms)})

    def report_sums(self, start_ms: int, end_ms: int) -> ReportSums:
        return ReportSums(
            whole=self.sum_by([], start_ms, end_ms),
            places=self.sum_by(["site", "model"], start_ms, end_ms),
            sites=self.sum_by(["site"], start_ms, end_ms),
            days=self.sum_by(["day_ms"], start_ms, end_ms),
            hours=self.sum_by(["hour_ms"], start_ms, end_ms),
            place_hours=self.sum_by(["site", "model", "hour_ms"], start_ms, end_ms),
        )

    def node_times(self, start_ms: int, end_ms: int) -> list[NodeTime]:
        found: dict[tuple[str, str, str], dict[int, list[HourRow]]] = {}
        for row in self.hours:
            if start_ms <= row.hour_ms < end_ms:
                node = found.setdefault((row.site, row.pool, row.node), {})
                node.setdefault(row.hour_ms, []).append(row)
        return [_node_time(key, hours) for key, hours in sorted(found.items())]

    def node_days(self, start_ms: int, end_ms: int) -> list[NodeDay]:
        days = []
        for group in self.sum_by(["site", "node", "day_ms"], start_ms, end_ms):
            site, node, day_ms = group.key
            account = group.account
            days.append(
                NodeDay(
                    site=str(site),
                    node=str(node),
                    day_ms=int(day_ms),
                    idle_slice_ms=account.slice_ms(*IDLE),
                    unknown_slice_ms=account.slice_ms(*UNKNOWN),
                    dark_slice_ms=account.slice_ms(State.DARK),
                    installed_slice_ms=account.installed_slice_ms,
                )
            )
        return days

    def down_gpus(self, start_ms: int, end_ms: int) -> list[DownTime]:
        found = [
            DownTime(
                site=str(group.key[0]),
                node=str(group.key[1]),
                gpu=str(group.key[2]),
                slice_ms=group.account.slice_ms(State.DOWN),
                installed_slice_ms=group.account.installed_slice_ms,
            )
            for group in self.sum_by(["site", "node", "gpu"], start_ms, end_ms)
        ]
        down = [row for row in found if row.slice_ms > 0]
        return sorted(down, key=lambda row: (-row.slice_ms, row.site, row.node, row.gpu))

    def within(self, scope: Scope) -> FakeLedger:
        hours = [
            row
            for row in self.hours
            if scope.holds(site=row.site, pool=row.pool, model=row.model, node=row.node, gpu=row.gpu)
        ]
        kept = {(row.gpu, row.node) for row in hours}
        subjects = {name for pair in kept for name in pair}
        found = FakeLedger(
            hours,
            [row for row in self.holders if (row.gpu, row.node) in kept],
            [finding for finding in self.all_findings if finding.subject in subjects],
            openings=self.openings,
            extent=self.extent(),
        )
        found.whole = self.whole
        return found

    def rows_version(self, start_ms: int, end_ms: int) -> str:
        return self.digest(start_ms, end_ms)

    def report_digest(self, start_ms: int, end_ms: int) -> tuple[str, bool]:
        return self.digest(start_ms, end_ms), True

    def holdings(self, start_ms: int, end_ms: int) -> list[Holding]:
        sites = {(row.hour_ms, row.gpu): row.site for row in self.hours}
        found: dict[tuple[str, str, str, str | None], list[HolderRow]] = {}
        for row in self.holders:
            if start_ms <= row.hour_ms < end_ms:
                site = sites[row.hour_ms, row.gpu]
                found.setdefault((site, row.node, row.workload, row.user), []).append(row)
        holdings = [self._holding(key, rows) for key, rows in found.items()]
        return sorted(holdings, key=lambda h: (-h.held_slice_ms, h.node, h.workload, h.user or ""))

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]:
        return sorted(finding for finding in self.all_findings if start_ms <= finding.at_ms < end_ms)

    def digest(self, start_ms: int, end_ms: int) -> str:
        lines = [
            f"{row.hour_ms} {row.gpu} {row.node} {row.account}"
            for row in self.whole[0]
            if start_ms <= row.hour_ms < end_ms
        ]
        lines += [str(row) for row in self.whole[1] if start_ms <= row.hour_ms < end_ms]
        return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "replace")).hexdigest()

    def _holding(self, key: tuple[str, str, str, str | None], rows: Sequence[HolderRow]) -> Holding:
        site, node, workload, user = key
        memory = [row.memory_bytes_max for row in rows if row.memory_bytes_max is not None]
        return Holding(
            node=node,
            site=site,
            workload=workload,
            user=user,
            workload_name=self.openings.get(workload),
            user_name=None if user is None else self.openings.get(user),
            gpus=len({row.gpu for row in rows}),
            busy_slice_ms=sum(row.busy_slice_ms for row in rows),
            held_slice_ms=sum(row.held_slice_ms for row in rows),
            memory_bytes_max=max(memory) if memory else None,
            first_hour_ms=min(row.hour_ms for row in rows),
            last_hour_ms=max(row.hour_ms for row in rows),
        )


class FakeGpuAccounts:
    """Accounts of GPUs, with the states and what was declared."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self.accounts = accounts

    def of(self, gpus: Iterable[str]) -> Mapping[str, Account]:
        return {
            gpu: Account(
                state_slice_ms=self.accounts[gpu].state_slice_ms,
                declared_uncovered_slice_ms=self.accounts[gpu].declared_uncovered_slice_ms,
            )
            for gpu in gpus
            if gpu in self.accounts
        }


def _node_time(key: tuple[str, str, str], hours: Mapping[int, Sequence[HourRow]]) -> NodeTime:
    accounts = {hour_ms: add([row.account for row in rows]) for hour_ms, rows in hours.items()}
    total = add(list(accounts.values()))
    dark = [hour_ms for hour_ms, account in accounts.items() if account.slice_ms(State.DARK) > 0]
    seen = [ms for ms, account in accounts.items() if account.slice_ms(State.DARK) < account.installed_slice_ms]
    unfree = [ms for ms, account in accounts.items() if account.slice_ms(State.FREE) < account.installed_slice_ms]
    return NodeTime(
        site=key[0],
        pool=key[1],
        node=key[2],
        gpus=len({row.gpu for rows in hours.values() for row in rows}),
        first_hour_ms=min(hours),
        last_hour_ms=max(hours),
        first_dark_hour_ms=min(dark, default=None),
        last_seen_hour_ms=max(seen, default=None),
        last_unfree_hour_ms=max(unfree, default=None),
        state_slice_ms=dict(total.state_slice_ms),
        energy_mj=dict(total.energy_mj),
        tags=add_tags([row.tags for rows in hours.values() for row in rows]),
    )


def _value(row: HourRow, key: Key) -> str | int:
    if key == "day_ms":
        return floor_to(row.hour_ms, DAY_MS)
    if key == "model":
        return row.model or ""
    value: str | int = getattr(row, key)
    return value


def _group(key: tuple[str | int, ...], rows: Sequence[HourRow]) -> Group:
    memory = [row.memory_used_bytes_max for row in rows if row.memory_used_bytes_max is not None]
    return Group(
        key=key,
        account=add([row.account for row in rows]),
        gpus=len({row.gpu for row in rows}),
        active_known_ms=sum(row.active_known_ms for row in rows),
        hang_suspicion_ms=sum(row.hang_suspicion_ms for row in rows),
        memory_used_bytes_max=max(memory) if memory else None,
        intervals_ms=tuple(sorted({interval for row in rows for interval in row.intervals_ms})),
        activity_sources=tuple(sorted({source for row in rows for source in row.activity_sources})),
        simulated=any(row.simulated for row in rows),
        tags=add_tags([row.tags for row in rows]),
    )
