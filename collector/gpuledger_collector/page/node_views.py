# SPDX-License-Identifier: Apache-2.0
"""One node and one GPU: its states over the period, what is on it, and what its agent said last."""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger.accounting import Account
from gpuledger.states import State
from gpuledger_collector import wording
from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.ledger import Finding
from gpuledger_collector.overview import GpuView, NodeView, Sums
from gpuledger_collector.page import bars, links
from gpuledger_collector.page.fleet_views import FLEET
from gpuledger_collector.page.grid import GridCell, cell, note
from gpuledger_collector.page.links import Crumb
from gpuledger_collector.page.missing import not_found
from gpuledger_collector.page.rendering import page
from gpuledger_collector.published import Published, WorkloadUse
from gpuledger_collector.report.names import shown

WORKLOADS_MAX, FINDINGS_MAX = 50, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """One GPU of a node."""

    gpu: GpuView
    cell: GridCell
    sums: Sums | None


def node(state: Published, asked: Asked) -> Document:
    """Return one node with its GPUs."""
    name, view = asked.path["node"], state.view
    found = state.node(name)
    if found is None:
        return not_found(state, asked, f"There is no node {name!r}.")
    sums = view.ledger.nodes.get(name)
    looks = wording.looks(view.total if sums is None else sums)
    accounts = view.ledger.gpus.of(gpu.gpu for gpu in found.gpus)
    uses = [use for digest in state.workloads_of_nodes.get(name, ()) if (use := state.workload(digest)) is not None]
    return page(
        "node.html.j2",
        state,
        asked,
        title=shown(name),
        crumbs=_crumbs(found),
        looks=looks,
        node=found,
        sums=sums,
        bar=None if sums is None else bars.bar(shown(name), sums, looks),
        note=note(found, view.now_ms),
        rows=[
            GpuRow(
                gpu=gpu,
                cell=cell(gpu, found, looks[gpu.state], view.now_ms),
                sums=_sums(accounts.get(gpu.gpu)),
            )
            for gpu in found.gpus
        ],
        parts=_parts(uses, name)[:WORKLOADS_MAX],
        parts_left_off=max(0, len(uses) - WORKLOADS_MAX),
        blocks=state.blocks_of_nodes.get(name, ()),
        findings=_findings(state, {name, *(gpu.gpu for gpu in found.gpus)}),
        not_schedulable=state.not_schedulable.get(name),
    )


def gpu(state: Published, asked: Asked) -> Document:
    """Return one GPU."""
    name, view = asked.path["gpu"], state.view
    place = state.node(state.nodes_of_gpus.get(name, ""))
    if place is None:
        return not_found(state, asked, f"There is no GPU {name!r}.")
    found = next(one for one in place.gpus if one.gpu == name)
    sums = _sums(view.ledger.gpus.of([name]).get(name))
    looks = wording.looks(view.total if sums is None else sums)
    return page(
        "gpu.html.j2",
        state,
        asked,
        title=shown(name),
        crumbs=(*_crumbs(place), Crumb(text=shown(place.node), url=links.node(place.node))),
        looks=looks,
        gpu=found,
        node=place,
        cell=cell(found, place, looks[found.state], view.now_ms),
        sums=sums,
        bar=None if sums is None else bars.bar(shown(name), sums, looks),
        states=[] if sums is None else [one for one in State if sums.account.slice_ms(one)],
        holders=() if found.live is None else tuple(zip(found.live.holders, found.holders, strict=True)),
        block=next((block for block in state.blocks_of_nodes.get(place.node, ()) if name in block.gpus), None),
        findings=_findings(state, {name}),
    )


def _crumbs(found: NodeView) -> tuple[Crumb, ...]:
    return (FLEET, Crumb(text=shown(found.site), url=links.site(found.site)))


def _sums(account: Account | None) -> Sums | None:
    return None if account is None else Sums(account=account, gpus=1)


def _parts(uses: list[WorkloadUse], node: str) -> list[tuple[WorkloadUse, int, int, int]]:
    """Return each workload with its GPUs, busy and held time in the node, most held time first."""
    found = []
    for use in uses:
        own = [part for part in use.parts if part.node == node]
        busy, held = sum(part.busy_slice_ms for part in own), sum(part.held_slice_ms for part in own)
        found.append((use, sum(part.gpus for part in own), busy, held))
    return sorted(found, key=lambda part: (-part[3], -part[2], part[0].workload))


def _findings(state: Published, subjects: set[str]) -> list[Finding]:
    return [found for found in state.view.ledger.findings if found.subject in subjects][:FINDINGS_MAX]
