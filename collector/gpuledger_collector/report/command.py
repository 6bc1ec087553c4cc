# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report`: reads the ledger, writes reports, prints where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from gpuledger.errors import ConfigurationError, GpuledgerError, StorageError
from gpuledger_collector import config as collector_config
from gpuledger_collector.figures import LedgerReader
from gpuledger_collector.report import words
from gpuledger_collector.report.files import FORMATS, forms, write_files
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import Week, default_week, week_named
from gpuledger_collector.report.weekly import LedgerMovedError, build_weekly

_ATTEMPTS = 3
_REPORTS = "reports"
"""Where reports go below the state directory unless told otherwise."""


@click.group("report")
def report() -> None:
    """Write reports from the ledger."""


@report.command("weekly")
@click.option("--week", metavar="YEAR-WEEK", help="ISO week like 2026-W47; default: the last one that the ledger ends.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The collector's configuration file.")
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="The collector's state directory.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to write to; default: reports/ in the state directory.",
)
@click.option("--format", "formats", metavar="LIST", default=",".join(FORMATS), show_default=True)
@click.pass_context
def weekly(
    context: click.Context,
    week: str | None,
    config: Path | None,
    state_dir: Path | None,
    out: Path | None,
    formats: str,
) -> None:
    """Write the weekly idle report as Markdown, HTML, CSV and JSON.

    Prints the paths of the files, then the headline. The same ledger gives the same bytes. Exit codes: 0 written,
    1 the ledger could not be read or the files not written, 2 usage or configuration.
    """
    wanted = formats_named(formats)
    asked = None if week is None else week_named(week)
    directory = _state_dir(config, state_dir)
    reader = _open(context, directory)
    found = read_weekly(reader, asked)
    paths = write_files(out if out is not None else directory / _REPORTS, forms(found, wanted))
    for path in paths:
        click.echo(path)
    click.echo(words.headline(found))


def read_weekly(reader: LedgerReader, week: Week | None) -> Weekly:
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
            return build_weekly(reader, week)
        except LedgerMovedError:
            continue
    return build_weekly(reader, week)


def formats_named(text: str) -> tuple[str, ...]:
    """Return the formats in a list like "md,html"; raises ConfigurationError naming the one that is not known."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise ConfigurationError(f"--format: {name!r} is not one of {', '.join(FORMATS)}")
    return names


def _state_dir(config: Path | None, state_dir: Path | None) -> Path:
    if state_dir is not None and config is None:
        return state_dir
    if config is None:
        raise ConfigurationError("give --config FILE or --state-dir DIR, so that the ledger can be found")
    if state_dir is not None:
        raise ConfigurationError("give either --config or --state-dir, not both")
    return collector_config.load(config, os.environ, {}).value.state_dir


def _open(context: click.Context, directory: Path) -> LedgerReader:
    # Whoever calls the command from a program may bring a reader of its own.
    if context.obj is not None:
        bring: Callable[[Path], LedgerReader] = context.obj
        return bring(directory)
    if not directory.is_dir():
        raise StorageError(f"{directory}: no such state directory")
    # Here and not above: DuckDB is slow to import, and a wrong week need not wait for it.
    from gpuledger_collector.ledger_files import open_reader  # noqa: PLC0415

    return open_reader(directory)
