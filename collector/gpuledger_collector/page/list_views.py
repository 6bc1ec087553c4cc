# SPDX-License-Identifier: Apache-2.0
"""Idle blocks, workloads, and how good the data is: tables of the whole fleet, a page at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gpuledger.states import IDLE, State
from gpuledger_collector import wording
from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.overview import NodeView, Origin, natural
from gpuledger_collector.page import links
from gpuledger_collector.page.fleet_views import FLEET
from gpuledger_collector.page.grid import note
from gpuledger_collector.page.links import Column, choice
from gpuledger_collector.page.missing import not_found
from gpuledger_collector.page.rendering import page
from gpuledger_collector.published import STATE_ORDER, IdleBlock, Published, WorkloadUse
from gpuledger_collector.report.names import opened_or_digest
from gpuledger_collector.selection import Selection
from gpuledger_collector.workload_verdicts import VERDICTS_MAX

TROUBLES_MAX = 100
PARTS_MAX = 200

_BLOCKS: tuple[Column[IdleBlock], ...] = (
    Column(name="node", title="Node", key=lambda one: natural(one.node)),
    Column(name="site", title="Site", key=lambda one: natural(one.site)),
    Column(name="state", title="State", key=lambda one: STATE_ORDER[one.state]),
    Column(
        name="gpus", title="GPUs", key=lambda one: (len(one.gpus), one.is_whole), is_number=True, is_down_first=True
    ),
    Column(name="since", title="Idle for", key=lambda one: one.since_ms, is_number=True),
)


def idle(state: Published, asked: Asked) -> Document:
    """Return the idle blocks, longest idle first."""
    kept = {name: choice(asked, name) for name in ("site", "pool", "model", "state", "whole")}
    wanted = Selection(
        site=kept["site"] or None,
        pool=kept["pool"] or None,
        model=kept["model"] or None,
        state=State(kept["state"]) if kept["state"] in set(IDLE) else None,
    )
    is_whole = kept["whole"] == "yes"
    blocks = [block for block in state.longest_idle if wanted.takes_block(block) and (block.is_whole or not is_whole)]
    counts: Counter[State] = Counter()
    for block in state.blocks:
        counts[block.state] += len(block.gpus)
    return page(
        "idle.html.j2",
        state,
        asked,
        title="Idle now",
        crumbs=(FLEET,),
        blocks=links.table("/idle", asked, blocks, _BLOCKS, kept),
        gpus=sum(len(block.gpus) for block in blocks),
        counts=[(one, counts[one]) for one in State if counts[one]],
        kept=kept,
        states=[one for one in State if one in IDLE],
        options={
            "site": sorted({block.site for block in state.blocks}),
            "pool": sorted({block.pool for block in state.blocks}),
            "model": sorted({model for block in state.blocks for model in block.models if model}),
        },
    )


_WORKLOADS: tuple[Column[WorkloadUse], ...] = (
    Column(name="name", title="Workload", key=lambda one: opened_or_digest(one.name, one.workload)),
    Column(name="user", title="User", key=lambda one: [opened_or_digest(name, user) for user, name in one.users]),
    Column(name="kind", title="What for", key=lambda one: "~" if one.verdict is None else one.verdict.kind.value),
    Column(name="gpus", title="GPUs", key=lambda one: one.gpus, is_number=True, is_down_first=True),
    Column(name="busy", title="Busy", key=lambda one: one.busy_slice_ms, is_number=True, is_down_first=True),
    Column(name="held", title="Held, unused", key=lambda one: one.held_slice_ms, is_number=True, is_down_first=True),
    Column(name="last", title="Last hour", key=lambda one: one.last_hour_ms, is_number=True),
)


def workloads(state: Published, asked: Asked) -> Document:
    """Return who had GPUs, most held time first."""
    name = choice(asked, "q").strip().lower()
    uses = [use for use in state.most_held if not name or _is_called(use, name)]
    return page(
        "workloads.html.j2",
        state,
        asked,
        title="Workloads",
        crumbs=(FLEET,),
        uses=links.table("/workloads", asked, uses, _WORKLOADS, {"q": choice(asked, "q")}),
        wanted=choice(asked, "q"),
    )


def _is_called(use: WorkloadUse, text: str) -> bool:
    names = [use.workload, use.name, *(part for user in use.users for part in user)]
    return any(text in name.lower() for name in names if name is not None)


def workload(state: Published, asked: Asked) -> Document:
    """Return one workload with its share of each node."""
    digest = asked.path["workload"]
    use = state.workload(digest)
    if use is None:
        return not_found(state, asked, f"No workload {digest!r} had a GPU in the last 24 hours.")
    places = {part.node for part in use.parts}
    now = [
        (place, gpu)
        for place in map(state.node, sorted(places, key=natural))
        if place is not None
        for gpu in place.gpus
        if gpu.live is not None and digest in gpu.live.holders
    ]
    return page(
        "workload.html.j2",
        state,
        asked,
        title=opened_or_digest(use.name, use.workload),
        crumbs=(FLEET, links.Crumb(text="Workloads", url="/workloads")),
        use=use,
        parts=use.parts[:PARTS_MAX],
        now=now[:PARTS_MAX],
        on_now=len(now),
        verdicts_max=VERDICTS_MAX,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A node of which nothing is known at this moment, and why."""

    node: NodeView
    note: str


_SILENT: tuple[Column[Silent], ...] = (
    Column(name="node", title="Node", key=lambda one: natural(one.node.node)),
    Column(name="site", title="Site", key=lambda one: natural(one.node.site)),
    Column(name="gpus", title="GPUs", key=lambda one: len(one.node.gpus), is_number=True, is_down_first=True),
    Column(name="sealed", title="Last reading", key=lambda one: one.node.sealed_ms or 0, is_number=True),
)


def quality(state: Published, asked: Asked) -> Document:
    """Return how much was observed, and what hinders it."""
    view = state.view
    silent = [
        Silent(node=node, note=note(node, view.now_ms))
        for node in view.nodes
        if node.gpus and not any(gpu.origin is Origin.LIVE for gpu in node.gpus)
    ]
    kind = choice(asked, "kind")
    findings = [found for found in view.ledger.findings if kind in {"", found.kind}]
    return page(
        "quality.html.j2",
        state,
        asked,
        title="Data quality",
        crumbs=(FLEET,),
        sites=sorted(view.sites.items(), key=lambda one: (one[1].account.coverage or 2.0, natural(one[0]))),
        silent=links.table("/quality", asked, silent, _SILENT, {"kind": kind}),
        troubles=list(view.troubles.values())[:TROUBLES_MAX],
        kinds=sorted(Counter(found.kind for found in view.ledger.findings).items()),
        kind=kind,
        findings=findings[: links.ROWS],
        of_findings=len(findings),
    )


def legend(state: Published, asked: Asked) -> Document:
    """Return what the words mean."""
    looks = wording.looks(state.view.total)
    return page("legend.html.j2", state, asked, title="How to read this", crumbs=(FLEET,), looks=looks)
