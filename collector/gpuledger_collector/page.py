# SPDX-License-Identifier: Apache-2.0
"""The web page: one document, rendered on the server, that needs no script and nothing from elsewhere.

All text that comes from outside passes through the template's escaping; the content security policy allows the page's
own style sheet, by its hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from gpuledger import __version__
from gpuledger.cells import CELL_MS
from gpuledger.states import State
from gpuledger_collector import wording
from gpuledger_collector.documents import PRIVATE, Asked, Document
from gpuledger_collector.live import BEHIND_MS_MAX
from gpuledger_collector.overview import GpuView, NodeView, Origin, Overview, Sums
from gpuledger_collector.palette import Look
from gpuledger_collector.published import Published
from gpuledger_collector.report.names import cleaned, opened_or_digest, shown
from gpuledger_collector.report.shares import share_down

REFRESH_S = 30
NODES_MAX = 400
SITES_MAX = 50
PLACES_MAX = 200
ROWS_MAX = 50
HOLDERS_SHOWN = 4
TABLE_ROWS = 20
"""Nodes per table of the grid, so that tables can stand side by side on wide screens."""
LABEL_TENTHS_MIN, LETTER_TENTHS_MIN = 90, 25
"""How wide a segment of a bar must be to bear its percentage, or at least its letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One state of one bar: position and width in percent of the bar, and what is written in it and beside it."""

    look: Look
    x: str
    width: str
    middle: str
    inside: str
    percent: str
    hours: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One site's time by state."""

    site: str
    gpus: str
    idle: str
    coverage: str
    description: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCell:
    """One GPU of the grid: letter and colour to look at, words to hear and to hover over."""

    look: Look
    words: str
    hint: str
    is_rostered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One node of the grid."""

    node: str
    pool: str
    cells: tuple[GridCell, ...]
    missing: int
    sealed: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTable:
    """Some nodes of one site."""

    site: str
    caption: str
    columns: int
    rows: tuple[GridRow, ...]


@cache
def style() -> str:
    """Return the page's style sheet."""
    return resources.files("gpuledger_collector").joinpath("templates/page.css").read_text(encoding="utf-8")


@cache
def content_security_policy() -> str:
    """Return the policy that lets the page use its own style sheet and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; frame-ancestors 'none'"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("gpuledger_collector", "templates"),
        autoescape=True,
        finalize=_clean,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("page.html.j2")


def _clean(value: object) -> object:
    """Return what may be printed: text without characters that are not meant to be seen, line ends aside."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "\n".join(cleaned(line) for line in value.split("\n"))


def routes() -> Mapping[str, Callable[[Published, Asked], Document]]:
    """Return what answers the page's address."""

    def answer(state: Published, asked: Asked) -> Document:
        del asked
        headers = {**PRIVATE, "Content-Security-Policy": content_security_policy()}
        return Document(body=render(state.view), content_type="text/html; charset=utf-8", headers=headers)

    return {"/": answer}


def render(view: Overview) -> bytes:
    """Return the page as UTF-8."""
    shown = view.nodes[:NODES_MAX]
    looks = wording.looks(view.total)
    sites = dict(list(view.sites.items())[:SITES_MAX])
    return (
        _template()
        .render(
            style=Markup(style()),  # noqa: S704 - our own file
            refresh_s=REFRESH_S,
            version=__version__,
            wording=wording,
            looks=looks,
            view=view,
            bars=[bar(site, sums, wording.looks(view.total, sums)) for site, sums in sites.items()],
            sites_left_off=len(view.sites) - len(sites),
            places=[(place, sums) for place, sums in view.ledger.places.items()][:PLACES_MAX],
            tables=grid(shown, looks, view.now_ms),
            nodes_left_off=len(view.nodes) - len(shown),
            gpus_now=sum(view.states_now.values()),
            states_now=[(looks[state], view.states_now[state]) for state in State if view.states_now.get(state)],
            free_nodes=view.free_nodes[:ROWS_MAX],
            troubles=list(view.troubles.values())[:ROWS_MAX],
            findings=view.ledger.findings[:ROWS_MAX],
            cell_end_ms=None if view.cell_ms is None else view.cell_ms + CELL_MS,
        )
        .encode("utf-8", errors="replace")
    )


# ------------------------------------------------------------------------------------------------ bars


def bar(site: str, sums: Sums, looks: Mapping[State, Look]) -> Bar:
    """Return a site's bar; the segments' widths are exact, the percentages beside them rounded as figures are."""
    account = sums.account
    whole = account.installed_slice_ms
    segments = []
    before = 0
    for state in State:
        amount = account.slice_ms(state)
        if amount == 0:
            continue
        look = looks[state]
        tenths = share_down(amount, whole).tenths
        percent = wording.state_text(sums, state)
        inside = percent if tenths >= LABEL_TENTHS_MIN else look.letter if tenths >= LETTER_TENTHS_MIN else ""
        segments.append(
            Segment(
                look=look,
                x=_position(before, whole),
                width=_position(amount, whole),
                middle=_position(2 * before + amount, 2 * whole),
                inside=inside,
                percent=percent,
                hours=wording.gpu_hours(amount),
            )
        )
        before += amount
    parts = ", ".join(f"{part.look.label} {part.percent}" for part in segments)
    return Bar(
        site=shown(site),
        gpus=wording.count(sums.gpus, "GPU"),
        idle=wording.range_text(account.idle),
        coverage=wording.coverage_text(sums),
        description=f"{site}: {parts}",
        segments=tuple(segments),
    )


def _position(part: int, whole: int) -> str:
    return f"{part * 100 / whole:.4f}%"


# ------------------------------------------------------------------------------------------------ grid


def grid(nodes: Sequence[NodeView], looks: Mapping[State, Look], now_ms: int) -> list[GridTable]:
    """Return the nodes as tables of at most TABLE_ROWS rows, site by site."""
    tables = []
    for site, found in groupby(nodes, key=lambda node: node.site):
        members = list(found)
        for first in range(0, len(members), TABLE_ROWS):
            some = members[first : first + TABLE_ROWS]
            columns = max(len(node.gpus) for node in some)
            ends = [shown(some[0].node), shown(some[-1].node)]
            span = ends[0] if len(some) == 1 else " to ".join(ends)
            tables.append(
                GridTable(
                    site=site,
                    caption=f"{shown(site)}: {span}" if len(members) > TABLE_ROWS else shown(site),
                    columns=columns,
                    rows=tuple(_row(node, columns, looks, now_ms) for node in some),
                )
            )
    return tables


def _row(node: NodeView, columns: int, looks: Mapping[State, Look], now_ms: int) -> GridRow:
    return GridRow(
        node=shown(node.node),
        pool="" if node.pool == "unknown" else node.pool,
        cells=tuple(_cell(gpu, node, looks[gpu.state], now_ms) for gpu in node.gpus),
        missing=columns - len(node.gpus),
        sealed="" if node.sealed_ms is None else wording.moment(node.sealed_ms, now_ms),
        note=_note(node, now_ms),
    )


def _note(node: NodeView, now_ms: int) -> str:
    if node.answered_ms is None:
        return "never answered"
    if any(gpu.origin is Origin.LIVE for gpu in node.gpus):
        return ""
    if not node.answers:
        return f"silent for {wording.duration(now_ms - node.answered_ms)}"
    if abs(node.behind_ms) > BEHIND_MS_MAX:
        return f"its time is {wording.duration(abs(node.behind_ms))} {'behind' if node.behind_ms > 0 else 'ahead'}"
    return "not measuring"


def _cell(gpu: GpuView, node: NodeView, look: Look, now_ms: int) -> GridCell:
    words = look.label
    if gpu.origin is Origin.LIVE and gpu.live is not None:
        since = wording.moment(gpu.live.since_ms, now_ms)
        words += f" since {since}" if gpu.live.is_since_exact else f" since {since} or earlier"
    elif gpu.origin is Origin.DECLARED:
        words += ", not observed"
    elif node.answered_ms is not None:
        words += f", last answer {wording.moment(node.answered_ms, now_ms)}"
    lines = [gpu.gpu, words, *_facts(gpu)]
    if not gpu.is_rostered:
        lines.append("not in the roster: in no figure")
        words += ", not in the roster"
    return GridCell(look=look, words=words, hint="\n".join(lines), is_rostered=gpu.is_rostered)


def _facts(gpu: GpuView) -> Iterable[str]:
    live = gpu.live
    if live is None:
        return
    if live.reason is not None:
        yield f"reason: {live.reason}"
    if live.activity_ppm is not None:
        yield f"activity {wording.percent(live.activity_ppm // 1000)}"
    if live.memory_used_bytes is not None:
        yield f"memory {live.memory_used_bytes / (1 << 30):.1f} GiB"
    if live.power_mw is not None:
        yield f"power {live.power_mw // 1000} W"
    holders = [opened_or_digest(name, digest) for name, digest in zip(gpu.holders, live.holders, strict=True)]
    if holders:
        more = f" and {len(holders) - HOLDERS_SHOWN} more" if len(holders) > HOLDERS_SHOWN else ""
        yield f"holders: {', '.join(holders[:HOLDERS_SHOWN])}{more}"
