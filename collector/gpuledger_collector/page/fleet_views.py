# SPDX-License-Identifier: Apache-2.0
"""The fleet and its sites: where the time went, and every GPU at this moment, a page of nodes at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gpuledger.cells import HOUR_MS, ceil_to
from gpuledger.states import IDLE, State
from gpuledger_collector import wording
from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.overview import NodeView, Sums, natural
from gpuledger_collector.page import bars, links
from gpuledger_collector.page.grid import grid, row
from gpuledger_collector.page.links import Column, Crumb, choice
from gpuledger_collector.page.missing import not_found
from gpuledger_collector.page.rendering import page
from gpuledger_collector.published import Published
from gpuledger_collector.report.names import shown
from gpuledger_collector.selection import Selection

BARS_MAX = 12
"""Sites with a bar of their own; the others are rows of the table."""
GRID_NODES_MAX = 48
"""A fleet of so many nodes is shown whole on the front page."""
BLOCKS_SHOWN = 8
PLACES_MAX = 200
FLEET = Crumb(text="Fleet", url="/")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node of a table, and it over the period."""

    node: NodeView
    sums: Sums | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """One site of a table."""

    site: str
    sums: Sums
    nodes: int
    free: int


def _idle_low(sums: Sums | None) -> float:
    bounds = None if sums is None else sums.account.idle
    return -1.0 if bounds is None else bounds.low


def _coverage(sums: Sums | None) -> float:
    coverage = None if sums is None else sums.account.coverage
    return 2.0 if coverage is None else coverage


_SITES: tuple[Column[SiteRow], ...] = (
    Column(name="site", title="Site", key=lambda one: natural(one.site)),
    Column(name="nodes", title="Nodes", key=lambda one: one.nodes, is_number=True, is_down_first=True),
    Column(name="gpus", title="GPUs", key=lambda one: one.sums.gpus, is_number=True, is_down_first=True),
    Column(name="idle", title="Idle", key=lambda one: _idle_low(one.sums), is_number=True, is_down_first=True),
    Column(name="coverage", title="Coverage", key=lambda one: _coverage(one.sums), is_number=True),
    Column(name="free", title="Free whole nodes", key=lambda one: one.free, is_number=True, is_down_first=True),
)


def fleet(state: Published, asked: Asked) -> Document:
    """Return the front page."""
    view = state.view
    looks = wording.looks(view.total)
    free = Counter(node.site for node in view.free_nodes)
    rows = [
        SiteRow(site=site, sums=sums, nodes=state.nodes_by_site.get(site, 0), free=free[site])
        for site, sums in view.sites.items()
    ]
    shown_bars = [
        (site, sums, bars.bar(shown(site), sums, wording.looks(view.total, sums)))
        for site, sums in list(view.sites.items())[:BARS_MAX]
    ]
    is_small = len(view.nodes) <= GRID_NODES_MAX
    idle = [block for block in state.longest_idle if block.state in IDLE][:BLOCKS_SHOWN]
    return page(
        "fleet.html.j2",
        state,
        asked,
        title=wording.fleet_title(view),
        looks=looks,
        bars=shown_bars,
        sites=links.table("/", asked, rows, _SITES),
        places=list(view.ledger.places.items())[:PLACES_MAX],
        strip=_strip(state, None),
        tables=grid(view.nodes, looks, view.now_ms) if is_small else [],
        gpus_now=sum(view.states_now.values()),
        states_now=[(looks[one], view.states_now[one]) for one in State if view.states_now.get(one)],
        blocks=idle,
    )


def _strip(state: Published, site: str | None) -> bars.Strip | None:
    ledger = state.view.ledger
    if ledger.start_ms is None or ledger.end_ms is None:
        return None
    hours: Mapping[int, Sums] = state.hours(site)
    looks = wording.looks(state.view.total)
    return bars.strip(hours, ledger.start_ms // HOUR_MS * HOUR_MS, ceil_to(ledger.end_ms, HOUR_MS), looks)


_NODES: tuple[Column[NodeRow], ...] = (
    Column(name="node", title="Node", key=lambda one: natural(one.node.node)),
    Column(name="idle", title="Idle", key=lambda one: _idle_low(one.sums), is_number=True, is_down_first=True),
    Column(name="coverage", title="Coverage", key=lambda one: _coverage(one.sums), is_number=True),
    Column(name="sealed", title="Last reading", key=lambda one: one.node.sealed_ms or 0, is_number=True),
)
FILTERS = ("cluster", "pool", "model", "state")


def site(state: Published, asked: Asked) -> Document:
    """Return one site with its nodes."""
    name, view = asked.path["site"], state.view
    sums = view.sites.get(name)
    members = state.nodes_of_site(name)
    if sums is None and not members:
        return not_found(state, asked, f"There is no site {name!r}.")
    kept = {one: choice(asked, one) for one in FILTERS}
    wanted_state = State(kept["state"]) if kept["state"] in set(State) else None
    wanted = Selection(
        cluster=kept["cluster"] or None, pool=kept["pool"] or None, model=kept["model"] or None, state=wanted_state
    )
    looks = wording.looks(view.total if sums is None else sums)
    rows = [NodeRow(node=node, sums=view.ledger.nodes.get(node.node)) for node in members if wanted.takes_node(node)]
    nodes = links.table(links.site(name), asked, rows, _NODES, kept)
    counts = Counter(gpu.state for node in members for gpu in node.gpus if gpu.is_rostered)
    return page(
        "site.html.j2",
        state,
        asked,
        title=shown(name),
        crumbs=(FLEET,),
        looks=looks,
        site=name,
        sums=sums,
        bar=None if sums is None else bars.bar(shown(name), sums, looks),
        strip=_strip(state, name),
        nodes=nodes,
        # Of this page's nodes only: a site may have thousands.
        grids=[row(one.node, looks, view.now_ms) for one in nodes.items],
        of_nodes=len(members),
        states_now=[(looks[one], counts[one], one) for one in State if counts[one]],
        kept=kept,
        options={
            "cluster": sorted({node.cluster for node in members if node.cluster}),
            "pool": sorted({node.pool for node in members if node.pool}),
            "model": sorted({gpu.model for node in members for gpu in node.gpus if gpu.model}),
        },
        free=sum(free.site == name for free in view.free_nodes),
    )
