# SPDX-License-Identifier: Apache-2.0
"""`gpuledger roster check|diff|import|show`."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from gpuledger.errors import ConfigurationError, GpuledgerError
from gpuledger_collector.lease_files import load_leases
from gpuledger_collector.options import config_option, iso, now_ms, require_directory, settings_of, state_dir_option
from gpuledger_collector.roster import Entry
from gpuledger_collector.roster_change import compare
from gpuledger_collector.roster_files import GPU_KEYS, SERIAL_PREFIX, load_roster
from gpuledger_collector.roster_import import import_rows
from gpuledger_collector.store import Store

_file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def roster() -> None:
    """Check, compare, import or show the roster."""


@roster.command("check")
@_file_argument
@click.option("--leases", type=click.Path(path_type=Path), help="Check this lease book against the roster, too.")
def check_roster(file: Path, leases: Path | None) -> None:
    """Say what a roster file declares, or what is wrong with it and where.

    Exit codes: 0 it is right, 2 it is wrong.
    """
    declared = load_roster(file)
    gpus = len({entry.gpu for entry in declared.entries})
    nodes = len({entry.node for entry in declared.entries})
    entries, windows = len(declared.entries), len(declared.windows)
    click.echo(f"{file}: {gpus} GPUs at {nodes} nodes in {entries} entries, {windows} windows")
    if leases is not None:
        book = load_leases(leases, declared.entries).book
        tenants = len({lease.tenant for lease in book.leases})
        click.echo(f"{leases}: {len(book.leases)} leases of {tenants} tenants, complete from {iso(book.from_ms)}")


@roster.command("diff")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def diff_rosters(before: Path, after: Path) -> None:
    """Say what turns one roster into another, and mark what changes the past.

    A roster's history is only added to: entries begin or end from now on. Lines with REWRITES THE PAST change what was
    installed before now, and with it figures that somebody may hold.

    Exit codes: 0 nothing changes the past, 1 something does, 2 a file is wrong.
    """
    changes = compare(load_roster(before).entries, load_roster(after).entries, now_ms())
    for change in changes:
        click.echo(f"{change.change.value}: {change.text}{'  REWRITES THE PAST' if change.rewrites_past else ''}")
    rewriting = sum(change.rewrites_past for change in changes)
    click.echo(f"{len(changes)} changes, {rewriting} of them change the past")
    if rewriting > 0:
        raise GpuledgerError(f"{after}: {rewriting} changes would change the past")


@roster.command("import")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--column", "columns", metavar="HEADING=KEY", multiple=True, help="A column of the files is this key.")
@click.option("--node", help="Node of GPUs whose row names none.")
@click.option("--site", help="Site, likewise.")
@click.option("--cluster", help="Cluster, likewise.")
@click.option("--pool", help="Pool, likewise.")
@click.option("--from", "start", metavar="TIME", help="In service from, likewise.")
def import_roster(files: tuple[Path, ...], columns: tuple[str, ...], start: str | None, **places: str | None) -> None:
    """Print a roster in CSV from an inventory in CSV, or from what nvidia-smi prints of a node.

    nvidia-smi --query-gpu=uuid,serial,name --format=csv gives what is needed of one node.

    Exit codes: 0 printed, 2 a file or an option is wrong.
    """
    given = {key: value for key, value in {**places, "from": start}.items() if value is not None}
    mapped = _columns(columns)
    rows = [row for path in files for row in import_rows(path, _text_of(path), mapped, given)]
    text = _as_csv(rows)
    _check_imported(text, files[0])
    click.echo(text, nl=False)


def _columns(pairs: Iterable[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        heading, separator, key = pair.rpartition("=")
        if not separator or key not in GPU_KEYS:
            raise ConfigurationError(f"--column: {pair!r} is not HEADING=KEY with a KEY of {', '.join(GPU_KEYS)}")
        found[heading] = key
    return found


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 text (byte {exc.start})") from exc
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc


def _check_imported(text: str, source: Path) -> None:
    """Refuse to print what would not be taken as a roster."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "imported.csv"
        path.write_text(text, encoding="utf-8")
        try:
            load_roster(path)
        except ConfigurationError as exc:
            raise ConfigurationError(
                f"{source}: what it gives is no roster: {str(exc).replace(directory, '')}"
            ) from exc


@roster.command("show")
@config_option
@state_dir_option
def show_roster(config_file: Path | None, **flags: object) -> None:
    """Print the roster in force as CSV, which can be used as a roster file.

    Exit codes: 0 printed, 1 the state directory cannot be used, 2 usage or configuration.
    """
    config = settings_of(config_file, **flags)
    require_directory(config.state_dir)
    with Store(config.state_dir, read_only=True) as store:
        entries = store.roster().entries
    click.echo(_as_csv(map(_row_of, entries)), nl=False)


def _as_csv(rows: Iterable[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, GPU_KEYS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row_of(entry: Entry) -> dict[str, str]:
    return {
        "uuid": "" if entry.gpu.startswith(SERIAL_PREFIX) else entry.gpu,
        "serial": entry.serial or "",
        "node": entry.node,
        "site": entry.site,
        "cluster": entry.cluster,
        "pool": entry.pool,
        "model": entry.model or "",
        "from": iso(entry.from_ms),
        "to": "" if entry.to_ms is None else iso(entry.to_ms),
    }
