# SPDX-License-Identifier: Apache-2.0
"""Charts as geometry: stacked bars of states, in the units of an SVG view box. Templates only draw what is here.

Edges are cumulative sums scaled once each, so the segments of a bar meet and fill it. Never colour alone: segments
carry their state's letter where it fits, a title always, and unknown time a pattern.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from gpuledger.cells import DAY_MS, floor_to
from gpuledger_collector.palette import LOOKS, Look
from gpuledger_collector.report import words
from gpuledger_collector.report.languages import Language
from gpuledger_collector.report.layout import TOP
from gpuledger_collector.report.model import Totals, Weekly

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


def days_chart(report: Weekly, lang: Language) -> Chart:
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
            texts.append(Text(x=round(middle, 2), y=bottom + 17, text=lang.day(day_ms), anchor="middle"))
        totals = by_day.get(day_ms)
        if totals is None:
            if is_named:
                texts.append(
                    Text(x=round(middle, 2), y=bottom - 6, text=lang("days.no_figures"), anchor="middle", is_quiet=True)
                )
            continue
        label = lang.day(day_ms)
        for look, letter, low, high, title in _stack(report, totals, label, lang):
            y1, y2 = round(bottom - high * (bottom - top), 2), round(bottom - low * (bottom - top), 2)
            x, width = round(middle - slot * 0.36, 2), round(slot * 0.72, 2)
            segments.append(
                Segment(look=look, letter=letter, x=x, y=y1, width=width, height=round(y2 - y1, 2), title=title)
            )
    lines = []
    for share in (0, 25, 50, 75, 100):
        y = round(bottom - share / 100 * (bottom - top), 2)
        lines.append(Line(x1=_LEFT, y1=y, x2=WIDTH, y2=y))
        texts.append(Text(x=_LEFT - 6, y=y + 4, text=lang("number.percent", number=share), anchor="end", is_quiet=True))
    legend, height = legend_of(report, bottom + 34, lang)
    return Chart(
        name="days",
        title=lang("days.chart_title", mark=words.mark(report, lang), period=words.named(report.period, lang)),
        text=lang("days.chart_text"),
        height=height,
        segments=tuple(segments),
        texts=tuple(texts),
        lines=tuple(lines),
        legend=legend,
    )


def sites_chart(report: Weekly, lang: Language) -> Chart:
    """Return one bar a site, the largest first."""
    sites = sorted(report.sites, key=lambda site: (-site.totals.installed_slice_ms, site.site))
    left, right, row, top = 150.0, WIDTH - 118.0, 30.0, 24.0
    segments: list[Segment] = []
    texts: list[Text] = [Text(x=WIDTH, y=16, text=lang("where.idle"), anchor="end", is_quiet=True)]
    for number, site in enumerate(sites[:TOP]):
        y = top + number * row
        name = lang.name(site.site, 20)
        texts.append(Text(x=left - 10, y=y + 15, text=name, anchor="end"))
        texts.append(Text(x=WIDTH, y=y + 15, text=lang.percent_range(site.totals.idle), anchor="end"))
        for look, letter, low, high, title in _stack(report, site.totals, name, lang):
            x1, x2 = round(left + low * (right - left), 2), round(left + high * (right - left), 2)
            segments.append(
                Segment(look=look, letter=letter, x=x1, y=y, width=round(x2 - x1, 2), height=21.0, title=title)
            )
    bottom = top + len(sites[:TOP]) * row
    lines = []
    for share in (0, 50, 100):
        x = round(left + share / 100 * (right - left), 2)
        lines.append(Line(x1=x, y1=top - 4, x2=x, y2=bottom))
        texts.append(Text(x=x, y=16, text=lang("number.percent", number=share), anchor="middle", is_quiet=True))
    more = ""
    if len(sites) > TOP:
        more = lang("where.chart_more", sites=lang.count(len(sites) - TOP, "smaller_site"))
    legend, height = legend_of(report, bottom + 12, lang)
    return Chart(
        name="sites",
        title=lang("where.chart_title", mark=words.mark(report, lang), period=words.named(report.period, lang)),
        text=lang("where.chart_text") + more,
        height=height,
        segments=tuple(segments),
        texts=tuple(texts),
        lines=tuple(lines),
        legend=legend,
    )


def _stack(report: Weekly, totals: Totals, label: str, lang: Language) -> Sequence[tuple[Look, str, float, float, str]]:
    """Return (look, letter, lower edge, upper edge, title) of each state with time, as parts of 1 from busy to dark."""
    parts = []
    below = 0
    for time in totals.states:
        if time.slice_ms == 0:
            continue
        above = below + time.slice_ms
        title = lang(
            "days.segment",
            label=label,
            state=words.state_label(time.state, report, lang),
            share=lang.percent(time.share),
            fraction=lang.fraction(time.share),
        )
        low, high = below / totals.installed_slice_ms, above / totals.installed_slice_ms
        parts.append((LOOKS[time.state], words.state_letter(time.state, report, lang), low, high, title))
        below = above
    return parts


def legend_of(report: Weekly, top: float, lang: Language) -> tuple[tuple[Key, ...], float]:
    """Return the legend's items, set in rows, and the y below it."""
    assert report.headline is not None
    items = []
    x, y = _LEFT, top
    for time in report.headline.states:
        if time.slice_ms == 0:
            continue
        label = words.state_label(time.state, report, lang)
        width = 26 + text_width(label) + 16
        if x + width > WIDTH:
            x, y = _LEFT, y + _LEGEND_ROW
        letter = words.state_letter(time.state, report, lang)
        items.append(Key(look=LOOKS[time.state], letter=letter, label=label, x=round(x, 2), y=y))
        x += width
    return tuple(items), y + _LEGEND_ROW


def text_width(text: str) -> float:
    """Return about how wide a text is at the charts' size; wide characters are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in text) * _CHARACTER_WIDTH
