# SPDX-License-Identifier: Apache-2.0
"""The idle list as tables: free nodes, holders, dark nodes, GPUs that are down."""

from __future__ import annotations

from collections.abc import Sequence

from gpuledger.states import State
from gpuledger_collector.report import amounts, source_words, words
from gpuledger_collector.report.amounts import hours
from gpuledger_collector.report.layout import TOP, Cell, Column, Section, Table, top
from gpuledger_collector.report.model import DarkNode, FreeKind, FreeNode, Weekly
from gpuledger_collector.report.names import opened_or_digest, shown
from gpuledger_collector.report.periods import hour_text

WHOLE_NODES_MAX = 200
"""Whole nodes are what can be sold or switched off, so they are all listed, within reason."""


def idle_section(report: Weekly) -> Section:
    """Return the section that names what was idle, where and whose."""
    return Section(
        heading="Idle list",
        lines=_lines(report),
        tables=(_free_whole(report), _free_partly(report), _held(report), _dark(report), _down(report)),
    )


def _lines(report: Weekly) -> tuple[str, ...]:
    if report.source is None:
        return (words.free_nodes(report),)
    sampled = source_words.tag(report.source).capitalize()
    return words.free_nodes(report), f"{sampled}: every beginning and end is up to one interval off."


_NODE = (Column(name="site", is_number=False), Column(name="node", is_number=False))


def _free_table(rows: Sequence[FreeNode], caption: str, empty: str, note: str, limit: int) -> Table:
    rows, others, others_free = top(rows, lambda row: row.free_slice_ms, limit)
    cells: list[tuple[Cell, ...]] = [
        (
            Cell(text=shown(row.site)),
            Cell(text=shown(row.node)),
            Cell(text=f"{row.gpus:,}"),
            Cell(text=hours(row.free_slice_ms), state=State.FREE),
            Cell(text=hours(row.dark_slice_ms)),
            Cell(text=hours(row.installed_slice_ms)),
        )
        for row in rows
    ]
    if others:
        cells.append(_others(others, "node", hours(others_free), 6))
    return Table(
        caption=caption,
        columns=(
            *_NODE,
            Column(name="GPUs"),
            Column(name="free GPU-h"),
            Column(name="dark GPU-h"),
            Column(name="installed GPU-h"),
        ),
        rows=tuple(cells),
        empty=empty,
        note=note,
    )


def _others(number: int, noun: str, amount: str, width: int) -> tuple[Cell, ...]:
    first = (Cell(text="others"), Cell(text=amounts.count(number, noun)), Cell(text=""), Cell(text=amount))
    return first + (Cell(text=""),) * (width - len(first))


def _free_whole(report: Weekly) -> Table:
    rows = [row for row in report.idle_list.free if row.kind is not FreeKind.PARTLY]
    return _free_table(
        rows,
        "Whole nodes that were free",
        "No whole node was free all the time.",
        "Every GPU of the node was free in every cell that was covered. Where dark GPU-hours stand, or installed ones "
        f"are fewer than the {words.noun(report.period)} has, the rest of it is not known.",
        limit=WHOLE_NODES_MAX,
    )


def _free_partly(report: Weekly) -> Table:
    rows = [row for row in report.idle_list.free if row.kind is FreeKind.PARTLY]
    return _free_table(rows, "Other nodes with free time", "No other node had free time.", note="", limit=TOP)


def _held(report: Weekly) -> Table:
    holders, unknown = report.idle_list.held, report.idle_list.held_without_holder_slice_ms
    rows, others, others_held = top(holders, lambda row: row.held_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            Cell(text=opened_or_digest(row.user_name, row.user_digest)),
            Cell(text=opened_or_digest(row.workload_name, row.workload_digest), small=f"on {shown(row.node)}"),
            Cell(text=f"{row.gpus:,}"),
            Cell(text=hours(row.held_slice_ms), state=State.HELD),
            Cell(text=hours(row.busy_slice_ms)),
            Cell(text=amounts.memory(row.memory_bytes_max)),
            Cell(text=f"{hour_text(row.first_hour_ms)} – {hour_text(row.last_hour_ms)}"),
        )
        for row in rows
    ]
    if others:
        cells.append(_others(others, "holder", hours(others_held), 7))
    if unknown:
        blank = Cell(text="")
        cells.append((Cell(text="not recorded"), blank, blank, Cell(text=hours(unknown)), blank, blank, blank))
    return Table(
        caption="Held without work, and by whom",
        columns=(
            Column(name="user", is_number=False),
            Column(name="workload", is_number=False),
            Column(name="GPUs"),
            Column(name="held GPU-h"),
            Column(name=f"{words.state_label(State.BUSY, report)} GPU-h"),
            Column(name="most memory on a GPU"),
            Column(name="first – last hour (UTC)", is_number=False),
        ),
        rows=tuple(cells),
        empty="Nothing was held without work.",
        note="A short digest stands where no name is open.",
    )


def _dark(report: Weekly) -> Table:
    rows, others, others_dark = top(report.idle_list.dark, lambda row: row.dark_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            Cell(text=shown(row.site)),
            Cell(text=shown(row.node)),
            Cell(text=f"{row.gpus:,}"),
            Cell(text=hours(row.dark_slice_ms), state=State.DARK),
            Cell(text=hours(row.installed_slice_ms)),
            Cell(text=_last_seen(row, words.noun(report.period))),
            Cell(text=hour_text(row.first_dark_hour_ms)),
        )
        for row in rows
    ]
    if others:
        cells.append(_others(others, "node", hours(others_dark), 7))
    return Table(
        caption="Dark: not observed, not declared",
        columns=(
            *_NODE,
            Column(name="GPUs"),
            Column(name="dark GPU-h"),
            Column(name="installed GPU-h"),
            Column(name="last seen (UTC)", is_number=False),
            Column(name="first dark (UTC)", is_number=False),
        ),
        rows=tuple(cells),
        empty="Nothing was dark.",
        note="By hour. Dark time counts against both bounds: it may all have been idle.",
    )


def _last_seen(row: DarkNode, noun: str) -> str:
    if row.last_seen_hour_ms is None:
        return f"not in this {noun}"
    if row.dark_since_ms is None:
        return "at the end"
    return f"{hour_text(row.last_seen_hour_ms)}, then dark"


def _down(report: Weekly) -> Table:
    rows, others, others_down = top(report.idle_list.down, lambda row: row.down_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            Cell(text=shown(row.site)),
            Cell(text=shown(row.node)),
            Cell(text=shown(row.gpu)),
            Cell(text=hours(row.down_slice_ms), state=State.DOWN),
            Cell(text=hours(row.installed_slice_ms)),
        )
        for row in rows
    ]
    if others:
        cells.append(_others(others, "GPU", hours(others_down), 5))
    return Table(
        caption="Down: lost, failed or in need of a reset",
        columns=(
            *_NODE,
            Column(name="GPU", is_number=False),
            Column(name="down GPU-h"),
            Column(name="installed GPU-h"),
        ),
        rows=tuple(cells),
        empty="Nothing was down." if report.source is None or State.DOWN not in report.source.untold else "Not told.",
    )
