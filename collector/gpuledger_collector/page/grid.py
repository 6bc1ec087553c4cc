# SPDX-License-Identifier: Apache-2.0
"""GPUs at this moment as letters in a grid, a node a row, and what is to be said of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from gpuledger.states import State
from gpuledger_collector import wording
from gpuledger_collector.live import BEHIND_MS_MAX
from gpuledger_collector.overview import GpuView, NodeView, Origin
from gpuledger_collector.palette import Look
from gpuledger_collector.report.names import opened_or_digest, shown

HOLDERS_SHOWN = 4
TABLE_ROWS = 20
"""Nodes per table of the grid, so that tables can stand side by side on wide screens."""
CELLS_MAX = 16
"""GPUs of a node with a cell of their own; a node of more is counted by state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCell:
    """One GPU of the grid: letter and colour to look at, words to hear and to hover over."""

    gpu: str
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
    more: int
    sealed: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTable:
    """Some nodes of one site."""

    site: str
    caption: str
    columns: int
    rows: tuple[GridRow, ...]


def grid(nodes: Sequence[NodeView], looks: Mapping[State, Look], now_ms: int) -> list[GridTable]:
    """Return the nodes as tables of at most TABLE_ROWS rows, site by site."""
    tables = []
    for site, found in groupby(nodes, key=lambda node: node.site):
        members = list(found)
        for first in range(0, len(members), TABLE_ROWS):
            some = members[first : first + TABLE_ROWS]
            ends = [shown(some[0].node), shown(some[-1].node)]
            span = ends[0] if len(some) == 1 else " to ".join(ends)
            rows = tuple(row(node, looks, now_ms) for node in some)
            tables.append(
                GridTable(
                    site=site,
                    caption=f"{shown(site)}: {span}" if len(members) > TABLE_ROWS else shown(site),
                    columns=max(len(one.cells) for one in rows),
                    rows=rows,
                )
            )
    return tables


def row(node: NodeView, looks: Mapping[State, Look], now_ms: int) -> GridRow:
    """Return a node as a row."""
    return GridRow(
        node=node.node,
        pool="" if node.pool == "unknown" else node.pool,
        cells=tuple(cell(gpu, node, looks[gpu.state], now_ms) for gpu in node.gpus[:CELLS_MAX]),
        more=max(0, len(node.gpus) - CELLS_MAX),
        sealed="" if node.sealed_ms is None else wording.moment(node.sealed_ms, now_ms),
        note=note(node, now_ms),
    )


def note(node: NodeView, now_ms: int) -> str:
    """Return why nothing is known of a node at this moment; nothing where something is."""
    if node.answered_ms is None:
        return "never answered"
    if any(gpu.origin is Origin.LIVE for gpu in node.gpus):
        return ""
    if not node.answers:
        return f"silent for {wording.duration(now_ms - node.answered_ms)}"
    if abs(node.behind_ms) > BEHIND_MS_MAX:
        return f"its time is {wording.duration(abs(node.behind_ms))} {'behind' if node.behind_ms > 0 else 'ahead'}"
    return "not measuring"


def cell(gpu: GpuView, node: NodeView, look: Look, now_ms: int) -> GridCell:
    """Return one GPU."""
    words = state_words(gpu, node, look, now_ms)
    lines = [gpu.gpu, words, *facts(gpu)]
    if not gpu.is_rostered:
        lines.append("not in the roster: in no figure")
        words += ", not in the roster"
    return GridCell(gpu=gpu.gpu, look=look, words=words, hint="\n".join(lines), is_rostered=gpu.is_rostered)


def state_words(gpu: GpuView, node: NodeView, look: Look, now_ms: int) -> str:
    """Return the state of a GPU at this moment, and since when."""
    if gpu.origin is Origin.LIVE and gpu.live is not None:
        since = wording.moment(gpu.live.since_ms, now_ms)
        return f"{look.label} since {since}" + ("" if gpu.live.is_since_exact else " or earlier")
    if gpu.origin is Origin.DECLARED:
        return f"{look.label}, not observed"
    if node.answered_ms is not None:
        return f"{look.label}, last answer {wording.moment(node.answered_ms, now_ms)}"
    return look.label


def facts(gpu: GpuView) -> Iterable[str]:
    """Yield what the agent said last, a line each."""
    live = gpu.live
    if live is None:
        return
    if live.reason is not None:
        yield f"reason: {live.reason}"
    if live.activity_ppm is not None:
        yield f"activity {wording.percent(live.activity_ppm // 1000)}"
    if live.memory_used_bytes is not None:
        yield f"memory {wording.gibibytes(live.memory_used_bytes)}"
    if live.power_mw is not None:
        yield f"power {live.power_mw // 1000} W"
    holders = [opened_or_digest(name, digest) for name, digest in zip(gpu.holders, live.holders, strict=True)]
    if holders:
        more = f" and {len(holders) - HOLDERS_SHOWN} more" if len(holders) > HOLDERS_SHOWN else ""
        yield f"holders: {', '.join(holders[:HOLDERS_SHOWN])}{more}"
