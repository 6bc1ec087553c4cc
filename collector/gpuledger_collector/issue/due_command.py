# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report due`: what cron runs. Issues what is due, once, and says one line about it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gpuledger.clock import SystemClock
from gpuledger.errors import ConfigurationError, StorageError
from gpuledger_collector import config as collector_config
from gpuledger_collector.issue.issued_files import IssuedFiles
from gpuledger_collector.issue.issuing import Outcome, issue_due
from gpuledger_collector.issue.ledger_reading import LedgerReading, open_reading
from gpuledger_collector.issue.plan import Delivery, Plan, due_spans
from gpuledger_collector.issue.plan_files import load_plan
from gpuledger_collector.issue.sending import Sender
from gpuledger_collector.report.periods import iso

ISSUED = Path("reports") / "issued"
"""Where issued reports go below the state directory, unless told otherwise."""
UNREACHABLE = 3


@click.command("due")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The collector's configuration file; its table [report] says what is issued and where it goes.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of issued reports; default: reports/issued in the state directory.",
)
@click.option(
    "--resend", metavar="CHANNEL", help="Send again what was being sent to this channel when a run was killed."
)
@click.option("--dry-run", is_flag=True, help="Only say which periods are due.")
def due(config: Path, out: Path | None, resend: str | None, dry_run: bool) -> None:
    """Issue every report that is due and was not issued yet, oldest first, and deliver it.

    For cron and timers: run it as often as you like, each period is issued once, and a run beside another does nothing.
    Says one line of JSON on standard output where it did something, and nothing otherwise; sentences for people go to
    standard error.

    Exit codes: 0 done, or nothing was due; 1 issued, and coverage was under the floor; 2 usage or configuration; 3 the
    ledger or the directory of reports cannot be used; 4 issued, and a delivery failed: the next run tries again; 75
    another run is at it.
    """
    settings = collector_config.load(config, os.environ, {}).value
    plan = load_plan(config)
    now_ms = SystemClock().wall_ns() // 1_000_000
    files = IssuedFiles(out if out is not None else settings.state_dir / ISSUED)
    try:
        reading = open_reading(settings.state_dir, settings.prices)
        if dry_run:
            _say_due(plan, files, reading, now_ms)
            return
        with files.locked():
            if resend is not None:
                _unstick(plan, files, resend)
            outcome = issue_due(plan, reading, files, Sender(os.environ), now_ms)
    except StorageError as exc:
        click.echo(f"Error: {exc}", err=True)
        raise click.exceptions.Exit(UNREACHABLE) from exc
    _say(outcome, files)
    if outcome.exit_code:
        raise click.exceptions.Exit(outcome.exit_code)


def _say_due(plan: Plan, files: IssuedFiles, reading: LedgerReading, now_ms: int) -> None:
    for span in due_spans(plan, files.read(), reading.extent(), now_ms):
        click.echo(span.name)


def _unstick(plan: Plan, files: IssuedFiles, name: str) -> None:
    if name not in {channel.name for channel in plan.channels}:
        raise ConfigurationError(f"--resend: no channel is called {name!r}")
    for record in files.read():
        if record.delivered.get(name) is Delivery.SENDING:
            files.write(replace(record, delivered={**record.delivered, name: Delivery.FAILED}))


def _say(outcome: Outcome, files: IssuedFiles) -> None:
    for number, name in outcome.stuck:
        text = f"report {number}: a run was killed while sending it to {name}; look whether it arrived"
        click.echo(f"{text}, then run with --resend {name} if it did not", err=True)
    for record in outcome.issued:
        what = f"report {record.number}: {record.kind.value} {record.period}"
        again = "" if record.restates is None else f", restates report {record.restates}"
        click.echo(f"issued {what}{again} in {files.reports}", err=True)
        if not record.is_covered:
            click.echo(f"report {record.number}: coverage is under the floor, so it withholds words", err=True)
    for number, name, why in outcome.failed:
        click.echo(f"report {number} was not delivered to {name}: {why}", err=True)
    if not outcome.is_quiet:
        click.echo(json.dumps(summary(outcome), sort_keys=True))


def summary(outcome: Outcome) -> Mapping[str, Any]:
    """Return what a run did, for a program."""
    return {
        "issued": [
            {
                "number": record.number,
                "period": record.period,
                "restates": record.restates,
                "covered": record.is_covered,
                "files": list(record.files),
            }
            for record in outcome.issued
        ],
        "sent": [{"number": number, "channel": name} for number, name in outcome.sent],
        "failed": [{"number": number, "channel": name, "why": why} for number, name, why in outcome.failed],
        "next_due": None if outcome.next_due_ms is None else iso(outcome.next_due_ms),
    }
