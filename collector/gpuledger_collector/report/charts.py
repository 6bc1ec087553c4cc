# SPDX-License-Identifier: Apache-2.0
"""Charts as geometry: stacked bars of states, in the units of an SVG view box. Templates only draw what is here.

Edges are cumulative sums scaled once each, so the segments of a bar meet and fill it. Never colour alone: segments
carry their state's letter where it fits, a title always, and unknown time a pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuledger.cells import DAY_MS, floor_to
from gpuledger_collector.palette import LOOKS, Look
from gpuledger_collector.report import amounts, words
from gpuledger_collector.report.layout import TOP
from gpuledger_collector.report.model import Totals, Weekly
from gpuledger_collector.report.names import shown
from gpuledger_collector.report.periods import day_text

WIDTH = 760.0
_LEFT = 46.0
_DAYS_NAMED = 8
"""Days with a name under their bar; of more, every second or third has one."""
_LETTER_SIZE = 13.0
_LEGEND_ROW = 20.0
_CHARACTER_WIDTH = 6.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One state's part of a bar."""

    look: Look
    letter: str
    x: float
    y: float
    width: float
    height: float
    title: str

    @property
    def has_letter(self) -> bool:
        return self.width >= _LETTER_SIZE and self.height >= _LETTER_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One text; `anchor` is that of SVG."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    is_quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the axis."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One state in the legend; only states that have time are there."""

    look: Look
    letter: str
    label: str
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart: `name` makes the identifiers in a page unique, `title` and `text` are its text alternative."""

    name: str
    title: str
    text: str
    height: float
    segments: tuple[Segment, ...]
    texts: tuple[Text, ...]
    lines: tuple[Line, ...]
    legend: tuple[Key, ...]


def days_chart(report: Weekly) -> Chart:
    """Return one bar a day, 0 to 100 % of the day's installed time; a day without figures stays empty and says so."""
    top, bottom = 24.0, 194.0
    first_ms = floor_to(report.period.start_ms, DAY_MS)
    days = range(first_ms, report.period.end_ms, DAY_MS)
    slot = (WIDTH - _LEFT) / len(days)
    segments: list[Segment] = []
    texts: list[Text] = []
    by_day = {day.day_ms: day.totals for day in report.days}
    for number, day_ms in enumerate(days):
        middle = _LEFT + (number + 0.5) * slot
        is_named = number % -(-len(days) // _DAYS_NAMED) == 0
        if is_named:
            texts.append(Text(x=round(middle, 2), y=bottom + 17, text=day_text(day_ms), anchor="middle"))
        totals = by_day.get(day_ms)
        if totals is None:
            if is_named:
                texts.append(Text(x=round(middle, 2), y=bottom - 6, text="no figures", anchor="middle", is_quiet=True))
            continue
        label = day_text(day_ms)
        for look, letter, low, high, title in _stack(report, totals, label):
            y1, y2 = round(bottom - high * (bottom - top), 2), round(bottom - low * (bottom - top), 2)
            x, width = round(middle - slot * 0.36, 2), round(slot * 0.72, 2)
            segments.append(
                Segment(look=look, letter=letter, x=x, y=y1, width=width, height=round(y2 - y1, 2), title=title)
            )
    lines = []
    for share in (0, 25, 50, 75, 100):
        y = round(bottom - share / 100 * (bottom - top), 2)
        lines.append(Line(x1=_LEFT, y1=y, x2=WIDTH, y2=y))
        texts.append(Text(x=_LEFT - 6, y=y + 4, text=f"{share} %", anchor="end", is_quiet=True))
    legend, height = _legend(report, bottom + 34)
    return Chart(
        name="days",
        title=f"{words.mark(report)}States by day, {words.named(report.period)}",
        text="Stacked bars, one a day, as a share of installed time. The table below has the same figures.",
        height=height,
        segments=tuple(segments),
        texts=tuple(texts),
        lines=tuple(lines),
        legend=legend,
    )


def sites_chart(report: Weekly) -> Chart:
    """Return one bar a site, the largest first."""
    sites = sorted(report.sites, key=lambda site: (-site.totals.installed_slice_ms, site.site))
    left, right, row, top = 150.0, WIDTH - 118.0, 30.0, 24.0
    segments: list[Segment] = []
    texts: list[Text] = [Text(x=WIDTH, y=16, text="idle", anchor="end", is_quiet=True)]
    for number, site in enumerate(sites[:TOP]):
        y = top + number * row
        name = shown(site.site, 20)
        texts.append(Text(x=left - 10, y=y + 15, text=name, anchor="end"))
        texts.append(Text(x=WIDTH, y=y + 15, text=amounts.percent_range(site.totals.idle), anchor="end"))
        for look, letter, low, high, title in _stack(report, site.totals, name):
            x1, x2 = round(left + low * (right - left), 2), round(left + high * (right - left), 2)
            segments.append(
                Segment(look=look, letter=letter, x=x1, y=y, width=round(x2 - x1, 2), height=21.0, title=title)
            )
    bottom = top + len(sites[:TOP]) * row
    lines = []
    for share in (0, 50, 100):
        x = round(left + share / 100 * (right - left), 2)
        lines.append(Line(x1=x, y1=top - 4, x2=x, y2=bottom))
        texts.append(Text(x=x, y=16, text=f"{share} %", anchor="middle", is_quiet=True))
    more = ""
    if len(sites) > TOP:
        more = f" {amounts.count(len(sites) - TOP, 'smaller site')} are not drawn; the CSV has them."
    legend, height = _legend(report, bottom + 12)
    return Chart(
        name="sites",
        title=f"{words.mark(report)}States by site, {words.named(report.period)}",
        text=f"Stacked bars, one a site, as a share of installed time.{more}",
        height=height,
        segments=tuple(segments),
        texts=tuple(texts),
        lines=tuple(lines),
        legend=legend,
    )


def _stack(report: Weekly, totals: Totals, label: str) -> Sequence[tuple[Look, str, float, float, str]]:
    """Return (look, letter, lower edge, upper edge, title) of each state with time, as parts of 1 from busy to dark."""
    parts = []
    below = 0
    for time in totals.states:
        if time.slice_ms == 0:
            continue
        above = below + time.slice_ms
        name = words.state_label(time.state, report)
        title = f"{label}: {name} {amounts.percent(time.share)}, {amounts.fraction(time.share)}"
        low, high = below / totals.installed_slice_ms, above / totals.installed_slice_ms
        parts.append((LOOKS[time.state], words.state_letter(time.state, report), low, high, title))
        below = above
    return parts


def _legend(report: Weekly, top: float) -> tuple[tuple[Key, ...], float]:
    """Return the legend's items, set in rows, and the y below it."""
    assert report.headline is not None
    items = []
    x, y = _LEFT, top
    for time in report.headline.states:
        if time.slice_ms == 0:
            continue
        label = words.state_label(time.state, report)
        width = 26 + len(label) * _CHARACTER_WIDTH + 16
        if x + width > WIDTH:
            x, y = _LEFT, y + _LEGEND_ROW
        letter = words.state_letter(time.state, report)
        items.append(Key(look=LOOKS[time.state], letter=letter, label=label, x=round(x, 2), y=y))
        x += width
    return tuple(items), y + _LEGEND_ROW
