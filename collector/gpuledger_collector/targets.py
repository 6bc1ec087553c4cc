# SPDX-License-Identifier: Apache-2.0
"""The agents to poll: `[[group]]` tables of the collector's TOML file, one place and many addresses each.

[[group]]
site = "fra1"
cluster = "train"
pool = "h100"
targets = ["https://node-001:9400", "https://node-002:9400"]
tls_config = { ca_file = "ca.pem", cert_file = "collector.pem", key_file = "collector.key" }
bearer_token_file = "agents.token"        # or: basic_auth = { username = "collector", password_file = "password" }

Addresses may also come from lists that change while the collector runs, in files or from a URL; docs/targets.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpuledger.addresses import read_address
from gpuledger.credentials import NO_CREDENTIALS, Credentials, check_credentials
from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.relabel import Rule, read_rules, relabel
from gpuledger_collector.roster import UNKNOWN_PLACE
from gpuledger_collector.target_documents import TARGETS_MAX, Listed

TABLE = "group"
SOURCES_MAX = 100
NAME_CHARACTERS_MAX = 128
FILE_REFRESH_S, URL_REFRESH_S = 5.0, 60.0
_PLACES = ("site", "cluster", "pool", "rack")
_CREDENTIAL_KEYS = ("tls_config", "basic_auth", "bearer_token_file")
_SOURCE_KEYS = ("file_sd_configs", "http_sd_configs")
_KEYS = (*_PLACES, "targets", "scheme", *_CREDENTIAL_KEYS, *_SOURCE_KEYS, "relabel_configs")
_TLS_KEYS = ("ca_file", "cert_file", "key_file", "server_name")
_BASIC_KEYS = ("username", "password_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One agent: its address (scheme, host, port; no path) and where its GPUs are if no roster says otherwise."""

    url: str
    site: str = UNKNOWN_PLACE
    cluster: str = UNKNOWN_PLACE
    pool: str = UNKNOWN_PLACE
    rack: str | None = None
    credentials: Credentials = NO_CREDENTIALS


@dataclass(frozen=True, slots=True, kw_only=True)
class FileList:
    """Lists in files; only the last part of the path may be a pattern."""

    path: Path
    refresh_s: float = FILE_REFRESH_S

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlList:
    """A list that a server hands out."""

    url: str
    refresh_s: float = URL_REFRESH_S
    credentials: Credentials = NO_CREDENTIALS

    @property
    def name(self) -> str:
        """Return the address without what may be secret in it."""
        return self.url.partition("?")[0]


TargetList = FileList | UrlList


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One `[[group]]`: what its targets have in common, and where they come from."""

    where: str
    labels: Mapping[str, str]
    """Place and scheme, as far as they are given."""
    static: tuple[Listed, ...] = ()
    lists: tuple[TargetList, ...] = ()
    rules: tuple[Rule, ...] = ()
    credentials: Credentials = NO_CREDENTIALS


def load_groups(file: Path) -> tuple[Group, ...]:
    """Return the groups declared in `file`, in order; raises ConfigurationError naming file, table and key."""
    return read_groups(read_toml(file).get(TABLE, []), file)


def load_targets(file: Path) -> tuple[Target, ...]:
    """Return the targets that stand in `file` itself, in order; raises ConfigurationError likewise."""
    return static_targets(load_groups(file))


def read_groups(tables: object, file: Path) -> tuple[Group, ...]:
    """Return the `[[group]]` tables of `file`, each checked by itself."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(f"{file}: {TABLE} is not a list of tables; write [[{TABLE}]]")
    groups = tuple(_read_group(table, f"{file}: {TABLE} {number}") for number, table in enumerate(tables, start=1))
    if sum(len(group.lists) for group in groups) > SOURCES_MAX:
        raise ConfigurationError(f"{file}: more than {SOURCES_MAX} lists of targets in all")
    static_targets(groups)
    return groups


def static_targets(groups: Sequence[Group]) -> tuple[Target, ...]:
    """Return the targets that stand in the groups themselves; each address may stand once in all of them."""
    found: dict[str, int] = {}
    targets: list[Target] = []
    for number, group in enumerate(groups, start=1):
        for listed in group.static:
            target = make_target(group, listed, f"{group.where}: targets")
            if target is None:
                continue
            if target.url in found:
                raise ConfigurationError(
                    f"{group.where}: targets: {target.url} stands in {TABLE} {found[target.url]} already"
                )
            if len(targets) == TARGETS_MAX:
                raise ConfigurationError(f"{group.where}: targets: more than {TARGETS_MAX} targets in all")
            found[target.url] = number
            targets.append(target)
    return tuple(targets)


def make_target(group: Group, listed: Listed, where: str) -> Target | None:
    """Return the target after the group's rules, None if they drop it.

    Raises ConfigurationError, which begins with `where`, for what cannot be polled or stands nowhere.
    """
    scheme, separator, address = listed.address.rpartition("://")
    own = {"__address__": address} | ({"__scheme__": scheme} if separator else {})
    labels = relabel({"__scheme__": "http", **group.labels, **listed.labels, **own}, group.rules)
    if labels is None or not labels.get("__address__"):
        return None
    url = read_address(f"{labels.get('__scheme__', 'http')}://{labels['__address__']}", where)
    if group.credentials != NO_CREDENTIALS and not url.startswith("https:"):
        raise ConfigurationError(
            f"{where}: {url} is not https, so what this group trusts and shows would be in the open"
        )
    places = {key: _read_place(labels[key], key, where) for key in _PLACES if key in labels}
    return Target(url=url, credentials=group.credentials, **places)


def make_targets(group: Group, listed: Iterable[Listed], where: str) -> tuple[list[Target], list[str]]:
    """Return the targets of a list, and a sentence for each that cannot be polled: it costs only itself."""
    targets: list[Target] = []
    problems: list[str] = []
    for item in listed:
        try:
            target = make_target(group, item, where)
        except ConfigurationError as exc:
            problems.append(str(exc))
        else:
            targets += [] if target is None else [target]
    return targets, problems


# ---------------------------------------------------------------------------------------------- reading


def _read_group(table: Mapping[str, Any], where: str) -> Group:
    _check_keys(table, _KEYS, where)
    labels = {key: _read_place(table[key], key, where) for key in _PLACES if key in table}
    scheme = table.get("scheme")
    if scheme not in {None, "http", "https"}:
        raise ConfigurationError(f"{where}: scheme: {scheme!r} is neither http nor https")
    urls = table.get("targets")
    if urls is None and not any(key in table for key in _SOURCE_KEYS):
        raise ConfigurationError(f"{where}: targets is missing")
    if not isinstance(urls, Sequence | None) or isinstance(urls, str):
        raise ConfigurationError(f"{where}: targets: {urls!r} is not a list of addresses")
    # What stands in the file itself is an address with its scheme; lists have hosts and ports.
    static = [Listed(address=read_address(url, f"{where}: targets"), labels={}) for url in urls or ()]
    return Group(
        where=where,
        labels=labels | ({} if scheme is None else {"__scheme__": scheme}),
        static=tuple(static),
        lists=tuple(_read_lists(table, where)),
        rules=read_rules(table.get("relabel_configs", []), f"{where}: relabel_configs"),
        credentials=_read_credentials(table, where),
    )


def _check_keys(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigurationError(f"{where}: unknown key {key!r}; legal keys: {', '.join(keys)}")


def _read_lists(table: Mapping[str, Any], where: str) -> list[TargetList]:
    lists: list[TargetList] = []
    for key in _SOURCE_KEYS:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ConfigurationError(f"{where}: {key}: not a list of tables")
        for number, item in enumerate(value, start=1):
            here = f"{where}: {key} {number}"
            lists += _read_file_lists(item, here) if key == "file_sd_configs" else [_read_url_list(item, here)]
    return lists


def _read_file_lists(table: Mapping[str, Any], where: str) -> list[FileList]:
    _check_keys(table, ("files", "refresh_interval_seconds"), where)
    files = table.get("files")
    if not isinstance(files, list) or not files or not all(isinstance(file, str) and file for file in files):
        raise ConfigurationError(f"{where}: files: {files!r} is not a list of paths")
    for file in files:
        path = Path(file)
        if any(character in str(path.parent) for character in "*?[") or path.suffix not in {".json", ".yml", ".yaml"}:
            raise ConfigurationError(
                f"{where}: files: {file!r} does not end in .json, .yml or .yaml, or has a pattern before its last part"
            )
    refresh_s = _read_refresh(table, FILE_REFRESH_S, where)
    return [FileList(path=Path(file), refresh_s=refresh_s) for file in files]


def _read_url_list(table: Mapping[str, Any], where: str) -> UrlList:
    _check_keys(table, ("url", "refresh_interval_seconds", *_CREDENTIAL_KEYS), where)
    url = table.get("url")
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isprintable() else None
        is_right = parts is not None and parts.scheme in {"http", "https"} and bool(parts.hostname)
        is_right = is_right and parts is not None and "@" not in parts.netloc and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right or not isinstance(url, str) or " " in url:
        raise ConfigurationError(f"{where}: url: not http://HOST:PORT/PATH or https://HOST:PORT/PATH")
    credentials = _read_credentials(table, where)
    if credentials != NO_CREDENTIALS and not url.startswith("https:"):
        raise ConfigurationError(f"{where}: url: not https, so what is trusted and shown would be in the open")
    return UrlList(url=url, refresh_s=_read_refresh(table, URL_REFRESH_S, where), credentials=credentials)


def _read_refresh(table: Mapping[str, Any], default_s: float, where: str) -> float:
    value = table.get("refresh_interval_seconds", default_s)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= 86_400:
        raise ConfigurationError(f"{where}: refresh_interval_seconds: {value!r} is not a number from 1 to 86400")
    return float(value)


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


def _read_place(value: object, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > NAME_CHARACTERS_MAX:
        raise ConfigurationError(f"{where}: {key}: {value!r} is not a text of 1 to {NAME_CHARACTERS_MAX} characters")
    return value
