# SPDX-License-Identifier: Apache-2.0
"""`gpuledger idle`: what is idle now, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import click

from gpuledger.credentials import Credentials, check_credentials
from gpuledger.errors import ConfigurationError, StorageError
from gpuledger.states import IDLE, State
from gpuledger_collector.idle_rows import idle_of_collector, idle_of_ledger, table_of
from gpuledger_collector.node_figures import ReportReader

_FILE = click.Path(path_type=Path, dir_okay=False)
_STATES = [state.value for state in State if state in IDLE]


@click.command("idle")
@click.option("--url", metavar="URL", help="A collector's address; default: http://127.0.0.1:9401.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Read the ledger of a collector's state directory instead: its last hour.",
)
@click.option("--site", multiple=True, metavar="NAME", help="Only that site; repeatable.")
@click.option("--pool", multiple=True, metavar="NAME", help="Only that pool; repeatable.")
@click.option("--state", multiple=True, type=click.Choice(_STATES), help="Only that state; repeatable.")
@click.option("--ca-file", type=_FILE, help="Who signs the collector's certificate.")
@click.option("--bearer-token-file", type=_FILE, help="File with a bearer token.")
@click.option("--username", metavar="NAME", help="Name to log in with.")
@click.option("--password-file", type=_FILE, help="File with its password.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def idle(
    context: click.Context,
    /,
    *,
    url: str | None,
    state_dir: Path | None,
    site: tuple[str, ...],
    pool: tuple[str, ...],
    state: tuple[str, ...],
    ca_file: Path | None,
    bearer_token_file: Path | None,
    username: str | None,
    password_file: Path | None,
    is_json: bool,
) -> None:
    """Print what is idle now: which GPUs of which node, in which state, since when.

    Exit codes: 0 printed, 1 the collector or ledger could not be read, 2 usage or configuration.
    """
    wanted = {name: values for name, values in (("site", site), ("pool", pool), ("state", state)) if values}
    if state_dir is not None:
        if url is not None:
            raise ConfigurationError("give either --url or --state-dir, not both")
        found = idle_of_ledger(_open(context, state_dir), wanted)
    else:
        credentials = Credentials(
            ca_file=ca_file, bearer_token_file=bearer_token_file, username=username, password_file=password_file
        )
        check_credentials(credentials, "idle")
        found = idle_of_collector(url or "http://127.0.0.1:9401", credentials, wanted)
    if is_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        click.echo("\n".join(table_of(found)))


def _open(context: click.Context, directory: Path) -> ReportReader:
    if context.obj is not None:
        bring: Callable[[Path], ReportReader] = context.obj
        return bring(directory)
    if not directory.is_dir():
        raise StorageError(f"{directory}: no such state directory")
    # Here and not above: DuckDB is slow to import.
    from gpuledger_collector.ledger_files import open_reader  # noqa: PLC0415

    return open_reader(directory)
