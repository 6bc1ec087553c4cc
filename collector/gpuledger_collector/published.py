# SPDX-License-Identifier: Apache-2.0
"""What requests are answered from: the last overview, with what lists need worked out before anybody asks. Pure.

A request looks here and nowhere else. Idle blocks change when a cell is settled and workloads when the ledger was read,
so both are made then, and not again for every overview.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gpuledger.cells import CELL_MS, HOUR_MS, floor_to
from gpuledger.states import State
from gpuledger_collector.figures import Holding, NotSchedulable
from gpuledger_collector.fleet import Fleet, GpuCell, idle_throughout
from gpuledger_collector.overview import LedgerFigures, NodeView, Overview, Sums, add_sums, natural
from gpuledger_collector.workload_verdicts import ToldVerdict

Natural = tuple[tuple[int, int, str], ...]


class NodeKey(NamedTuple):
    """The order of nodes everywhere: by site, then node-9 before node-10."""

    site: str
    natural: Natural
    node: str


def node_key(site: str, node: str) -> NodeKey:
    """Return where a node stands in that order."""
    return NodeKey(site, natural(node), node)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleBlock:
    """GPUs of one node that were in the same idle state for the whole of the last settled cell.

    All of them have been so since `since_ms`; `is_since_exact` is False where nobody looked further back. A block is
    whole where the node has no other GPU.
    """

    site: str
    cluster: str
    pool: str
    node: str
    state: State
    gpus: tuple[str, ...]
    models: tuple[str, ...]
    of_gpus: int
    since_ms: int
    is_since_exact: bool

    @property
    def is_whole(self) -> bool:
        return len(self.gpus) == self.of_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadUse:
    """What one workload had over the period; `parts` has its share in each node, most held time first."""

    workload: str
    name: str | None
    users: tuple[tuple[str, str | None], ...]
    """Digest and, where it is open, name of each."""
    busy_slice_ms: int
    held_slice_ms: int
    first_hour_ms: int
    last_hour_ms: int
    parts: tuple[Holding, ...]
    verdict: ToldVerdict | None = None
    """What it is taken for; None where nobody has judged it, or it is not among the largest."""

    @property
    def gpus(self) -> int:
        """Return how many GPUs it had, each counted once for each of its users."""
        return sum(part.gpus for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One moment of the fleet, whole; replaced by the next, never changed."""

    view: Overview
    node_keys: tuple[NodeKey, ...] = ()
    """Of `view.nodes`, in the same order, which is ascending."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """Where each node stands in `view.nodes`."""
    nodes_of_gpus: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[IdleBlock, ...] = ()
    """In the order of their nodes, then of the states."""
    workloads: tuple[WorkloadUse, ...] = ()
    """In the order of their digests."""
    places_of_workloads: Mapping[str, int] = field(default_factory=dict)
    """Where each workload stands in `workloads`."""
    workloads_of_nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nodes_by_site: Mapping[str, int] = field(default_factory=dict)
    """How many nodes each site has."""
    free_since_ms: Mapping[str, int] = field(default_factory=dict)
    """Since when the free whole nodes are."""
    longest_idle: tuple[IdleBlock, ...] = ()
    """The blocks again, longest idle first."""
    blocks_of_nodes: Mapping[str, tuple[IdleBlock, ...]] = field(default_factory=dict)
    most_held: tuple[WorkloadUse, ...] = ()
    """The workloads again, most held time first."""
    fleet_hours: Mapping[int, Sums] = field(default_factory=dict)
    not_schedulable: Mapping[str, NotSchedulable] = field(default_factory=dict)
    """Nodes that took no new work in the last hour, as their scheduler said."""

    def node(self, name: str) -> NodeView | None:
        position = self.nodes.get(name)
        return None if position is None else self.view.nodes[position]

    def workload(self, digest: str) -> WorkloadUse | None:
        position = self.places_of_workloads.get(digest)
        return None if position is None else self.workloads[position]

    def nodes_of_site(self, site: str) -> tuple[NodeView, ...]:
        first = bisect_left(self.node_keys, site, key=lambda key: key.site)
        return self.view.nodes[first : bisect_right(self.node_keys, site, key=lambda key: key.site)]

    def hours(self, site: str | None) -> Mapping[int, Sums]:
        """Return the hours of the period, of one site or of all."""
        if site is None:
            return self.fleet_hours
        return {hour_ms: sums for (name, hour_ms), sums in self.view.ledger.hours.items() if name == site}

    @property
    def cell_end_ms(self) -> int | None:
        return None if self.view.cell_ms is None else self.view.cell_ms + CELL_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfCell:
    """What is made of a settled cell."""

    blocks: tuple[IdleBlock, ...] = ()
    longest: tuple[IdleBlock, ...] = ()
    of_nodes: Mapping[str, tuple[IdleBlock, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfLedger:
    """What is made of the ledger as it was read."""

    workloads: tuple[WorkloadUse, ...] = ()
    most_held: tuple[WorkloadUse, ...] = ()
    of_nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hours: Mapping[int, Sums] = field(default_factory=dict)
    not_schedulable: Mapping[str, NotSchedulable] = field(default_factory=dict)


class Publisher:
    """Makes what is published, keeping what did not change since the last time."""

    def __init__(self) -> None:
        self._fleet, self._of_cell = Fleet(), _OfCell()
        self._ledger, self._of_ledger = LedgerFigures(), _OfLedger()

    def publish(self, view: Overview, fleet: Fleet) -> Published:
        """Return what is made of an overview and the fleet that it shows."""
        if fleet is not self._fleet:
            self._fleet, self._of_cell = fleet, _of_cell(fleet)
        if view.ledger is not self._ledger:
            self._ledger, self._of_ledger = view.ledger, _of_ledger(view.ledger)
        workloads = self._of_ledger.workloads
        return Published(
            view=view,
            node_keys=tuple(node_key(node.site, node.node) for node in view.nodes),
            nodes={node.node: position for position, node in enumerate(view.nodes)},
            nodes_of_gpus={gpu.gpu: node.node for node in view.nodes for gpu in node.gpus},
            blocks=self._of_cell.blocks,
            longest_idle=self._of_cell.longest,
            blocks_of_nodes=self._of_cell.of_nodes,
            workloads=workloads,
            most_held=self._of_ledger.most_held,
            places_of_workloads={use.workload: position for position, use in enumerate(workloads)},
            workloads_of_nodes=self._of_ledger.of_nodes,
            fleet_hours=self._of_ledger.hours,
            not_schedulable=self._of_ledger.not_schedulable,
            nodes_by_site=Counter(node.site for node in view.nodes),
            free_since_ms={free.node: free.since_ms for free in view.free_nodes},
        )


def _of_cell(fleet: Fleet) -> _OfCell:
    blocks = idle_blocks(fleet)
    of_nodes: dict[str, tuple[IdleBlock, ...]] = {}
    for block in blocks:
        of_nodes[block.node] = (*of_nodes.get(block.node, ()), block)
    longest = sorted(blocks, key=lambda block: (block.since_ms, -len(block.gpus)))
    return _OfCell(blocks=blocks, longest=tuple(longest), of_nodes=of_nodes)


def _of_ledger(ledger: LedgerFigures) -> _OfLedger:
    uses = workload_uses(ledger.holdings, ledger.verdicts)
    hours: dict[int, list[Sums]] = {}
    for (_, hour_ms), sums in ledger.hours.items():
        hours.setdefault(hour_ms, []).append(sums)
    return _OfLedger(
        workloads=uses,
        most_held=tuple(sorted(uses, key=lambda use: (-use.held_slice_ms, -use.busy_slice_ms, use.workload))),
        of_nodes=_workloads_of_nodes(ledger.holdings),
        hours={hour_ms: add_sums(parts) for hour_ms, parts in hours.items()},
        not_schedulable={
            closed.node: closed
            for closed in ledger.not_schedulable
            if ledger.end_ms is not None and closed.last_hour_ms == floor_to(ledger.end_ms - 1, HOUR_MS)
        },
    )


def idle_blocks(fleet: Fleet) -> tuple[IdleBlock, ...]:
    """Return the blocks of the last settled cell, in the order of their nodes, then of the states."""
    if fleet.cell is None:
        return ()
    nodes: dict[str, list[GpuCell]] = {}
    for gpu in fleet.cell.gpus:
        nodes.setdefault(gpu.entry.node, []).append(gpu)
    found = []
    for node, members in nodes.items():
        states: dict[State, list[GpuCell]] = {}
        for gpu in members:
            state = idle_throughout(gpu.account)
            if state is not None:
                states.setdefault(state, []).append(gpu)
        found += [_block(fleet, node, state, gpus, len(members)) for state, gpus in states.items()]
    return tuple(sorted(found, key=block_key))


STATE_ORDER = {state: position for position, state in enumerate(State)}


def block_key(block: IdleBlock) -> tuple[NodeKey, int]:
    """Return where a block stands in the order of blocks."""
    return node_key(block.site, block.node), STATE_ORDER[block.state]


def _block(fleet: Fleet, node: str, state: State, gpus: Sequence[GpuCell], of_gpus: int) -> IdleBlock:
    entry = gpus[0].entry
    since_ms = max(fleet.idle_since_ms[gpu.entry.gpu] for gpu in gpus)
    watched_from_ms = fleet.watched_from_ms
    if state is State.FREE and node in fleet.free_since_ms and fleet.free_since_ms[node] < since_ms:
        # The ledger tells of whole free nodes from before this run.
        since_ms, watched_from_ms = fleet.free_since_ms[node], fleet.looked_back_to_ms
    return IdleBlock(
        site=entry.site,
        cluster=entry.cluster,
        pool=entry.pool,
        node=node,
        state=state,
        gpus=tuple(sorted(gpu.entry.gpu for gpu in gpus)),
        models=tuple(sorted({gpu.model for gpu in gpus})),
        of_gpus=of_gpus,
        since_ms=since_ms,
        is_since_exact=watched_from_ms is not None and since_ms > watched_from_ms,
    )


def workload_uses(
    holdings: Iterable[Holding], verdicts: Mapping[str, ToldVerdict] | None = None
) -> tuple[WorkloadUse, ...]:
    """Return the holdings by workload, in the order of their digests."""
    found: dict[str, list[Holding]] = {}
    for holding in holdings:
        found.setdefault(holding.workload, []).append(holding)
    told = {} if verdicts is None else verdicts
    return tuple(_use(workload, found[workload], told.get(workload)) for workload in sorted(found))


def _use(workload: str, parts: Sequence[Holding], verdict: ToldVerdict | None) -> WorkloadUse:
    users = {part.user: part.user_name for part in parts if part.user is not None}
    return WorkloadUse(
        workload=workload,
        name=next((part.workload_name for part in parts if part.workload_name is not None), None),
        users=tuple(sorted(users.items())),
        busy_slice_ms=sum(part.busy_slice_ms for part in parts),
        held_slice_ms=sum(part.held_slice_ms for part in parts),
        first_hour_ms=min(part.first_hour_ms for part in parts),
        last_hour_ms=max(part.last_hour_ms for part in parts),
        verdict=verdict,
        parts=tuple(sorted(parts, key=lambda part: (-part.held_slice_ms, -part.busy_slice_ms, part.site, part.node))),
    )


def _workloads_of_nodes(holdings: Iterable[Holding]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for holding in holdings:
        found.setdefault(holding.node, {})[holding.workload] = None
    return {node: tuple(workloads) for node, workloads in found.items()}
