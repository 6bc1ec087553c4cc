# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report`: reads the ledger, writes reports, prints where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gpuledger.errors import ConfigurationError, GpuledgerError, StorageError
from gpuledger_collector.finance.book import PriceBook
from gpuledger_collector.node_figures import ReportReader
from gpuledger_collector.report import words
from gpuledger_collector.report.command_options import config_of, extract_of, prices_of, report_options, wanted
from gpuledger_collector.report.engine_options import engine_options, given, settings_of
from gpuledger_collector.report.files import forms, write_files
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import (
    PeriodKind,
    Span,
    default_span,
    month_named,
    span_between,
    span_named,
    week_named,
)
from gpuledger_collector.report.use import UseReader
from gpuledger_collector.report.weekly import Extract, LedgerMovedError, build_weekly

SOURCES = ("agents", "prometheus")
_ATTEMPTS = 3
_REPORTS = "reports"
"""Where reports go below the state directory, or the current one, unless told otherwise."""


@click.group("report")
def report() -> None:
    """Write reports from the ledger."""


@report.command("weekly")
@click.option("--week", metavar="YEAR-WEEK", help="ISO week like 2026-W47; default: the last one that the ledger ends.")
@click.option("--from", "start", metavar="TIME", help="Instead of a week: start, like 2026-11-02 or 2026-11-02T08:00Z.")
@click.option("--to", "end", metavar="TIME", help="End of that (not included).")
@report_options
@click.option(
    "--source",
    type=click.Choice(SOURCES),
    default=SOURCES[0],
    show_default=True,
    help="The collector's ledger of agents, or an engine like Prometheus; what follows is about the engine.",
)
@engine_options
@click.pass_context
def weekly(
    context: click.Context, /, *, week: str | None, start: str | None, end: str | None, source: str, **flags: Any
) -> None:
    """Write the weekly idle report as Markdown, HTML, CSV and JSON, and as PDF if asked for.

    Prints the paths of the files, then the headline. The same ledger gives the same bytes. With --source prometheus it
    needs no agent, collector or roster: it reads what an exporter's gauges left in an engine (docs/engine.md).

    Exit codes: 0 written, 1 the ledger or engine could not be read or the files not written, 2 usage or configuration.
    """
    wanted(flags)
    asked = _asked(week, start, end)
    if source == "prometheus":
        if flags["config"] is not None or flags["state_dir"] is not None:
            raise ConfigurationError("--config and --state-dir are the collector's: leave them out with an engine")
        _write(_from_engine(asked, flags), flags, Path(_REPORTS))
        return
    if given(flags):
        raise ConfigurationError(f"{given(flags)[0]} is about an engine: say --source prometheus too")
    _write_from_ledger(context, asked, PeriodKind.WEEK, flags)


@report.command("monthly")
@click.option("--month", metavar="YEAR-MONTH", help="Month like 2026-11; default: the last one that the ledger ends.")
@report_options
@click.pass_context
def monthly(context: click.Context, /, *, month: str | None, **flags: Any) -> None:
    """Write the idle report of a calendar month of UTC: the weekly one, over a month, compared with the month before.

    Exit codes: 0 written, 1 the ledger could not be read or the files not written, 2 usage or configuration.
    """
    wanted(flags)
    _write_from_ledger(context, None if month is None else month_named(month), PeriodKind.MONTH, flags)


def _write_from_ledger(context: click.Context, asked: Span | None, kind: PeriodKind, flags: dict[str, Any]) -> None:
    config = config_of(flags["config"], flags["state_dir"])
    state = flags["state_dir"] if config is None else config.state_dir
    book, extract = prices_of(flags, config), extract_of(flags, config)
    other = None if flags["compare"] is None else span_named(flags["compare"])
    found = read_report(
        _open(context, state),
        asked,
        kind=kind,
        is_compared=flags["is_compared"],
        other=other,
        extract=extract,
        book=book,
        use=None if context.obj is not None else read_use(state),
    )
    _write(found, flags, state / _REPORTS)


def _write(found: Weekly, flags: dict[str, Any], directory: Path) -> None:
    formats, languages = wanted(flags)
    made: dict[str, bytes] = {}
    for lang in languages:
        made |= forms(found, formats, lang)
    for path in write_files(flags["out"] if flags["out"] is not None else directory, made):
        click.echo(path)
    for lang in languages:
        click.echo(words.headline(found, lang))


def _asked(week: str | None, start: str | None, end: str | None) -> Span | None:
    if start is None and end is None:
        return None if week is None else week_named(week)
    if week is not None:
        raise ConfigurationError("give either --week, or --from and --to")
    if start is None or end is None:
        raise ConfigurationError("--from and --to go together")
    return span_between(start, end)


def _from_engine(asked: Span | None, flags: dict[str, Any]) -> Weekly:
    # Here and not above: a report from the ledger needs no web client.
    from gpuledger_collector.engine import config as engine_config  # noqa: PLC0415
    from gpuledger_collector.report.from_engine import read_from_engine  # noqa: PLC0415

    for name in ("compare", "site", "pool", "model", "tenant"):
        if flags[name]:
            raise ConfigurationError(f"--{name} is about the collector's ledger; with an engine use --match")
    config = engine_config.load(flags["engine_config"], os.environ, settings_of(flags)).value
    return read_from_engine(config, asked, is_compared=flags["is_compared"], book=prices_of(flags, None))


def read_report(
    reader: ReportReader,
    span: Span | None,
    *,
    kind: PeriodKind = PeriodKind.WEEK,
    is_compared: bool = True,
    other: Span | None = None,
    extract: Extract | None = None,
    book: PriceBook | None = None,
    use: UseReader | None = None,
) -> Weekly:
    """Return the report of a period, by default of the last one of its kind that the ledger reaches the end of.

    Raises GpuledgerError where an empty ledger leaves no period to choose, or it never stands still.
    """
    if span is None:
        extent = reader.extent()
        if extent is None:
            raise GpuledgerError(f"the ledger is empty, so there is no last {kind} to report; name one with --{kind}")
        span = default_span(extent, kind)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return build_weekly(reader, span, is_compared=is_compared, other=other, extract=extract, book=book, use=use)
        except LedgerMovedError:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def read_use(directory: Path) -> UseReader:
    """Return what tells what GPU time was used for, beside the ledger of a state directory."""
    from gpuledger_collector.ledger_files import open_reader  # noqa: PLC0415 - as below
    from gpuledger_collector.store import Store  # noqa: PLC0415
    from gpuledger_collector.workload_demand import LedgerDemand  # noqa: PLC0415

    return LedgerDemand(open_reader(directory), Store(directory, read_only=True)).demand


def _open(context: click.Context, directory: Path) -> ReportReader:
    # Whoever calls the command from a program may bring a reader of its own.
    if context.obj is not None:
        bring: Callable[[Path], ReportReader] = context.obj
        return bring(directory)
    if not directory.is_dir():
        raise StorageError(f"{directory}: no such state directory")
    # Here and not above: DuckDB is slow to import, and a wrong week need not wait for it.
    from gpuledger_collector.ledger_files import open_reader  # noqa: PLC0415

    return open_reader(directory)
