# SPDX-License-Identifier: Apache-2.0
"""The agents to poll: `[[group]]` tables of the collector's TOML file, one place and many addresses each.

[[group]]
site = "fra1"
cluster = "train"
pool = "h100"
targets = ["https://node-001:9400", "https://node-002:9400"]
tls_config = { ca_file = "ca.pem", cert_file = "collector.pem", key_file = "collector.key" }
bearer_token_file = "agents.token"        # or: basic_auth = { username = "collector", password_file = "password" }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger.addresses import read_address
from gpuledger.credentials import NO_CREDENTIALS, Credentials, check_credentials
from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.roster import UNKNOWN_PLACE

TABLE = "group"
TARGETS_MAX = 100_000
NAME_CHARACTERS_MAX = 128
_PLACES = ("site", "cluster", "pool")
_KEYS = (*_PLACES, "targets", "tls_config", "basic_auth", "bearer_token_file")
_TLS_KEYS = ("ca_file", "cert_file", "key_file", "server_name")
_BASIC_KEYS = ("username", "password_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One agent: its address (scheme, host, port; no path) and where its GPUs are if no roster says otherwise."""

    url: str
    site: str = UNKNOWN_PLACE
    cluster: str = UNKNOWN_PLACE
    pool: str = UNKNOWN_PLACE
    credentials: Credentials = NO_CREDENTIALS


def load_targets(file: Path) -> tuple[Target, ...]:
    """Return the targets declared in `file`, in order; raises ConfigurationError naming file, table and key."""
    return read_targets(read_toml(file).get(TABLE, []), file)


def read_targets(tables: object, file: Path) -> tuple[Target, ...]:
    """Return the targets of the `[[group]]` tables of `file`; each address may stand once in all of them."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(f"{file}: {TABLE} is not a list of tables; write [[{TABLE}]]")
    found: dict[str, int] = {}
    targets: list[Target] = []
    for number, table in enumerate(tables, start=1):
        where = f"{file}: {TABLE} {number}"
        for target in _read_group(table, where):
            if target.url in found:
                raise ConfigurationError(
                    f"{where}: targets: {target.url} stands in {TABLE} {found[target.url]} already"
                )
            if len(targets) == TARGETS_MAX:
                raise ConfigurationError(f"{where}: targets: more than {TARGETS_MAX} targets in all")
            found[target.url] = number
            targets.append(target)
    return tuple(targets)


def _read_group(table: Mapping[str, Any], where: str) -> list[Target]:
    for key in table:
        if key not in _KEYS:
            raise ConfigurationError(f"{where}: unknown key {key!r}; legal keys: {', '.join(_KEYS)}")
    site, cluster, pool = (_read_place(table, key, where) for key in _PLACES)
    urls = table.get("targets")
    if urls is None:
        raise ConfigurationError(f"{where}: targets is missing")
    if not isinstance(urls, Sequence) or isinstance(urls, str):
        raise ConfigurationError(f"{where}: targets: {urls!r} is not a list of addresses")
    credentials = _read_credentials(table, where)
    targets = [
        Target(
            url=read_address(url, f"{where}: targets"), site=site, cluster=cluster, pool=pool, credentials=credentials
        )
        for url in urls
    ]
    open_ones = [target.url for target in targets if not target.url.startswith("https:")]
    if open_ones and credentials != NO_CREDENTIALS:
        raise ConfigurationError(
            f"{where}: targets: {open_ones[0]} is not https, so what this group trusts and shows would be in the open"
        )
    return targets


def _read_credentials(table: Mapping[str, Any], where: str) -> Credentials:
    tls = _read_texts(table.get("tls_config", {}), _TLS_KEYS, f"{where}: tls_config")
    basic = _read_texts(table.get("basic_auth", {}), _BASIC_KEYS, f"{where}: basic_auth")
    token = (
        _read_texts({"bearer_token_file": table["bearer_token_file"]}, _KEYS, where)
        if "bearer_token_file" in table
        else {}
    )
    texts = {**tls, **basic, **token}
    paths = {key: Path(text) for key, text in texts.items() if key.endswith("_file")}
    credentials = Credentials(server_name=texts.get("server_name"), username=texts.get("username"), **paths)
    check_credentials(credentials, where)
    return credentials


def _read_texts(value: object, keys: Sequence[str], where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}: {value!r} is not a table")
    for key, text in value.items():
        if key not in keys:
            raise ConfigurationError(f"{where}: unknown key {key!r}; legal keys: {', '.join(keys)}")
        if not isinstance(text, str) or not text or not text.isprintable():
            raise ConfigurationError(f"{where}: {key}: {text!r} is not a text")
    return dict(value)


def _read_place(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key, UNKNOWN_PLACE)
    if not isinstance(value, str) or not value.strip() or len(value) > NAME_CHARACTERS_MAX:
        raise ConfigurationError(f"{where}: {key}: {value!r} is not a text of 1 to {NAME_CHARACTERS_MAX} characters")
    return value
