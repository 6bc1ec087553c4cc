# SPDX-License-Identifier: Apache-2.0
"""What to do: what can be sold, how demand was shaped, and what no input tells."""

from __future__ import annotations

from gpuledger.states import State
from gpuledger_collector.report import words
from gpuledger_collector.report.amounts import hours
from gpuledger_collector.report.idle_model import Block
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.layout import Cell, Section, Table, line, numbers, top
from gpuledger_collector.report.layout import words as texts
from gpuledger_collector.report.market_tables import market_tables
from gpuledger_collector.report.model import Weekly

NODES_NAMED = 4
"""Nodes of a block that are named in its row; the rest is counted."""


def action_section(report: Weekly, lang: Language) -> Section:
    """Return the section of what an operator can act on."""
    absent = tuple(
        lang("absent.line", section=lang(f"absent.section_{item.section}"), needs=lang(f"absent.needs_{item.needs}"))
        for item in report.absent
    )
    return Section(
        heading=lang("action.heading"),
        lines=(),
        tables=(_blocks(report, lang), *market_tables(report, lang), _demand(report, lang)),
        notes=absent,
    )


def _blocks(report: Weekly, lang: Language) -> Table:
    rows, others, others_gpus = top(report.blocks, lambda block: block.gpus)
    cells = [_block(row, lang) for row in rows]
    if others:
        cells.append(line(lang("name.others"), lang.count(others, "block"), "", f"{others_gpus:,}", "", "", ""))
    return Table(
        caption=lang("action.blocks_caption"),
        columns=(
            *texts(lang("idle.site"), lang("idle.pool")),
            *numbers(lang("action.nodes"), lang("idle.gpus"), lang("idle.free")),
            *texts(lang("action.since"), lang("action.which")),
        ),
        rows=tuple(cells),
        empty=lang("action.blocks_empty"),
        note=lang("action.blocks_note"),
    )


def _block(block: Block, lang: Language) -> tuple[Cell, ...]:
    named = [lang.name(row.node, 24) for row in block.nodes[:NODES_NAMED]]
    more = len(block.nodes) - len(named)
    first, last = block.nodes[0], block.nodes[-1]
    since = lang.hour(first.since_ms)
    if last.since_ms != first.since_ms:
        since = lang("idle.from_to", **{"from": since, "to": lang.hour(last.since_ms)})
    if first.is_longer:
        since = lang("action.or_longer", since=since)
    which = lang.commas(named)
    return (
        *line(lang.name(block.site), lang.name(block.pool), f"{len(block.nodes):,}", f"{block.gpus:,}"),
        Cell(text=hours(block.free_slice_ms), state=State.FREE),
        Cell(text=since),
        Cell(text=lang("action.and_more", names=which, n=f"{more:,}") if more > 0 else which),
    )


def _demand(report: Weekly, lang: Language) -> Table:
    busy = lang("idle.state_hours", state=words.state_label(State.BUSY, report, lang))
    return Table(
        caption=lang("action.demand_caption"),
        columns=(
            *texts(lang("action.demand")),
            *numbers(lang("action.workloads"), busy, lang("idle.held")),
        ),
        rows=tuple(
            line(
                lang(f"action.demand_{row.demand.value}"),
                f"{row.workloads:,}",
                hours(row.busy_slice_ms),
                hours(row.held_slice_ms),
            )
            for row in report.demand
        ),
        empty=lang("action.demand_empty"),
        note=lang("action.demand_note"),
    )
