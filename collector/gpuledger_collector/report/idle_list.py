# SPDX-License-Identifier: Apache-2.0
"""The idle list: where free, held, dark and down time was, and whose it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpuledger.accounting import Account, add
from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.figures import Group, Holding, LedgerReader
from gpuledger_collector.report.model import DarkNode, DownGpu, FreeKind, FreeNode, Holder, IdleList

Place = tuple[str, str]
"""Site and node."""


def build_idle_list(reader: LedgerReader, start_ms: int, end_ms: int, to_ms: int, by_gpu: Sequence[Group]) -> IdleList:
    """Return the lists of [start_ms, end_ms), which the ledger accounts for up to `to_ms`.

    `by_gpu` has one group per (site, node, gpu).
    """
    nodes: dict[Place, list[Group]] = {}
    for group in by_gpu:
        nodes.setdefault((str(group.key[0]), str(group.key[1])), []).append(group)
    accounts = {place: add([group.account for group in groups]) for place, groups in nodes.items()}
    gpus = {place: len(groups) for place, groups in nodes.items()}
    held, unattributed = _holders(reader.holdings(start_ms, end_ms), accounts.values())
    return IdleList(
        free=_free_nodes(accounts, gpus, to_ms - start_ms),
        held=held,
        held_without_holder_slice_ms=unattributed,
        dark=_dark_nodes(reader, start_ms, end_ms, accounts, gpus),
        down=_down_gpus(by_gpu),
    )


def _free_nodes(accounts: Mapping[Place, Account], gpus: Mapping[Place, int], length_ms: int) -> tuple[FreeNode, ...]:
    rows = []
    for (site, node), account in accounts.items():
        free, dark = account.slice_ms(State.FREE), account.slice_ms(State.DARK)
        installed = account.installed_slice_ms
        if free == 0:
            continue
        kind = FreeKind.PARTLY
        if free == installed == gpus[site, node] * length_ms * SLICES_PER_GPU:
            kind = FreeKind.ALL_WEEK
        elif free + dark == installed:
            kind = FreeKind.WHEN_OBSERVED
        rows.append(
            FreeNode(
                kind=kind,
                site=site,
                node=node,
                gpus=gpus[site, node],
                free_slice_ms=free,
                dark_slice_ms=dark,
                installed_slice_ms=installed,
            )
        )
    order = list(FreeKind)
    return tuple(sorted(rows, key=lambda row: (order.index(row.kind), -row.free_slice_ms, row.site, row.node)))


def _holders(holdings: Iterable[Holding], accounts: Iterable[Account]) -> tuple[tuple[Holder, ...], int]:
    rows = [
        Holder(
            site=holding.site,
            node=holding.node,
            user_name=holding.user_name,
            user_digest=holding.user,
            workload_name=holding.workload_name,
            workload_digest=holding.workload,
            gpus=holding.gpus,
            held_slice_ms=holding.held_slice_ms,
            busy_slice_ms=holding.busy_slice_ms,
            memory_bytes_max=holding.memory_bytes_max,
            first_hour_ms=holding.first_hour_ms,
            last_hour_ms=holding.last_hour_ms,
        )
        for holding in holdings
        if holding.held_slice_ms > 0
    ]
    rows.sort(key=lambda row: (-row.held_slice_ms, row.site, row.node, row.workload_digest, row.user_digest or ""))
    total = sum(account.slice_ms(State.HELD) for account in accounts)
    return tuple(rows), total - sum(row.held_slice_ms for row in rows)


def _dark_nodes(
    reader: LedgerReader, start_ms: int, end_ms: int, accounts: Mapping[Place, Account], gpus: Mapping[Place, int]
) -> tuple[DarkNode, ...]:
    wanted = {place for place, account in accounts.items() if account.slice_ms(State.DARK) > 0}
    if not wanted:
        return ()
    hours: dict[Place, list[tuple[int, Account]]] = {}
    for group in reader.sum_by(["site", "node", "hour_ms"], start_ms, end_ms):
        place = (str(group.key[0]), str(group.key[1]))
        if place in wanted:
            hours.setdefault(place, []).append((int(group.key[2]), group.account))
    rows = []
    for (site, node), series in hours.items():
        series.sort(key=lambda pair: pair[0])
        dark = [hour_ms for hour_ms, account in series if account.slice_ms(State.DARK) > 0]
        seen = [hour_ms for hour_ms, account in series if account.slice_ms(State.DARK) < account.installed_slice_ms]
        rows.append(
            DarkNode(
                site=site,
                node=node,
                gpus=gpus[site, node],
                dark_slice_ms=accounts[site, node].slice_ms(State.DARK),
                installed_slice_ms=accounts[site, node].installed_slice_ms,
                first_dark_hour_ms=dark[0],
                last_seen_hour_ms=seen[-1] if seen else None,
                dark_since_ms=_dark_since(series[0][0], series[-1][0], seen),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.dark_slice_ms, row.site, row.node)))


def _dark_since(first_hour_ms: int, last_hour_ms: int, seen: Sequence[int]) -> int | None:
    if not seen:
        return first_hour_ms
    return None if seen[-1] == last_hour_ms else seen[-1] + HOUR_MS


def _down_gpus(by_gpu: Iterable[Group]) -> tuple[DownGpu, ...]:
    rows = [
        DownGpu(
            site=str(group.key[0]),
            node=str(group.key[1]),
            gpu=str(group.key[2]),
            down_slice_ms=group.account.slice_ms(State.DOWN),
            installed_slice_ms=group.account.installed_slice_ms,
        )
        for group in by_gpu
        if group.account.slice_ms(State.DOWN) > 0
    ]
    return tuple(sorted(rows, key=lambda row: (-row.down_slice_ms, row.site, row.node, row.gpu)))
