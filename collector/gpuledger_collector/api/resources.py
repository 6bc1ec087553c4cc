# SPDX-License-Identifier: Apache-2.0
"""What is published, as records of the interface. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from gpuledger import __version__, accounting
from gpuledger.accounting import Account
from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.states import OUT, UNKNOWN, State
from gpuledger_collector import ledger, published
from gpuledger_collector.api.records import (
    SCHEMA,
    Agents,
    Bounds,
    Figures,
    Finding,
    Fleet,
    Gpu,
    GpuFigures,
    Holder,
    IdleBlock,
    LiveGpu,
    Node,
    NotSchedulable,
    Place,
    Quotient,
    Site,
    Source,
    Span,
    Trouble,
    User,
    Verdict,
    Withheld,
    Workload,
    WorkloadPart,
)
from gpuledger_collector.live import LiveGpu as Live
from gpuledger_collector.overview import GpuView, NodeView, Sums
from gpuledger_collector.published import Published, WorkloadUse

TROUBLES_MAX = 100
PARTS_MAX = 100


def fleet(state: Published) -> Fleet:
    """Return the whole fleet."""
    view = state.view
    troubles = tuple(Trouble(agent=agent, text=text) for agent, text in view.troubles.items())
    return Fleet(
        schema=SCHEMA,
        version=__version__,
        simulated=view.simulated,
        prepared_ms=view.now_ms,
        refreshed_ms=view.refreshed_ms,
        period=period(state),
        settled_cell=None if view.cell_ms is None else Span(start_ms=view.cell_ms, end_ms=view.cell_ms + CELL_MS),
        total=figures(view.total),
        sites=len(view.sites),
        nodes=len(view.nodes),
        gpus_now=_by_state(view.states_now),
        free_whole_nodes=len(view.free_nodes),
        agents=Agents(
            configured=view.targets,
            up=view.targets_up,
            troubles=troubles[:TROUBLES_MAX],
            troubles_left_off=max(0, len(troubles) - TROUBLES_MAX),
        ),
        findings=len(view.ledger.findings),
    )


def period(state: Published) -> Span | None:
    """Return what the figures cover."""
    start_ms, end_ms = state.view.ledger.start_ms, state.view.ledger.end_ms
    return None if start_ms is None or end_ms is None else Span(start_ms=start_ms, end_ms=end_ms)


def sites(state: Published) -> tuple[Site, ...]:
    """Return all sites in the order of their names."""
    nodes, free = state.nodes_by_site, Counter(node.site for node in state.view.free_nodes)
    return tuple(
        Site(site=site, nodes=nodes.get(site, 0), free_whole_nodes=free[site], figures=figures(sums))
        for site, sums in state.view.sites.items()
    )


def places(state: Published) -> tuple[Place, ...]:
    """Return all pairs of site and model in their order."""
    return tuple(
        Place(site=place.site, model=place.model or None, figures=figures(sums))
        for place, sums in state.view.ledger.places.items()
    )


def node(state: Published, view: NodeView) -> Node:
    """Return one node."""
    sums = state.view.ledger.nodes.get(view.node)
    return Node(
        node=view.node,
        site=view.site,
        cluster=view.cluster,
        pool=view.pool,
        rack=view.rack,
        agent=view.target,
        trouble=view.trouble,
        answered_ms=view.answered_ms,
        sealed_ms=view.sealed_ms,
        free_since_ms=state.free_since_ms.get(view.node),
        not_schedulable=_closed(state, view.node),
        gpus=len(view.gpus),
        gpus_now=_by_state(Counter(gpu.state for gpu in view.gpus)),
        figures=None if sums is None else figures(sums),
    )


def gpus(state: Published, found: Iterable[tuple[NodeView, GpuView]]) -> tuple[Gpu, ...]:
    """Return GPUs with their accounts, which are looked up together."""
    pairs = tuple(found)
    accounts = state.view.ledger.gpus.of(gpu.gpu for _, gpu in pairs)
    return tuple(_gpu(place, gpu, accounts.get(gpu.gpu)) for place, gpu in pairs)


def _gpu(place: NodeView, gpu: GpuView, account: Account | None) -> Gpu:
    return Gpu(
        gpu=gpu.gpu,
        model=gpu.model or None,
        node=place.node,
        site=place.site,
        cluster=place.cluster,
        pool=place.pool,
        state=gpu.state,
        source=Source(gpu.origin.value),
        rostered=gpu.is_rostered,
        live=None if gpu.live is None else _live(gpu.live, gpu.holders),
        figures=None if account is None else _gpu_figures(account),
    )


def _live(live: Live, names: tuple[str | None, ...]) -> LiveGpu:
    return LiveGpu(
        reason=live.reason,
        since_ms=live.since_ms,
        since_is_exact=live.is_since_exact,
        activity_ppm=live.activity_ppm,
        memory_used_bytes=live.memory_used_bytes,
        power_mw=live.power_mw,
        holders=tuple(Holder(workload=digest, name=name) for digest, name in zip(live.holders, names, strict=True)),
    )


def _closed(state: Published, node: str) -> NotSchedulable | None:
    found = state.not_schedulable.get(node)
    if found is None:
        return None
    return NotSchedulable(why=found.why, reason=found.reason, by=found.by_name, since_ms=found.since_ms)


def idle_block(state: Published, block: published.IdleBlock) -> IdleBlock:
    """Return one idle block."""
    return IdleBlock(
        site=block.site,
        cluster=block.cluster,
        pool=block.pool,
        node=block.node,
        state=block.state,
        gpus=block.gpus,
        models=tuple(model for model in block.models if model),
        whole=block.is_whole,
        since_ms=block.since_ms,
        since_is_exact=block.is_since_exact,
        not_schedulable=_closed(state, block.node),
    )


def workload(use: WorkloadUse) -> Workload:
    """Return one workload."""
    return Workload(
        workload=use.workload,
        name=use.name,
        users=tuple(User(user=user, name=name) for user, name in use.users),
        nodes=len({part.node for part in use.parts}),
        gpus=use.gpus,
        busy_slice_ms=use.busy_slice_ms,
        held_slice_ms=use.held_slice_ms,
        first_hour_ms=use.first_hour_ms,
        last_hour_ms=use.last_hour_ms,
        verdict=None
        if use.verdict is None
        else Verdict(
            workload=use.verdict.workload,
            kind=use.verdict.kind,
            sentence=use.verdict.sentence,
            evidence=use.verdict.evidence,
        ),
        parts=tuple(
            WorkloadPart(
                node=part.node,
                site=part.site,
                gpus=part.gpus,
                busy_slice_ms=part.busy_slice_ms,
                held_slice_ms=part.held_slice_ms,
                memory_bytes_max=part.memory_bytes_max,
                first_hour_ms=part.first_hour_ms,
                last_hour_ms=part.last_hour_ms,
            )
            for part in use.parts[:PARTS_MAX]
        ),
    )


def finding(found: ledger.Finding) -> Finding:
    """Return one finding."""
    return Finding(at_ms=found.at_ms, kind=found.kind, subject=found.subject, text=found.text)


# ------------------------------------------------------------------------------------------------ figures


def figures(sums: Sums) -> Figures:
    """Return one account's figures; busy is null where too little was measured to call anything busy."""
    account = sums.account
    installed = account.installed_slice_ms
    words = (
        (Withheld.OCCUPANCY, sums.may_say_occupancy),
        (Withheld.USED, sums.may_say_busy),
        (Withheld.BUSY, sums.may_say_busy),
    )
    return Figures(
        gpus=sums.gpus,
        installed_slice_ms=installed,
        state_slice_ms=_times(account),
        idle=_bounds(account.idle),
        busy=_bounds(account.busy) if sums.may_say_busy else None,
        coverage=_coverage(account),
        measured=_quotient(installed - account.slice_ms(*UNKNOWN), installed),
        out=_quotient(account.slice_ms(*OUT), installed),
        declared_uncovered=_quotient(account.declared_uncovered_slice_ms, installed),
        engine_active=None
        if account.active_ns is None
        else _quotient(account.active_ns * SLICES_PER_GPU, installed * 1_000_000),
        withheld=tuple(word for word, may_say in words if not may_say),
    )


def _gpu_figures(account: Account) -> GpuFigures:
    return GpuFigures(
        installed_slice_ms=account.installed_slice_ms,
        state_slice_ms=_times(account),
        idle=_bounds(account.idle),
        busy=_bounds(account.busy) if Sums(account=account, gpus=1).may_say_busy else None,
        coverage=_coverage(account),
    )


def _times(account: Account) -> Mapping[State, int]:
    return {state: amount for state in State if (amount := account.slice_ms(state)) > 0}


def _by_state(counts: Mapping[State, int]) -> Mapping[State, int]:
    return {state: counts[state] for state in State if counts.get(state)}


def _coverage(account: Account) -> Quotient | None:
    observable = account.installed_slice_ms - account.declared_uncovered_slice_ms
    return _quotient(observable - account.slice_ms(State.DARK), observable)


def _quotient(numerator: int, denominator: int) -> Quotient | None:
    return None if denominator == 0 else Quotient(numerator=numerator, denominator=denominator)


def _bounds(bounds: accounting.Bounds | None) -> Bounds | None:
    if bounds is None:
        return None
    return Bounds(
        low_numerator=bounds.low_slice_ms,
        high_numerator=bounds.high_slice_ms,
        denominator=bounds.installed_slice_ms,
    )
