# SPDX-License-Identifier: Apache-2.0
"""The idle list as tables: free nodes, holders, allocations without a process, dark nodes, GPUs that are down."""

from __future__ import annotations

from collections.abc import Sequence

from gpuledger.states import State
from gpuledger_collector.report import amounts, source_words, words
from gpuledger_collector.report.amounts import hours
from gpuledger_collector.report.idle_model import DarkNode, FreeKind, FreeNode
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.layout import TOP, Cell, Section, Table, line, numbers, top
from gpuledger_collector.report.layout import words as texts
from gpuledger_collector.report.model import Weekly

WHOLE_NODES_MAX = 40
"""Whole nodes are what can be sold or switched off, so more of them are listed than of anything else."""


def idle_section(report: Weekly, lang: Language) -> Section:
    """Return the section that names what was idle, where and whose."""
    lines = [words.free_nodes(report, lang)]
    if report.source is not None:
        lines.append(lang("idle.sampled", tag=source_words.tag_first(report.source, lang)))
    return Section(
        heading=lang("idle.heading"),
        lines=tuple(lines),
        tables=(
            _free_whole(report, lang),
            _free_partly(report, lang),
            _held(report, lang),
            _reserved(report, lang),
            _dark(report, lang),
            _down(report, lang),
        ),
    )


def _free_table(
    rows: Sequence[FreeNode], lang: Language, *, caption: str, empty: str, note: str = "", limit: int = TOP
) -> Table:
    rows, others, others_free = top(rows, lambda row: row.free_slice_ms, limit)
    cells: list[tuple[Cell, ...]] = [
        (
            *line(lang.name(row.site), lang.name(row.node), f"{row.gpus:,}"),
            Cell(text=hours(row.free_slice_ms), state=State.FREE),
            *line(hours(row.dark_slice_ms), hours(row.installed_slice_ms)),
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "node", hours(others_free), 6))
    return Table(
        caption=caption,
        columns=(
            *texts(lang("idle.site"), lang("idle.node")),
            *numbers(lang("idle.gpus"), lang("idle.free"), lang("idle.dark"), lang("idle.installed")),
        ),
        rows=tuple(cells),
        empty=empty,
        note=note,
    )


def others_row(lang: Language, number: int, noun: str, amount: str, width: int) -> tuple[Cell, ...]:
    """Return the row that keeps the sum of those that are not listed; the amount is in the fourth column."""
    first = line(lang("name.others"), lang.count(number, noun), "", amount)
    return first + line("") * (width - len(first))


def _free_whole(report: Weekly, lang: Language) -> Table:
    return _free_table(
        [row for row in report.idle_list.free if row.kind is not FreeKind.PARTLY],
        lang,
        caption=lang("idle.whole_caption"),
        empty=lang("idle.whole_empty"),
        note=lang("idle.whole_note", noun=words.noun(report.period, lang)),
        limit=WHOLE_NODES_MAX,
    )


def _free_partly(report: Weekly, lang: Language) -> Table:
    rows = [row for row in report.idle_list.free if row.kind is FreeKind.PARTLY]
    return _free_table(rows, lang, caption=lang("idle.partly_caption"), empty=lang("idle.partly_empty"))


def _held(report: Weekly, lang: Language) -> Table:
    holders, unknown = report.idle_list.held, report.idle_list.held_without_holder_slice_ms
    rows, others, others_held = top(holders, lambda row: row.held_slice_ms)
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        first_last = {"from": lang.hour(row.first_hour_ms), "to": lang.hour(row.last_hour_ms)}
        workload = lang.opened(row.workload_name, row.workload_digest)
        cells.append(
            (
                Cell(text=lang.opened(row.user_name, row.user_digest)),
                Cell(text=workload, small=lang("idle.on_node", node=lang.name(row.node))),
                Cell(text=f"{row.gpus:,}"),
                Cell(text=hours(row.held_slice_ms), state=State.HELD),
                Cell(text=hours(row.busy_slice_ms)),
                Cell(text=amounts.memory(row.memory_bytes_max)),
                Cell(text=lang("idle.from_to", **first_last)),
            )
        )
    if others:
        cells.append(others_row(lang, others, "holder", hours(others_held), 7))
    if unknown:
        cells.append(line(lang("name.not_recorded"), "", "", hours(unknown), "", "", ""))
    busy = lang("idle.state_hours", state=words.state_label(State.BUSY, report, lang))
    return Table(
        caption=lang("idle.held_caption"),
        columns=(
            *texts(lang("idle.user"), lang("idle.workload")),
            *numbers(lang("idle.gpus"), lang("idle.held"), busy, lang("idle.memory")),
            *texts(lang("idle.first_last")),
        ),
        rows=tuple(cells),
        empty=lang("idle.held_empty"),
        note=lang("idle.held_note"),
    )


def _reserved(report: Weekly, lang: Language) -> Table:
    rows, others, others_reserved = top(report.idle_list.reserved, lambda row: row.reserved_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            *line(lang.name(row.site), lang.name(row.node), f"{row.gpus:,}"),
            Cell(text=hours(row.reserved_slice_ms), state=State.RESERVED),
            Cell(text=hours(row.installed_slice_ms)),
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "node", hours(others_reserved), 5))
    return Table(
        caption=lang("idle.reserved_caption"),
        columns=(
            *texts(lang("idle.site"), lang("idle.node")),
            *numbers(lang("idle.gpus"), lang("idle.reserved"), lang("idle.installed")),
        ),
        rows=tuple(cells),
        empty=_empty(report, State.RESERVED, "idle.reserved_empty", lang),
    )


def _dark(report: Weekly, lang: Language) -> Table:
    rows, others, others_dark = top(report.idle_list.dark, lambda row: row.dark_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            *line(lang.name(row.site), lang.name(row.node), f"{row.gpus:,}"),
            Cell(text=hours(row.dark_slice_ms), state=State.DARK),
            *line(
                hours(row.installed_slice_ms),
                _last_seen(row, words.noun(report.period, lang), lang),
                lang.hour(row.first_dark_hour_ms),
            ),
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "node", hours(others_dark), 7))
    return Table(
        caption=lang("idle.dark_caption"),
        columns=(
            *texts(lang("idle.site"), lang("idle.node")),
            *numbers(lang("idle.gpus"), lang("idle.dark"), lang("idle.installed")),
            *texts(lang("idle.last_seen"), lang("idle.first_dark")),
        ),
        rows=tuple(cells),
        empty=lang("idle.dark_empty"),
        note=lang("idle.dark_note"),
    )


def _last_seen(row: DarkNode, noun: str, lang: Language) -> str:
    if row.last_seen_hour_ms is None:
        return lang("idle.not_seen", noun=noun)
    if row.dark_since_ms is None:
        return lang("idle.at_the_end")
    return lang("idle.then_dark", hour=lang.hour(row.last_seen_hour_ms))


def _down(report: Weekly, lang: Language) -> Table:
    rows, others, others_down = top(report.idle_list.down, lambda row: row.down_slice_ms)
    cells: list[tuple[Cell, ...]] = [
        (
            *line(lang.name(row.site), lang.name(row.node), lang.name(row.gpu)),
            Cell(text=hours(row.down_slice_ms), state=State.DOWN),
            Cell(text=hours(row.installed_slice_ms)),
        )
        for row in rows
    ]
    if others:
        cells.append(others_row(lang, others, "gpu", hours(others_down), 5))
    return Table(
        caption=lang("idle.down_caption"),
        columns=(
            *texts(lang("idle.site"), lang("idle.node"), lang("idle.gpu")),
            *numbers(lang("idle.down"), lang("idle.installed")),
        ),
        rows=tuple(cells),
        empty=_empty(report, State.DOWN, "idle.down_empty", lang),
    )


def _empty(report: Weekly, state: State, key: str, lang: Language) -> str:
    is_told = report.source is None or state not in report.source.untold
    return lang(key if is_told else "idle.not_told")
