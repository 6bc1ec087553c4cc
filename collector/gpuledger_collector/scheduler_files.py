# SPDX-License-Identifier: Apache-2.0
"""The tables [[slurm]] and [[kubernetes]] of the configuration file: which schedulers are looked at, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.schedulers.kubernetes_watch import KubernetesCluster
from gpuledger_collector.schedulers.slurm_commands import SlurmCluster

SLURM, KUBERNETES = "slurm", "kubernetes"
TABLES = frozenset({SLURM, KUBERNETES})
CLUSTERS_MAX = 64
INTERVAL_S, TIMEOUT_S = 60.0, 30.0
INTERVAL_S_MAX = 150.0
"""Looks may be at most three minutes apart: one more, and every look would leave a hole."""

_SLURM_KEYS = ("name", "squeue", "scontrol", "config_file", "host", "interval_seconds", "timeout_seconds")
_KUBERNETES_KEYS = ("name", "server", "ca_file", "token_file", "interval_seconds")
_TEXT_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """One cluster's scheduler, and how often it is looked at."""

    cluster: SlurmCluster | KubernetesCluster
    interval_s: float = INTERVAL_S
    timeout_s: float = TIMEOUT_S

    @property
    def name(self) -> str:
        return self.cluster.name

    @property
    def kind(self) -> str:
        return SLURM if isinstance(self.cluster, SlurmCluster) else KUBERNETES


def load_schedulers(file: Path) -> tuple[Scheduler, ...]:
    """Return the schedulers that the configuration file names; raises ConfigurationError."""
    document = read_toml(file)
    found = [_slurm(table, where) for table, where in _tables(document, SLURM, file)]
    found += [_kubernetes(table, where) for table, where in _tables(document, KUBERNETES, file)]
    if len(found) > CLUSTERS_MAX:
        raise ConfigurationError(f"{file}: more than {CLUSTERS_MAX} schedulers")
    names = [scheduler.name for scheduler in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{file}: {name} is the name of two schedulers")
    return tuple(found)


def _tables(document: Mapping[str, Any], key: str, file: Path) -> list[tuple[Mapping[str, Any], str]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(f"{file}: {key} is not a list of tables; write [[{key}]]")
    return [(table, f"{file}: {key} {number}") for number, table in enumerate(tables, start=1)]


def _slurm(table: Mapping[str, Any], where: str) -> Scheduler:
    _check_keys(table, _SLURM_KEYS, where)
    config_file, host = _text(table, "config_file", where), _text(table, "host", where)
    if host is not None and (host.startswith("-") or " " in host):
        raise ConfigurationError(f"{where}: host: {host!r} is not the name of a machine")
    cluster = SlurmCluster(
        name=_required(table, "name", where),
        squeue=_text(table, "squeue", where) or "squeue",
        scontrol=_text(table, "scontrol", where) or "scontrol",
        config_file=None if config_file is None else Path(config_file),
        host=host,
    )
    return Scheduler(
        cluster=cluster,
        interval_s=_number(table, "interval_seconds", INTERVAL_S, INTERVAL_S_MAX, where),
        timeout_s=_number(table, "timeout_seconds", TIMEOUT_S, INTERVAL_S_MAX, where),
    )


def _kubernetes(table: Mapping[str, Any], where: str) -> Scheduler:
    _check_keys(table, _KUBERNETES_KEYS, where)
    given: dict[str, Any] = {"name": _required(table, "name", where)}
    server = _text(table, "server", where)
    if server is not None:
        if not server.startswith(("https://", "http://")):
            raise ConfigurationError(f"{where}: server: {server!r} is not https://HOST:PORT")
        # Of a server that is named, nothing is assumed about whom it trusts and who trusts it.
        given |= {"server": server, "ca_file": None, "token_file": None}
    for key in ("ca_file", "token_file"):
        path = _text(table, key, where)
        if path is not None:
            given[key] = Path(path)
    if server is not None and server.startswith("http://") and given["token_file"] is not None:
        raise ConfigurationError(f"{where}: token_file: the server is not https, so the token would be in the open")
    return Scheduler(
        cluster=KubernetesCluster(**given),
        interval_s=_number(table, "interval_seconds", INTERVAL_S, INTERVAL_S_MAX, where),
    )


def _check_keys(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigurationError(f"{where}: unknown key {key!r}; legal keys: {', '.join(keys)}")


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > _TEXT_CHARACTERS_MAX:
        raise ConfigurationError(f"{where}: {key}: {value!r} is not a text of 1 to {_TEXT_CHARACTERS_MAX} characters")
    return value


def _required(table: Mapping[str, Any], key: str, where: str) -> str:
    value = _text(table, key, where)
    if value is None:
        raise ConfigurationError(f"{where}: {key} is missing")
    return value


def _number(table: Mapping[str, Any], key: str, default: float, high: float, where: str) -> float:
    value = table.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= high:
        raise ConfigurationError(f"{where}: {key}: {value!r} is not a number from 1 to {high:g}")
    return float(value)
