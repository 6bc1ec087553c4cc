# SPDX-License-Identifier: Apache-2.0
"""The idle list: where free, held, dark and down time was, and whose it was."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.figures import Holding
from gpuledger_collector.node_figures import DownTime, NodeTime
from gpuledger_collector.report.idle_model import (
    Block,
    BlockNode,
    DarkNode,
    DownGpu,
    FreeKind,
    FreeNode,
    Holder,
    IdleList,
    ReservedNode,
)


def build_idle_list(
    nodes: Sequence[NodeTime], holdings: Iterable[Holding], down: Iterable[DownTime], length_ms: int
) -> IdleList:
    """Return the lists of a period of which the ledger accounts for `length_ms`."""
    held, unattributed = _holders(holdings, nodes)
    return IdleList(
        free=_free_nodes(nodes, length_ms),
        held=held,
        held_without_holder_slice_ms=unattributed,
        reserved=_reserved_nodes(nodes),
        dark=_dark_nodes(nodes),
        down=tuple(
            DownGpu(
                site=row.site,
                node=row.node,
                gpu=row.gpu,
                down_slice_ms=row.slice_ms,
                installed_slice_ms=row.installed_slice_ms,
            )
            for row in down
        ),
    )


def build_blocks(nodes: Iterable[NodeTime], to_ms: int, closed: Collection[tuple[str, str]]) -> tuple[Block, ...]:
    """Return the whole nodes that are free up to `to_ms`, by site and pool, the most GPUs first.

    `closed` are nodes (site, name) that take no new work: nobody could be sent there.
    """
    found: dict[tuple[str, str], list[BlockNode]] = {}
    for node in nodes:
        since_ms = node.first_hour_ms if node.last_unfree_hour_ms is None else node.last_unfree_hour_ms + HOUR_MS
        if since_ms >= to_ms or node.last_hour_ms + HOUR_MS < to_ms or (node.site, node.node) in closed:
            continue
        free = State.FREE.value
        found.setdefault((node.site, node.pool), []).append(
            BlockNode(
                node=node.node,
                gpus=node.gpus,
                since_ms=since_ms,
                is_longer=node.last_unfree_hour_ms is None,
                free_slice_ms=node.gpus * (to_ms - since_ms) * SLICES_PER_GPU,
                energy_mj=node.energy_mj.get(free) if node.last_unfree_hour_ms is None else None,
            )
        )
    blocks = [
        Block(
            site=site,
            pool=pool,
            gpus=sum(row.gpus for row in rows),
            free_slice_ms=sum(row.free_slice_ms for row in rows),
            nodes=tuple(sorted(rows, key=lambda row: (row.since_ms, row.node))),
        )
        for (site, pool), rows in found.items()
    ]
    return tuple(sorted(blocks, key=lambda block: (-block.gpus, block.site, block.pool)))


def _free_nodes(nodes: Iterable[NodeTime], length_ms: int) -> tuple[FreeNode, ...]:
    rows = []
    for node in nodes:
        free, dark, installed = node.slice_ms(State.FREE), node.slice_ms(State.DARK), node.installed_slice_ms
        if free == 0:
            continue
        kind = FreeKind.PARTLY
        if free == installed == node.gpus * length_ms * SLICES_PER_GPU:
            kind = FreeKind.ALL_WEEK
        elif free + dark == installed:
            kind = FreeKind.WHEN_OBSERVED
        rows.append(
            FreeNode(
                kind=kind,
                site=node.site,
                node=node.node,
                gpus=node.gpus,
                free_slice_ms=free,
                dark_slice_ms=dark,
                installed_slice_ms=installed,
            )
        )
    order = list(FreeKind)
    return tuple(sorted(rows, key=lambda row: (order.index(row.kind), -row.free_slice_ms, row.site, row.node)))


def _holders(holdings: Iterable[Holding], nodes: Iterable[NodeTime]) -> tuple[tuple[Holder, ...], int]:
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
    total = sum(node.slice_ms(State.HELD) for node in nodes)
    return tuple(rows), total - sum(row.held_slice_ms for row in rows)


def _reserved_nodes(nodes: Iterable[NodeTime]) -> tuple[ReservedNode, ...]:
    rows = [
        ReservedNode(
            site=node.site,
            node=node.node,
            gpus=node.gpus,
            reserved_slice_ms=node.slice_ms(State.RESERVED),
            installed_slice_ms=node.installed_slice_ms,
        )
        for node in nodes
        if node.slice_ms(State.RESERVED) > 0
    ]
    return tuple(sorted(rows, key=lambda row: (-row.reserved_slice_ms, row.site, row.node)))


def _dark_nodes(nodes: Iterable[NodeTime]) -> tuple[DarkNode, ...]:
    rows = [
        DarkNode(
            site=node.site,
            node=node.node,
            gpus=node.gpus,
            dark_slice_ms=node.slice_ms(State.DARK),
            installed_slice_ms=node.installed_slice_ms,
            first_dark_hour_ms=node.first_dark_hour_ms,
            last_seen_hour_ms=node.last_seen_hour_ms,
            dark_since_ms=_dark_since(node),
        )
        for node in nodes
        if node.first_dark_hour_ms is not None
    ]
    return tuple(sorted(rows, key=lambda row: (-row.dark_slice_ms, row.site, row.node)))


def _dark_since(node: NodeTime) -> int | None:
    if node.last_seen_hour_ms is None:
        return node.first_hour_ms
    return None if node.last_seen_hour_ms == node.last_hour_ms else node.last_seen_hour_ms + HOUR_MS
