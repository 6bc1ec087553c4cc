# SPDX-License-Identifier: Apache-2.0
"""`gpuledger collector run|credential|config|retention`, `ledger rebuild|digest`, `log check|show|keys|restore|...`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gpuledger import logs
from gpuledger.credential_command import credential
from gpuledger.errors import ConfigurationError, GpuledgerError, SealError
from gpuledger.settings import describe
from gpuledger_collector import config as collector_config
from gpuledger_collector.options import (
    config_option,
    iso,
    now_ms,
    require_directory,
    settings_of,
    state_dir_option,
    time_ms,
)

_Command = Callable[..., Any]


def _run_options(command: _Command) -> _Command:
    options = (
        click.option("--listen", metavar="HOST:PORT", help="Where to serve page, API and metrics."),
        state_dir_option,
        click.option("--roster", type=click.Path(path_type=Path), help="Declared roster, TOML or CSV."),
        click.option("--accept-simulated", is_flag=True, default=None, help="Take in SIMULATED readings too."),
    )
    for option in reversed((config_option, *options)):
        command = option(command)
    return command


# ---------------------------------------------------------------------------------------------- collector


@click.group()
def collector() -> None:
    """Take in the fleet's readings and serve its page."""


@collector.command()
@_run_options
def run(config_file: Path | None, **flags: Any) -> None:
    """Poll the agents, keep log and ledger, serve page, API and metrics until SIGTERM or SIGINT.

    Exit codes: 0 stopped, 1 the state directory or the port cannot be used, 2 usage or configuration.
    """
    config = settings_of(config_file, **flags)
    logs.configure(config.log_level)
    # Here and not above: every other command does without the web server.
    from gpuledger_collector import program

    code = program.run(config, config_file)
    click.get_current_context().exit(code)


collector.add_command(credential)


@collector.command("config")
@_run_options
def show_config(config_file: Path | None, **flags: Any) -> None:
    """Print each setting with where it comes from.

    Exit codes: 0 printed, 2 usage or configuration.
    """
    for key, value, origin in describe(collector_config.load(config_file, os.environ, flags)):
        click.echo(f"{key} = {value!s}  # {origin}")


@collector.command()
@config_option
@state_dir_option
def retention(config_file: Path | None, **flags: Any) -> None:
    """Print what retention.* would take out now, and what is out already. Changes nothing, the collector does.

    May run beside a collector. Exit codes: 0 printed, 1 the state directory cannot be used, 2 usage or configuration.
    """
    from gpuledger_collector.ledger_files import DIRECTORY, LedgerFiles
    from gpuledger_collector.retention import describe_plan, plan
    from gpuledger_collector.state import open_log
    from gpuledger_collector.store import Store

    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    with open_log(config.state_dir) as opened, Store(config.state_dir, read_only=True) as store:
        files = LedgerFiles(config.state_dir / DIRECTORY, store)
        wanted = plan(config.policy, opened, store, files, now_ms())
        for line in describe_plan(config.policy, wanted, store.retained):
            click.echo(line)


# ---------------------------------------------------------------------------------------------- ledger


@click.group()
def ledger() -> None:
    """Rebuild or check the ledger."""


@ledger.command()
@config_option
@state_dir_option
def rebuild(config_file: Path | None, **flags: Any) -> None:
    """Forget index and ledger and make them again from the log. The collector must not be running.

    Exit codes: 0 rebuilt, 1 the log or the state directory cannot be used, 2 usage or configuration.
    """
    from gpuledger_collector.pruning import check_final
    from gpuledger_collector.state import open_state

    config = settings_of(config_file, **flags)
    logs.configure(config.log_level)
    require_directory(config.state_dir)
    with open_state(config, now_ms()) as state:
        before = state.files.extent_if_legible()
        old = _digest_or_none(state.files.digest, before)
        done = state.keeper.rebuild()
        if done.horizon_ms is None:
            click.echo("The log holds nothing to account for: the ledger is empty.")
            return
        extent = state.files.extent()
        new = _digest_or_none(state.files.digest, extent)
        final_ms = state.store.retained.final_ms()
        final = [] if final_ms is None else check_final(state.catalog.log, state.files)
    click.echo(f"Rebuilt {done.hours} hours from {done.readings} readings, up to {iso(done.horizon_ms)}.")
    for sentence in final:
        click.echo(sentence)
    same = "the same as before" if old == new and before == extent else f"before: {'none' if old is None else old}"
    click.echo(f"Digest: {new} ({same})")


def _digest_or_none(digest: Callable[[int, int], str], extent: tuple[int, int] | None) -> str | None:
    """Return the digest of a ledger that may be absent or, being rebuilt, illegible."""
    if extent is None:
        return None
    try:
        return digest(*extent)
    except GpuledgerError:
        return None


@ledger.command("digest")
@config_option
@state_dir_option
@click.option("--from", "start", metavar="TIME", help="Start, like 2026-11-02 or 2026-11-02T08:00Z; default: all.")
@click.option("--to", "end", metavar="TIME", help="End (not included); default: all.")
def show_digest(config_file: Path | None, start: str | None, end: str | None, **flags: Any) -> None:
    """Print the digest of the ledger's rows: equal digests, equal ledgers.

    Exit codes: 0 printed, 1 there is no legible ledger, 2 usage or configuration.
    """
    from gpuledger_collector.ledger_files import open_reader

    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    reader = open_reader(config.state_dir)
    extent = reader.extent()
    if extent is None:
        raise GpuledgerError(f"{config.state_dir}: the ledger is empty")
    start_ms = extent[0] if start is None else time_ms(start, "--from")
    end_ms = extent[1] if end is None else time_ms(end, "--to")
    click.echo(f"{reader.digest(start_ms, end_ms, from_rows=True)}  {iso(start_ms)} to {iso(end_ms)}")


# ---------------------------------------------------------------------------------------------- log


@click.group()
def log() -> None:
    """Check or show the log of sealed readings."""


@log.command("check")
@config_option
@state_dir_option
@click.option(
    "--checkpoint", "kept", type=click.Path(path_type=Path), help="One that somebody kept: the log must continue it."
)
def check(config_file: Path | None, kept: Path | None, **flags: Any) -> None:
    """Prove the whole log again: the tree and its checkpoint, every signature, hash chains, the laws of readings.

    May run beside a collector. Exit codes: 0 the log holds, 1 something in it does not, 2 usage or configuration.
    """
    from gpuledger.checkpoint import verifier_key
    from gpuledger_collector.check import check_log
    from gpuledger_collector.state import open_log

    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    note = None if kept is None else _read_note(kept)
    with open_log(config.state_dir) as opened:
        checked = check_log(opened, note)
        path = opened.path
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(checked.entries.items()))
    click.echo(f"{path}: entries: {counts or 'none'}")
    for origin, public_key in checked.keys.items():
        click.echo(f"signed by {verifier_key(origin, public_key)}")
    click.echo(f"{checked.signatures} signatures hold; {checked.repeated} readings stand there more than once")
    for text in checked.pruned:
        click.echo(f"pruned: {text}")
    for text in checked.findings:
        click.echo(f"finding: {text}")
    for text in checked.failures:
        click.echo(f"FAIL: {text}")
    click.echo(f"{checked.finding_count} findings, {checked.failure_count} failures")
    if checked.failure_count > 0:
        raise GpuledgerError(f"{path}: the log does not hold: {checked.failures[0]}")


def _read_note(path: Path) -> bytes:
    """Return the checkpoint in a file, as a note or in one line."""
    from gpuledger.checkpoint import note_of

    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc
    is_line = data.count(b"\n") <= 1
    try:
        return note_of(data.decode("ascii").strip()) if is_line else data
    except (SealError, ValueError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


@log.command("show")
@config_option
@state_dir_option
def show_log(config_file: Path | None, **flags: Any) -> None:
    """Print the log's newest checkpoint: keep it elsewhere, and the log can be held to it.

    Exit codes: 0 printed, 1 there is none, 2 usage or configuration.
    """
    from gpuledger_collector.state import open_log

    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    with open_log(config.state_dir) as opened:
        note = opened.note()
    if note is None:
        raise GpuledgerError(f"{config.state_dir}: the log has no checkpoint yet")
    click.echo(note.decode("utf-8"), nl=False)


@log.command("keys")
@config_option
@state_dir_option
def show_keys(config_file: Path | None, **flags: Any) -> None:
    """Print the node keys that count as TOML, which can be used as the file of enrolled keys.

    Exit codes: 0 printed, 1 the state directory cannot be used, 2 usage or configuration.
    """
    from gpuledger_collector.enrolment_files import show_enrolment
    from gpuledger_collector.store import Store

    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    with Store(config.state_dir, read_only=True) as store:
        enrolled = store.enrolments()
    click.echo(show_enrolment(enrolled), nl=False)


@log.command("restore")
@config_option
@state_dir_option
def restore_log(config_file: Path | None, **flags: Any) -> None:
    """Make a copy of a state directory, taken while a collector ran, one that a collector opens (docs/backup.md).

    The collector must not be running. Exit codes: 0 restored, 1 the copy cannot be restored, 2 usage or configuration.
    """
    from gpuledger_collector.restoration import restore

    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    done = restore(config)
    click.echo(f"The log has {done.size} entries, of the {done.said} that its checkpoint said.")
    if done.is_index_lost:
        click.echo("The index was copied in two moments: it is put aside (damaged-*), and made again.")
    click.echo("Start the collector: it makes index and ledger again, and asks agents for all that they still hold.")


@log.command("new-origin")
@config_option
@state_dir_option
@click.option("--log-origin", metavar="NAME", help="Its name, like example.com/gpuledger; default: of its key.")
def new_origin(config_file: Path | None, **flags: Any) -> None:
    """Continue the log under a new origin and key, where it may not go on under the old one.

    The collector must not be running. Exit codes: 0 begun, 1 the log or the state directory cannot be used, 2 usage or
    configuration.
    """
    from gpuledger_collector.succession import begin_new_origin

    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    done = begin_new_origin(config, now_ms())
    click.echo(f"{done.previous} ends with {done.size} entries, and {done.origin} continues it.")
    click.echo(f"Its key, for those who verify: {done.verifier_key}")
