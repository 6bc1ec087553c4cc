# SPDX-License-Identifier: Apache-2.0
"""`gpuledger workload list|show|label|unlabel`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gpuledger.clock import SystemClock
from gpuledger.errors import ConfigurationError, GpuledgerError
from gpuledger.process_rules import load_rules
from gpuledger_collector.classify import words
from gpuledger_collector.classify.declared import OWN_RULES
from gpuledger_collector.classify.identity import LABELS
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.declared_rules import load_declared_rules
from gpuledger_collector.log import LogInUseError
from gpuledger_collector.options import config_option, iso, now_ms, require_directory, settings_of, state_dir_option
from gpuledger_collector.store import Store
from gpuledger_collector.workload_book import WorkloadBook
from gpuledger_collector.workload_rows import WorkloadRow
from gpuledger_collector.workload_view import (
    LIST_MAX,
    SLICE_MS_PER_GPU_HOUR,
    WorkloadView,
    describe,
    listed,
    row_to_plain,
    to_plain,
)

DAY_MS = 86_400_000
_id_argument = click.argument("workload_id", metavar="ID")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def workload() -> None:
    """Say what workloads are for, and why; confirm what they are."""


@workload.command("list")
@config_option
@state_dir_option
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only of this kind.")
@click.option("--days", type=click.IntRange(1, 3650), default=7, show_default=True, help="That ran in the last days.")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True, help="How many at most.")
@_json_option
def list_workloads(
    config_file: Path | None, kind: str | None, days: int, limit: int, as_json: bool, **flags: Any
) -> None:
    """Print the workloads with most GPU time, and what each is said to be for.

    Exit codes: 0 printed, 1 the state directory cannot be used, 2 usage or configuration.
    """
    config = _settings(config_file, flags)
    with Store(config.state_dir, read_only=True) as store:
        wanted = None if kind is None else Kind(kind)
        rows = listed(store, kind=wanted, since_ms=now_ms() - days * DAY_MS, limit=limit)
        mark = "SIMULATED\n" if store.is_simulated() else ""
        simulated = store.is_simulated()
    if as_json:
        document = {"simulated": simulated, "workloads": [row_to_plain(row) for row in rows]}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(mark + f"{'GPU-hours':>10} {'GPUs':>5}  {'kind':<26}  workload")
    for row in rows:
        click.echo(f"{_hours(row.busy_slice_ms + row.held_slice_ms):>10} {row.gpus_max:>5}  {_kind(row):<26}  {row.id}")


@workload.command("show")
@_id_argument
@config_option
@state_dir_option
@_json_option
def show_workload(workload_id: str, config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Print what a workload is said to be for and why: every piece of evidence with its weight.

    Exit codes: 0 printed, 1 there is no such workload, 2 usage or configuration.
    """
    config = _settings(config_file, flags)
    with Store(config.state_dir, read_only=True) as store:
        view = _view(store, config, workload_id)
        is_simulated = store.is_simulated()
    if as_json:
        click.echo(json.dumps({"simulated": is_simulated} | to_plain(view), indent=2))
        return
    for line in _lines(view, is_simulated=is_simulated):
        click.echo(line)


@workload.command("label")
@_id_argument
@click.argument("kind", type=click.Choice(LABELS))
@config_option
@state_dir_option
def label_workload(workload_id: str, kind: str, config_file: Path | None, **flags: Any) -> None:
    """Confirm what a workload is for. The label goes into the log, and calibrates workloads with the same evidence.

    Exit codes: 0 labelled, 1 there is no such workload, 2 usage or configuration.
    """
    _label(_settings(config_file, flags), workload_id, kind)


@workload.command("unlabel")
@_id_argument
@config_option
@state_dir_option
def unlabel_workload(workload_id: str, config_file: Path | None, **flags: Any) -> None:
    """Take a workload's label away.

    Exit codes: 0 done, 1 there is no such workload, 2 usage or configuration.
    """
    _label(_settings(config_file, flags), workload_id, None)


def _settings(config_file: Path | None, flags: dict[str, Any]) -> CollectorConfig:
    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    return config


def open_book(store: Store, config: CollectorConfig) -> WorkloadBook:
    """Return the book that judges by the rules in force; raises ConfigurationError."""
    declared = OWN_RULES if config.declared_rules is None else load_declared_rules(config.declared_rules)
    return WorkloadBook(store, load_rules(config.process_rules).rules, declared)


def _view(store: Store, config: CollectorConfig, workload_id: str) -> WorkloadView:
    rows = store.rows("SELECT owner FROM workload WHERE id = ?", workload_id)
    names = store.names(owner for (owner,) in rows if owner is not None)
    view = describe(store, open_book(store, config), workload_id, names)
    if view is None:
        raise GpuledgerError(f"there is no workload {workload_id!r}; gpuledger workload list prints those there are")
    return view


def _label(config: CollectorConfig, workload_id: str, kind: str | None) -> None:
    from gpuledger_collector.label_book import ask
    from gpuledger_collector.state import open_state

    with Store(config.state_dir, read_only=True) as store:
        _view(store, config, workload_id)
    ask(config.state_dir, workload_id, kind, SystemClock().wall_ns())
    try:
        with open_state(config, now_ms()) as state:
            state.labels.sync(now_ms())
            view = _view(state.store, config, workload_id)
    except LogInUseError:
        click.echo(f"{workload_id}: asked for; the running collector takes it in with its next refresh")
        return
    except ConfigurationError as exc:
        raise ConfigurationError(f"the label waits in {config.state_dir}/labels: {exc}") from exc
    click.echo(f"{workload_id}: {words.headline(view.verdict)}")


def _kind(row: WorkloadRow) -> str:
    if row.kind is not Kind.UNCLASSIFIED:
        tags = f" ({', '.join(row.tags)})" if row.tags else ""
        return f"{row.kind}{tags}"
    return "unclassified" if row.lean is None else f"unclassified ({row.lean}?)"


def _hours(slice_ms: int) -> str:
    return f"{slice_ms / SLICE_MS_PER_GPU_HOUR:,.1f}"


def _lines(view: WorkloadView, *, is_simulated: bool) -> Iterator[str]:
    row = view.row
    mark = "SIMULATED: " if is_simulated else ""
    yield f"{mark}{row.id}: {words.headline(view.verdict)}"
    for line in words.evidence(view.verdict):
        yield f"  {line}"
    owner = "unknown" if view.owner is None else view.owner
    yield f"owner {owner}, site {row.site}, {row.source or 'source unknown'}, nodes {', '.join(view.nodes)}"
    yield f"seen {iso(row.first_ms)} to {iso(row.end_ms)}, at most {row.gpus_max} GPUs at once"
    for time in view.times:
        busy, held = _hours(time.busy_slice_ms), _hours(time.held_slice_ms)
        yield f"while taken for {time.kind}: {busy} GPU-hours busy, {held} held"
    for at_ms, kind in view.history:
        yield f"{iso(at_ms)} {kind}, from readings"
    for at_ms, label in view.labels:
        yield f"{iso(at_ms)} " + ("label taken away" if label is None else f"labelled {label}")
    for span in view.spans[-24:]:
        yield f"{iso(span.start_ms)} to {iso(span.end_ms)} {span.gpus} GPUs at {span.nodes} nodes"
