# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML file: style and charts within it, nothing fetched, no script."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from gpuledger_collector.report import amounts, heat, words
from gpuledger_collector.report.charts import WIDTH, days_chart, sites_chart
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.method_words import method_lines
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.tables import headline_table, sections
from gpuledger_collector.report.tiles import tiles_of

_FIGURES = {
    "days": days_chart,
    "sites": sites_chart,
    "heat_days": heat.days_map,
    "heat_hours": heat.hours_map,
}


def weekly_to_html(report: Weekly, lang: Language = ENGLISH, *, paper_fonts: str = "") -> str:
    """Return the report as an HTML document; `paper_fonts` are families to set it in on paper."""
    totals = report.headline
    return _template().render(
        report=report,
        lang=lang,
        totals=totals,
        words=words,
        tiles=() if totals is None else tiles_of(report, totals, lang),
        sections=sections(report, lang),
        headline_table=headline_table(report, lang),
        method_lines=method_lines(report, lang),
        figures={} if totals is None else {name: draw(report, lang) for name, draw in _FIGURES.items()},
        chart_width=WIDTH,
        mark=words.mark(report, lang),
        zero=amounts.hours(0),
        paper_fonts=paper_fonts,
    )


def _unbroken(text: str) -> str:
    """Return the text with its numbers tied to their units."""
    return re.sub(r"(?<=[0-9]) (?=%)", "\N{NO-BREAK SPACE}", text)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("gpuledger_collector.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template("weekly.html.j2")
