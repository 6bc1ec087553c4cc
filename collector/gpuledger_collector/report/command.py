# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report`: reads the ledger, writes reports, prints where they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from gpuledger.errors import ConfigurationError, GpuledgerError, StorageError
from gpuledger_collector import config as collector_config
from gpuledger_collector.node_figures import ReportReader
from gpuledger_collector.report import words
from gpuledger_collector.report.engine_options import engine_options, given, settings_of
from gpuledger_collector.report.files import DEFAULT_FORMATS, FORMATS, forms, write_files
from gpuledger_collector.report.languages import TAGS, language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import Span, default_week, span_between, week_named
from gpuledger_collector.report.weekly import LedgerMovedError, build_weekly

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
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The collector's configuration file.")
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="The collector's state directory.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to write to; default: reports/ in the state directory, with an engine ./reports.",
)
@click.option("--format", "formats", metavar="LIST", default=",".join(DEFAULT_FORMATS), show_default=True)
@click.option(
    "--lang",
    "langs",
    metavar="LIST",
    default=TAGS[0],
    show_default=True,
    help=f"Languages of the files, of {', '.join(TAGS)}.",
)
@click.option("--comparison/--no-comparison", "is_compared", default=True, help="Compare with the week before.")
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
    context: click.Context,
    /,
    *,
    week: str | None,
    start: str | None,
    end: str | None,
    config: Path | None,
    state_dir: Path | None,
    out: Path | None,
    formats: str,
    langs: str,
    is_compared: bool,
    source: str,
    **flags: Any,
) -> None:
    """Write the weekly idle report as Markdown, HTML, CSV and JSON.

    Prints the paths of the files, then the headline. The same ledger gives the same bytes. With --source prometheus it
    needs no agent, collector or roster: it reads what an exporter's gauges left in an engine (docs/engine.md).

    Exit codes: 0 written, 1 the ledger or engine could not be read or the files not written, 2 usage or configuration.
    """
    wanted = names_in("--format", formats, FORMATS)
    languages = [language(tag) for tag in names_in("--lang", langs, TAGS)]
    asked = _asked(week, start, end)
    if source == "prometheus":
        if config is not None or state_dir is not None:
            raise ConfigurationError("--config and --state-dir are the collector's: leave them out with an engine")
        found = _from_engine(asked, flags, is_compared=is_compared)
        directory = Path(_REPORTS)
    else:
        if given(flags):
            raise ConfigurationError(f"{given(flags)[0]} is about an engine: say --source prometheus too")
        state = _state_dir(config, state_dir)
        found = read_weekly(_open(context, state), asked, is_compared=is_compared)
        directory = state / _REPORTS
    made: dict[str, bytes] = {}
    for lang in languages:
        made |= forms(found, wanted, lang)
    for path in write_files(out if out is not None else directory, made):
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


def _from_engine(asked: Span | None, flags: dict[str, Any], *, is_compared: bool) -> Weekly:
    # Here and not above: a report from the ledger needs no web client.
    from gpuledger_collector.engine import config as engine_config  # noqa: PLC0415
    from gpuledger_collector.report.from_engine import read_from_engine  # noqa: PLC0415

    config = engine_config.load(flags["engine_config"], os.environ, settings_of(flags)).value
    return read_from_engine(config, asked, is_compared=is_compared)


def read_weekly(reader: ReportReader, week: Span | None, *, is_compared: bool = True) -> Weekly:
    """Return the report of a week, by default of the last one that the ledger reaches the end of.

    Raises GpuledgerError where an empty ledger leaves no week to choose, or it never stands still.
    """
    if week is None:
        extent = reader.extent()
        if extent is None:
            raise GpuledgerError("the ledger is empty, so there is no last week to report; name one with --week")
        week = default_week(extent)
    for _ in range(_ATTEMPTS - 1):
        try:
            return build_weekly(reader, week, is_compared=is_compared)
        except LedgerMovedError:
            continue
    return build_weekly(reader, week, is_compared=is_compared)


def names_in(option: str, text: str, legal: Sequence[str]) -> tuple[str, ...]:
    """Return the names in a list like "md,html"; raises ConfigurationError naming the one that is not known."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in legal:
            raise ConfigurationError(f"{option}: {name!r} is not one of {', '.join(legal)}")
    return names


def _state_dir(config: Path | None, state_dir: Path | None) -> Path:
    if state_dir is not None and config is None:
        return state_dir
    if config is None:
        raise ConfigurationError("give --config FILE or --state-dir DIR, so that the ledger can be found")
    if state_dir is not None:
        raise ConfigurationError("give either --config or --state-dir, not both")
    return collector_config.load(config, os.environ, {}).value.state_dir


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
