# SPDX-License-Identifier: Apache-2.0
"""The fleet at a glance: the one model that both the page and the JSON interface show. Pure.

Figures come from the ledger alone. What agents say about this moment only colours the grid of GPUs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache

from gpuledger.accounting import COVERAGE_FLOOR, Account, add
from gpuledger.cells import DAY_MS, HOUR_MS, ceil_to, floor_to
from gpuledger.states import State
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.figures import FleetReader, GpuAccounts, Group, Holding, LedgerReader, NotSchedulable
from gpuledger_collector.fleet import Fleet, GpuCell, Place, free_since
from gpuledger_collector.gpu_columns import GpuColumns
from gpuledger_collector.ledger import Finding
from gpuledger_collector.live import LiveGpu, LiveNode
from gpuledger_collector.workload_verdicts import ToldVerdict

PERIOD_MS = DAY_MS
FREE_LOOKBACK_MS = 7 * DAY_MS
HOLDINGS_MAX = 100_000
"""Shares of workloads in nodes that are shown; those with the most held time come first."""
NAMES_KEPT_MAX = 1 << 16
SILENT_AFTER_MS = 90_000
"""An agent that has not answered for so long says nothing about now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """The account of some GPUs over the period."""

    account: Account
    gpus: int

    @property
    def may_say_occupancy(self) -> bool:
        coverage = self.account.coverage
        return coverage is not None and coverage >= COVERAGE_FLOOR

    @property
    def may_say_busy(self) -> bool:
        measured = self.account.measured
        return measured is not None and measured >= COVERAGE_FLOOR


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFigures:
    """What was read from the ledger at its last refresh; `start_ms` and `end_ms` are None while it is empty."""

    start_ms: int | None = None
    end_ms: int | None = None
    places: Mapping[Place, Sums] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    """Those of the period, newest first."""
    findings_by_kind: Mapping[str, int] = field(default_factory=dict)
    """Those of the whole ledger."""
    simulated: bool = False
    nodes: Mapping[str, Sums] = field(default_factory=dict)
    hours: Mapping[tuple[str, int], Sums] = field(default_factory=dict)
    """By site and start of the hour."""
    gpus: GpuAccounts = field(default_factory=GpuColumns)
    holdings: tuple[Holding, ...] = ()
    """Largest held time first, at most HOLDINGS_MAX."""
    holdings_left_off: int = 0
    not_schedulable: tuple[NotSchedulable, ...] = ()
    """Nodes that took no new work at some time of the period."""
    verdicts: Mapping[str, ToldVerdict] = field(default_factory=dict)
    """On the largest workloads, by digest."""


def read_ledger(reader: FleetReader) -> LedgerFigures:
    """Return the figures of the last 24 hours that the ledger has, the running hour included."""
    extent = reader.extent()
    if extent is None:
        return LedgerFigures()
    first_ms, end_ms = extent
    edge_ms = ceil_to(end_ms, HOUR_MS)
    start_ms = max(edge_ms - PERIOD_MS, first_ms)
    groups = reader.sum_by(("site", "model"), edge_ms - PERIOD_MS, edge_ms)
    findings = reader.findings(floor_to(first_ms, HOUR_MS), edge_ms)
    recent = [found for found in findings if found.at_ms >= edge_ms - PERIOD_MS]
    places = {Place(str(group.key[0]), str(group.key[1])): group for group in groups}
    nodes = {str(group.key[0]): _sums(group) for group in reader.sum_by(("node",), edge_ms - PERIOD_MS, edge_ms)}
    by_hour = reader.sum_by(("site", "hour_ms"), edge_ms - PERIOD_MS, edge_ms)
    holdings = reader.holdings(edge_ms - PERIOD_MS, edge_ms)
    return LedgerFigures(
        start_ms=start_ms,
        end_ms=end_ms,
        places={place: _sums(group) for place, group in sorted(places.items())},
        findings=tuple(sorted(recent, key=finding_key)),
        findings_by_kind=Counter(found.kind for found in findings),
        simulated=any(group.simulated for group in groups),
        nodes=nodes,
        hours={(str(group.key[0]), int(group.key[1])): _sums(group) for group in by_hour},
        gpus=reader.gpu_accounts(edge_ms - PERIOD_MS, edge_ms),
        holdings=tuple(holdings[:HOLDINGS_MAX]),
        holdings_left_off=max(0, len(holdings) - HOLDINGS_MAX),
        not_schedulable=tuple(reader.not_schedulable(edge_ms - PERIOD_MS, edge_ms)),
    )


def finding_key(finding: Finding) -> tuple[int, str, str, str]:
    """Return the order of findings: newest first."""
    return -finding.at_ms, finding.kind, finding.subject, finding.text


def _sums(group: Group) -> Sums:
    return Sums(account=group.account, gpus=group.gpus)


def read_free_since(reader: LedgerReader) -> tuple[dict[str, int], int | None]:
    """Return since when nodes have been free up to the end of the ledger, to the hour, and how far was looked back.

    Asked once at the start; from then on the settled cells tell.
    """
    extent = reader.extent()
    if extent is None:
        return {}, None
    edge_ms = ceil_to(extent[1], HOUR_MS)
    first_ms = max(edge_ms - FREE_LOOKBACK_MS, floor_to(extent[0], HOUR_MS))
    return free_since(reader.sum_by(("node", "hour_ms"), first_ms, edge_ms), extent[1]), first_ms


class Origin(str, Enum):
    """Where the state shown for a GPU comes from."""

    LIVE = "live"
    """The agent's last answer."""
    DECLARED = "declared"
    """Nobody observes it, and that was declared."""
    NOBODY = "nobody"
    """Nobody observes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One GPU at this moment."""

    gpu: str
    state: State
    origin: Origin
    model: str = ""
    """Empty where nobody named it."""
    live: LiveGpu | None = None
    is_rostered: bool = True
    holders: tuple[str | None, ...] = ()
    """Names of what holds it, in the order of the live digests; None where nobody opened the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node at this moment.

    `answers` tells whether its agent answered when last asked, `answered_ms` when it last did, `behind_ms` how far its
    clock was behind ours then, and `sealed_ms` is the end of its newest reading.
    """

    node: str
    site: str
    cluster: str
    pool: str
    gpus: tuple[GpuView, ...]
    answers: bool
    answered_ms: int | None
    behind_ms: int
    sealed_ms: int | None
    target: str | None
    trouble: str | None
    rack: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeNode:
    """A node whose GPUs were all free for the whole of the last settled cell, and since when they are."""

    node: str
    site: str
    pool: str
    gpus: int
    since_ms: int
    is_since_exact: bool
    """False where nobody looked further back: it may be free for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything the page shows; times are POSIX milliseconds."""

    now_ms: int
    simulated: bool
    ledger: LedgerFigures
    total: Sums
    sites: Mapping[str, Sums]
    cell_ms: int | None
    nodes: tuple[NodeView, ...]
    states_now: Mapping[State, int]
    free_nodes: tuple[FreeNode, ...]
    troubles: Mapping[str, str]
    targets: int
    targets_up: int
    refreshed_ms: int | None


def overview(
    *,
    now_ms: int,
    simulated: bool,
    ledger: LedgerFigures,
    fleet: Fleet,
    live: Sequence[LiveNode],
    poll: PollFigures,
    sealed_ms: Mapping[str, int],
    names: Mapping[str, str],
    refreshed_ms: int | None,
) -> Overview:
    """Return the fleet at a glance.

    `simulated` tells of readings ever taken in, and any other sign adds to it; `sealed_ms` is the end of the newest
    reading by node, `names` what digests of names open to.
    """
    nodes = _nodes(now_ms, fleet, live, poll, sealed_ms)
    nodes = tuple(replace(node, gpus=tuple(_named(gpu, names) for gpu in node.gpus)) for node in nodes)
    sites: dict[str, list[Sums]] = {}
    for place, sums in ledger.places.items():
        sites.setdefault(place.site, []).append(sums)
    return Overview(
        now_ms=now_ms,
        simulated=simulated or ledger.simulated or any(node.simulated for node in live),
        ledger=ledger,
        total=add_sums(ledger.places.values()),
        sites={site: add_sums(parts) for site, parts in sorted(sites.items())},
        cell_ms=None if fleet.cell is None else fleet.cell.cell_ms,
        nodes=nodes,
        states_now=Counter(gpu.state for node in nodes for gpu in node.gpus if gpu.is_rostered),
        free_nodes=_free_nodes(fleet),
        troubles=dict(sorted(poll.troubles.items())),
        targets=poll.targets,
        targets_up=sum(poll.up.values()),
        refreshed_ms=refreshed_ms,
    )


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Return the account of all of them."""
    found = list(parts)
    return Sums(account=add([part.account for part in found]), gpus=sum(part.gpus for part in found))


@lru_cache(NAMES_KEPT_MAX)
def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts node-9 before node-10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def _nodes(
    now_ms: int, fleet: Fleet, live: Sequence[LiveNode], poll: PollFigures, sealed_ms: Mapping[str, int]
) -> tuple[NodeView, ...]:
    answers: dict[str, LiveNode] = {}
    for answer in sorted(live, key=lambda a: a.seen_ms):
        answers[answer.node] = answer
    installed: dict[str, list[GpuCell]] = {}
    for gpu in () if fleet.cell is None else fleet.cell.gpus:
        installed.setdefault(gpu.entry.node, []).append(gpu)
    views = []
    for name in installed.keys() | answers.keys():
        found = answers.get(name)
        target = None if found is None else found.target.url
        views.append(
            _node(name, installed.get(name, []), found, now_ms, sealed_ms.get(name), poll.troubles.get(target or ""))
        )
    return tuple(sorted(views, key=lambda view: (view.site, natural(view.node), view.node)))


def _node(
    name: str, cells: Sequence[GpuCell], found: LiveNode | None, now_ms: int, sealed_ms: int | None, trouble: str | None
) -> NodeView:
    answers = found is not None and trouble is None and now_ms - found.seen_ms <= SILENT_AFTER_MS
    speaks = answers and found is not None and found.is_measuring(now_ms)
    said = {gpu.uuid: gpu for gpu in found.gpus} if found is not None and speaks else {}
    order = {uuid: position for position, uuid in enumerate(said)}
    gpus = [_gpu(cell, said.get(cell.uuid or "")) for cell in cells]
    known = {cell.uuid for cell in cells}
    # Before the first cell is settled nothing is installed as far as is known here, so nothing is a stranger either.
    is_known = not cells
    gpus += [_live_view(gpu.uuid, gpu, is_rostered=is_known) for gpu in said.values() if gpu.uuid not in known]
    gpus.sort(key=lambda view: (order.get(view.live.uuid, 0) if view.live is not None else len(order), view.gpu))
    place = cells[0].entry if cells else (None if found is None else found.target)
    return NodeView(
        node=name,
        site="" if place is None else place.site,
        cluster="" if place is None else place.cluster,
        pool="" if place is None else place.pool,
        gpus=tuple(gpus),
        answers=answers,
        answered_ms=None if found is None else found.seen_ms,
        behind_ms=0 if found is None else found.behind_ms,
        sealed_ms=sealed_ms,
        target=None if found is None else found.target.url,
        trouble=trouble,
        rack=None if found is None else found.target.rack,
    )


def _named(gpu: GpuView, names: Mapping[str, str]) -> GpuView:
    if gpu.live is None or not gpu.live.holders:
        return gpu
    return replace(gpu, holders=tuple(names.get(digest) for digest in gpu.live.holders))


def _gpu(cell: GpuCell, said: LiveGpu | None) -> GpuView:
    if said is not None:
        return _live_view(cell.entry.gpu, said, is_rostered=True, model=cell.model)
    if cell.state in {State.STANDBY, State.MAINTENANCE}:
        return GpuView(gpu=cell.entry.gpu, state=cell.state, origin=Origin.DECLARED, model=cell.model)
    return GpuView(gpu=cell.entry.gpu, state=State.DARK, origin=Origin.NOBODY, model=cell.model)


def _live_view(gpu: str, said: LiveGpu, *, is_rostered: bool, model: str = "") -> GpuView:
    state = State.DARK if said.state is None else said.state
    return GpuView(gpu=gpu, state=state, origin=Origin.LIVE, model=model, live=said, is_rostered=is_rostered)


def _free_nodes(fleet: Fleet) -> tuple[FreeNode, ...]:
    """Return the free whole nodes, longest free first."""
    if fleet.cell is None:
        return ()
    counts = Counter(gpu.entry.node for gpu in fleet.cell.gpus)
    entries = {gpu.entry.node: gpu.entry for gpu in fleet.cell.gpus}
    nodes = [
        FreeNode(
            node=node,
            site=entries[node].site,
            pool=entries[node].pool,
            gpus=counts[node],
            since_ms=since_ms,
            is_since_exact=fleet.looked_back_to_ms is not None and since_ms > fleet.looked_back_to_ms,
        )
        for node, since_ms in fleet.free_since_ms.items()
    ]
    return tuple(sorted(nodes, key=lambda free: (free.since_ms, free.site, natural(free.node))))
