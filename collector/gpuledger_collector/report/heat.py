# SPDX-License-Identifier: Apache-2.0
"""Heat maps as geometry: how idle each node was on each day, and the fleet in each hour of the week.

A cell is divided: its hatched part was dark, and the rest has the colour of how much of the observed time was idle at
least. So what nobody saw never looks like anything that was seen. The number stands in the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuledger.cells import DAY_MS, floor_to
from gpuledger_collector.report import words
from gpuledger_collector.report.amounts import ABSENT, hours
from gpuledger_collector.report.charts import WIDTH, Text, text_width
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.model import HeatCell, HeatRow, Weekly
from gpuledger_collector.report.shares import share_down, share_up

ROWS_MAX = 30
"""Nodes that have a row of their own; the others are one."""
_LEFT = 168.0
_RAMP = (
    ("#fdf0d9", "#14181d"),
    ("#f7d094", "#14181d"),
    ("#eda94a", "#14181d"),
    ("#c8741c", "#ffffff"),
    ("#8f4a0b", "#ffffff"),
)
"""(colour, ink) of each fifth, from hardly idle to wholly idle."""
_LEGEND_ROW = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: colour and number of its observed part, width of its dark part; without colour it is only outlined."""

    x: float
    y: float
    width: float
    height: float
    dark_width: float
    color: str
    ink: str
    text: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Swatch:
    """One key of the legend: a class of colour, dark, or not installed."""

    x: float
    y: float
    color: str
    is_dark: bool
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A heat map; as charts.Chart."""

    name: str
    title: str
    text: str
    height: float
    cells: tuple[Cell, ...]
    texts: tuple[Text, ...]
    legend: tuple[Swatch, ...]


def days_map(report: Weekly, lang: Language) -> HeatMap:
    """Return one row a node, the most idle first, and one column a UTC day."""
    days = range(floor_to(report.period.start_ms, DAY_MS), report.period.end_ms, DAY_MS)
    wholly = [row for row in report.heat_days if _is_wholly_idle(row)]
    named = [row for row in report.heat_days if not _is_wholly_idle(row)]
    rows = [(lang("heat.wholly", n=f"{len(wholly):,}"), _sum_rows(wholly, len(days)))] if wholly else []
    rows += [(lang.name(row.node, 22), row.cells) for row in named[:ROWS_MAX]]
    others = named[ROWS_MAX:]
    more = ""
    if others:
        rows.append((lang("heat.others", n=f"{len(others):,}"), _sum_rows(others, len(days))))
        more = lang("heat.days_others", nodes=lang.count(len(others), "node"))
    step = -(-len(days) // 10)
    heads = [lang.day(day_ms) if number % step == 0 else "" for number, day_ms in enumerate(days)]
    times = [lang.day(day_ms) for day_ms in days]
    return _map(
        report,
        lang,
        name="heat_days",
        rows=rows,
        heads=heads,
        times=times,
        row_height=17.0 if len(days) <= 10 else 15.0,
        text=lang("heat.days_text") + more,
    )


def hours_map(report: Weekly, lang: Language) -> HeatMap:
    """Return one row a day of the week and one column an hour."""
    found: dict[int, HeatCell] = {
        row.hour: HeatCell(
            idle_slice_ms=row.idle_slice_ms,
            unknown_slice_ms=row.unknown_slice_ms,
            dark_slice_ms=row.dark_slice_ms,
            installed_slice_ms=row.installed_slice_ms,
        )
        for row in report.heat_hours
    }
    rows = [
        (weekday, tuple(found.get(day * 24 + hour) for hour in range(24)))
        for day, weekday in enumerate(lang.weekdays())
    ]
    clock = [f"{hour:02d}" for hour in range(24)]
    times = [f"{hour}:00" for hour in clock]
    return _map(
        report,
        lang,
        name="heat_hours",
        rows=rows,
        heads=clock,
        times=times,
        row_height=20.0,
        text=lang("heat.hours_text"),
        left=62.0,
    )


def _is_wholly_idle(row: HeatRow) -> bool:
    return all(cell is None or cell.idle_slice_ms == cell.installed_slice_ms for cell in row.cells)


def _sum_rows(rows: Sequence[HeatRow], length: int) -> tuple[HeatCell | None, ...]:
    sums: list[HeatCell | None] = []
    for index in range(length):
        cells = [cell for row in rows if (cell := row.cells[index]) is not None]
        sums.append(
            HeatCell(
                idle_slice_ms=sum(cell.idle_slice_ms for cell in cells),
                unknown_slice_ms=sum(cell.unknown_slice_ms for cell in cells),
                dark_slice_ms=sum(cell.dark_slice_ms for cell in cells),
                installed_slice_ms=sum(cell.installed_slice_ms for cell in cells),
            )
            if cells
            else None
        )
    return tuple(sums)


def _map(
    report: Weekly,
    lang: Language,
    *,
    name: str,
    rows: Sequence[tuple[str, Sequence[HeatCell | None]]],
    heads: Sequence[str],
    times: Sequence[str],
    row_height: float,
    text: str,
    left: float = _LEFT,
) -> HeatMap:
    top, slot = 36.0, (WIDTH - left) / len(heads)
    cells: list[Cell] = []
    texts = [
        Text(x=round(left + (number + 0.5) * slot, 2), y=28, text=head, anchor="middle", is_quiet=True)
        for number, head in enumerate(heads)
        if head
    ]
    for row, (label, found) in enumerate(rows):
        y = top + row * row_height
        texts.append(Text(x=left - 8, y=round(y + row_height / 2 + 4, 2), text=label, anchor="end"))
        for column, heat in enumerate(found):
            x = left + column * slot
            place = _place(label, times[column], heat, lang)
            cells.append(_cell(heat, x=round(x, 2), y=y, width=round(slot - 1, 2), height=row_height - 1, title=place))
    key = "days_title" if name == "heat_days" else "hours_title"
    legend, height = _legend(top + len(rows) * row_height + 12, lang)
    return HeatMap(
        name=name,
        title=lang(f"heat.{key}", mark=words.mark(report, lang), period=words.named(report.period, lang)),
        text=text,
        height=height,
        cells=tuple(cells),
        texts=tuple(texts),
        legend=legend,
    )


def _place(place: str, time: str, heat: HeatCell | None, lang: Language) -> str:
    if heat is None:
        return lang("heat.cell_none", place=place, time=time)
    whole = heat.installed_slice_ms
    return lang(
        "heat.cell",
        place=place,
        time=time,
        low=lang.percent(share_down(heat.idle_slice_ms, whole)),
        high=lang.percent(share_up(heat.idle_slice_ms + heat.unknown_slice_ms, whole)),
        dark=lang.percent(share_up(heat.dark_slice_ms, whole)),
        whole=hours(whole),
    )


def _cell(heat: HeatCell | None, *, x: float, y: float, width: float, height: float, title: str) -> Cell:
    color, ink, text, dark_width = "", "", "", 0.0
    if heat is not None:
        observed = heat.installed_slice_ms - heat.dark_slice_ms
        dark_width = round(width * heat.dark_slice_ms / heat.installed_slice_ms, 2)
        if observed > 0:
            share = heat.idle_slice_ms * 100 // observed
            color, ink = _RAMP[min(share // 20, 4)]
            text = str(share) if width - dark_width >= 17 else ""
        elif width >= 17:
            text = ABSENT
            ink = "#ffffff"
    return Cell(
        x=x, y=y, width=width, height=height, dark_width=dark_width, color=color, ink=ink, text=text, title=title
    )


def _legend(top: float, lang: Language) -> tuple[tuple[Swatch, ...], float]:
    keys = [
        (color, False, lang("heat.class", low=20 * index, high=20 * index + 20))
        for index, (color, _) in enumerate(_RAMP)
    ]
    keys += [("", True, lang("heat.dark")), ("", False, lang("heat.none"))]
    swatches = []
    x, y = 0.0, top
    for color, is_dark, label in keys:
        width = 26 + text_width(label) + 14
        if x + width > WIDTH:
            x, y = 0.0, y + _LEGEND_ROW
        swatches.append(Swatch(x=round(x, 2), y=y, color=color, is_dark=is_dark, label=label))
        x += width
    return tuple(swatches), y + _LEGEND_ROW
