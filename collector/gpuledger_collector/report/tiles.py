# SPDX-License-Identifier: Apache-2.0
"""The tiles: the few figures that are read first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpuledger_collector.report import source_words, words
from gpuledger_collector.report.amounts import hours
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.model import Totals, Weekly


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile: a heading, a figure, what it is of, and how it was sampled."""

    heading: str
    figure: str
    text: str
    sampled: str = ""
    is_main: bool = False


def tiles_of(report: Weekly, totals: Totals, lang: Language) -> tuple[Tile, ...]:
    """Return the tiles of a report with figures."""
    sampled = ""
    if report.source is not None:
        tag, error = source_words.tag(report.source, lang), source_words.error(report, totals, lang)
        sampled = lang("tile.sampled", tag=tag, error=error)
    busy = lang("tile.busy_withheld") if totals.busy is None else lang.hours_range(totals.busy)
    out = lang("tile.out_untold") if totals.out is None else lang.fraction(totals.out)
    return (
        Tile(
            heading=lang("tile.idle"),
            figure=lang.percent_range(totals.idle),
            text=lang.hours_range(totals.idle),
            sampled=sampled,
            is_main=True,
        ),
        Tile(
            heading=words.busy_label(report, lang),
            figure=lang.percent_range(totals.busy),
            text=busy,
            sampled=sampled,
        ),
        Tile(
            heading=lang("tile.coverage"),
            figure=lang.percent(totals.coverage),
            text=lang.fraction(totals.coverage),
            sampled=sampled,
        ),
        Tile(heading=lang("tile.out"), figure=lang.percent(totals.out), text=out),
        Tile(
            heading=lang("tile.whole_nodes"),
            figure=words.whole_nodes(report, lang),
            text=words.free_nodes(report, lang),
        ),
        *_money(report, lang),
    )


def _money(report: Weekly, lang: Language) -> Iterator[Tile]:
    worth = words.money_text(report, lang)
    if worth is not None and report.money is not None:
        lost = lang("tile.lost", hours=hours(report.money.total.lost_slice_ms))
        yield Tile(heading=lang("tile.money"), figure=worth, text=lost)
