# SPDX-License-Identifier: Apache-2.0
"""The flags that every report has: where the ledger is, what is written, which part of the fleet, which prices."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gpuledger.errors import ConfigurationError
from gpuledger_collector import config as collector_config
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.finance.book import PriceBook
from gpuledger_collector.finance.files import load_prices
from gpuledger_collector.lease_files import load_leases
from gpuledger_collector.node_figures import Scope
from gpuledger_collector.report.files import DEFAULT_FORMATS, FORMATS
from gpuledger_collector.report.languages import TAGS, Language, language
from gpuledger_collector.report.model import ScopeItem
from gpuledger_collector.report.weekly import Extract

_Command = Callable[..., Any]
_FILE = click.Path(path_type=Path, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_OPTIONS = (
    click.option("--config", type=_FILE, help="The collector's configuration file."),
    click.option(
        "--state-dir", type=click.Path(path_type=Path, file_okay=False), help="The collector's state directory."
    ),
    click.option(
        "--out",
        type=_DIRECTORY,
        help="Directory to write to; default: reports/ in the state directory, with an engine ./reports.",
    ),
    click.option("--format", "formats", metavar="LIST", default=",".join(DEFAULT_FORMATS), show_default=True),
    click.option(
        "--lang",
        "langs",
        metavar="LIST",
        default=TAGS[0],
        show_default=True,
        help=f"Languages of the files, of {', '.join(TAGS)}.",
    ),
    click.option("--comparison/--no-comparison", "is_compared", default=True, help="Compare with the period before."),
    click.option("--compare", metavar="PERIOD", help="Compare with another period instead: 2026-W40, 2026-10."),
    click.option("--site", multiple=True, metavar="NAME", help="Only GPUs of that site; repeatable."),
    click.option("--pool", multiple=True, metavar="NAME", help="Only GPUs of that pool; repeatable."),
    click.option("--model", multiple=True, metavar="NAME", help="Only GPUs of that model; repeatable."),
    click.option("--tenant", metavar="NAME", help="Only GPUs that the tenant's leases name."),
    click.option("--prices", type=_FILE, help="Price book, TOML (docs/prices.md)."),
)


def report_options(command: _Command) -> _Command:
    """Give the command the flags of every report."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def names_in(option: str, text: str, legal: Sequence[str]) -> tuple[str, ...]:
    """Return the names in a list like "md,html"; raises ConfigurationError naming the one that is not known."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in legal:
            raise ConfigurationError(f"{option}: {name!r} is not one of {', '.join(legal)}")
    return names


def wanted(flags: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Language]]:
    """Return the formats and languages asked for; raises ConfigurationError naming what is not known."""
    formats = names_in("--format", flags["formats"], FORMATS)
    return formats, [language(tag) for tag in names_in("--lang", flags["langs"], TAGS)]


def config_of(config: Path | None, state_dir: Path | None) -> CollectorConfig | None:
    """Return the collector's configuration; None where the state directory is named instead."""
    if state_dir is not None and config is None:
        return None
    if config is None:
        raise ConfigurationError("give --config FILE or --state-dir DIR, so that the ledger can be found")
    if state_dir is not None:
        raise ConfigurationError("give either --config or --state-dir, not both")
    return collector_config.load(config, os.environ, {}).value


def prices_of(flags: Mapping[str, Any], config: CollectorConfig | None) -> PriceBook | None:
    """Return the price book of the flag, else of the configuration; None without either."""
    path: Path | None = flags["prices"]
    if path is None and config is not None:
        path = config.prices
    return None if path is None else load_prices(path)


def extract_of(flags: Mapping[str, Any], config: CollectorConfig | None) -> Extract | None:
    """Return the part of the fleet that the flags ask for; None for all of it.

    Raises ConfigurationError where a tenant is asked for whose GPUs no lease names.
    """
    names: dict[str, tuple[str, ...]] = {field: tuple(flags[field]) for field in ("site", "pool", "model")}
    items = [ScopeItem(field=field, value=value) for field, values in names.items() for value in values]
    gpus = nodes = None
    if flags["tenant"] is not None:
        gpus, nodes = _leased(flags["tenant"], None if config is None else config.leases)
        items.append(ScopeItem(field="tenant", value=flags["tenant"]))
    if not items:
        return None
    scope = Scope(sites=names["site"], pools=names["pool"], models=names["model"], gpus=gpus, nodes=nodes)
    return Extract(scope=scope, items=tuple(items))


def _leased(tenant: str, path: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the GPUs and nodes that the tenant's leases name."""
    if path is None:
        raise ConfigurationError("--tenant: needs --config of a collector that has a lease book (leases)")
    leases = [lease for lease in load_leases(path).book.leases if lease.tenant == tenant]
    if not leases:
        raise ConfigurationError(f"--tenant: {path} has no lease of {tenant!r}")
    gpus = {gpu for lease in leases for gpu in lease.gpus}
    nodes = {node for lease in leases for node in lease.nodes}
    if not gpus and not nodes:
        raise ConfigurationError(
            f"--tenant: the leases of {tenant!r} are of numbers of a pool, so nobody can say which GPUs are theirs; "
            "use --pool"
        )
    return tuple(sorted(gpus)), tuple(sorted(nodes))
