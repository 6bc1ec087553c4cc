# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML file: style and charts within it, nothing fetched, no script."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from gpuledger_collector.report import amounts, source_words, words
from gpuledger_collector.report.charts import WIDTH, days_chart, sites_chart
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.tables import headline_table, sections


def weekly_to_html(report: Weekly) -> str:
    """Return the report as an HTML document."""
    charts = {} if report.headline is None else {"days": days_chart(report), "sites": sites_chart(report)}
    return _template().render(
        report=report,
        totals=report.headline,
        words=words,
        amounts=amounts,
        source_words=source_words,
        sections=sections(report),
        headline_table=headline_table(report),
        charts=charts,
        chart_width=WIDTH,
        mark=words.mark(report),
    )


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
    return environment.get_template("weekly.html.j2")
