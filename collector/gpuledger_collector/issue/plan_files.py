# SPDX-License-Identifier: Apache-2.0
"""The table `[report]` of the collector's file: what is issued when, and where it goes.

[report]
periods = ["week", "month"]
zone = "Europe/Berlin"
grace_hours = 6
first = "2026-W40"
schedule = true                           # by the collector itself; else by `gpuledger report due`
formats = ["html", "pdf", "csv", "json"]
langs = ["en", "zh-CN"]

[[report.channel]]
name = "ops"
kind = "slack"
url_file = "/etc/gpuledger/slack.url"     # or: url_env = "SLACK_URL"

[[report.channel]]
name = "lenders"
kind = "email"
host = "mail.example.com"
user = "gpuledger"
password_file = "/etc/gpuledger/smtp.password"
from = "gpuledger@example.com"
to = ["lender@example.org"]
attach = ["pdf"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuledger.cells import HOUR_MS
from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.config import REPORT_TABLE as TABLE
from gpuledger_collector.issue.plan import Channel, ChannelKind, Plan, Secret
from gpuledger_collector.report.files import FORMATS
from gpuledger_collector.report.languages import TAGS
from gpuledger_collector.report.periods import PeriodKind, check_zone, span_named

CHANNELS_MAX = 20
RECIPIENTS_MAX = 100
GRACE_HOURS_MAX = 14 * 24
TEXT_CHARACTERS_MAX = 256
_KEYS = ("periods", "zone", "grace_hours", "first", "formats", "langs", "restate", "schedule", "channel")
_COMMON_KEYS = ("name", "kind", "lang", "names")
_CHAT_KEYS = ("url_file", "url_env")
_MAIL_KEYS = ("host", "port", "security", "user", "password_file", "password_env", "from", "to", "attach")
_SECURITIES = ("starttls", "tls", "none")
_KINDS = {"week": PeriodKind.WEEK, "month": PeriodKind.MONTH}


def load_plan(file: Path) -> Plan:
    """Return what the file wants issued; without a table `[report]` weekly reports and no channel.

    Raises ConfigurationError naming file, table and key.
    """
    document = read_toml(file)
    table = document.get(TABLE, {})
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{file}: {TABLE} is not a table; write [{TABLE}]")
    return read_plan(table, f"{file}: {TABLE}")


def read_plan(table: Mapping[str, Any], where: str) -> Plan:
    """Return the plan of a table; raises ConfigurationError, which begins with `where`."""
    _check_keys(table, _KEYS, where)
    kinds = _names(table, "periods", tuple(_KINDS), ("week",), where)
    zone = _text(table, "zone", "UTC", where)
    try:
        check_zone(zone)
        first = _text(table, "first", "", where) or None
        if first is not None:
            span_named(first, zone)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{where}: {exc}") from exc
    grace_hours = table.get("grace_hours", 6)
    if not isinstance(grace_hours, int | float) or isinstance(grace_hours, bool):
        raise ConfigurationError(f"{where}: grace_hours: {grace_hours!r} is not a number of hours")
    if not 0 <= grace_hours <= GRACE_HOURS_MAX:
        raise ConfigurationError(f"{where}: grace_hours: {grace_hours} is not from 0 to {GRACE_HOURS_MAX}")
    channels = table.get("channel", [])
    if not isinstance(channels, list) or not all(isinstance(one, Mapping) for one in channels):
        raise ConfigurationError(f"{where}: channel is not a list of tables; write [[{TABLE}.channel]]")
    if len(channels) > CHANNELS_MAX:
        raise ConfigurationError(f"{where}: more than {CHANNELS_MAX} channels")
    made = tuple(_read_channel(one, f"{where}.channel {number}") for number, one in enumerate(channels, start=1))
    names = [channel.name for channel in made]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{where}: two channels are called {name!r}")
    return Plan(
        kinds=tuple(_KINDS[name] for name in kinds),
        zone=zone,
        grace_ms=round(grace_hours * HOUR_MS),
        first=first,
        formats=_names(table, "formats", FORMATS, ("md", "html", "csv", "json"), where),
        langs=_names(table, "langs", TAGS, TAGS[:1], where),
        is_restated=_flag(table, "restate", True, where),
        is_scheduled=_flag(table, "schedule", False, where),
        channels=made,
    )


def _read_channel(table: Mapping[str, Any], where: str) -> Channel:
    name = _text(table, "name", "", where)
    if not name:
        raise ConfigurationError(f"{where}: name is missing")
    kinds = [kind.value for kind in ChannelKind]
    if table.get("kind") not in kinds:
        raise ConfigurationError(f"{where}: kind: {table.get('kind')!r} is not one of {', '.join(kinds)}")
    kind = ChannelKind(table["kind"])
    _check_keys(table, _COMMON_KEYS + (_MAIL_KEYS if kind is ChannelKind.EMAIL else _CHAT_KEYS), where)
    lang = _names({"lang": [table.get("lang", TAGS[0])]}, "lang", TAGS, TAGS[:1], where)[0]
    has_names = _flag(table, "names", False, where)
    if kind is not ChannelKind.EMAIL:
        url = _secret(table, "url", where)
        if url is None:
            raise ConfigurationError(f"{where}: url_file (or url_env) is missing")
        return Channel(name=name, kind=kind, lang=lang, has_names=has_names, url=url)
    user, password = _text(table, "user", "", where) or None, _secret(table, "password", where)
    if (user is None) != (password is None):
        raise ConfigurationError(f"{where}: user and password_file (or password_env) go together")
    security = _text(table, "security", "starttls", where)
    if security not in _SECURITIES:
        raise ConfigurationError(f"{where}: security: {security!r} is not one of {', '.join(_SECURITIES)}")
    if user is not None and security == "none":
        raise ConfigurationError(f"{where}: security: with none the password would be in the open")
    port = table.get("port", 465 if security == "tls" else 587)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise ConfigurationError(f"{where}: port: {port!r} is not a port from 1 to 65535")
    return Channel(
        name=name,
        kind=kind,
        lang=lang,
        has_names=has_names,
        host=_required(table, "host", where),
        port=port,
        security=security,
        user=user,
        password=password,
        sender=_address(_required(table, "from", where), f"{where}: from"),
        recipients=_recipients(table, where),
        formats=_names(table, "attach", FORMATS, ("pdf", "html"), where),
    )


def _recipients(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    found = table.get("to")
    if not isinstance(found, list) or not found or len(found) > RECIPIENTS_MAX:
        raise ConfigurationError(f"{where}: to: give a list of 1 to {RECIPIENTS_MAX} addresses")
    return tuple(_address(one, f"{where}: to") for one in found)


def _address(text: object, where: str) -> str:
    """Return an address that can stand in a header by itself; whether anybody has it only the server knows."""
    is_plain = isinstance(text, str) and text.isascii() and text.isprintable() and text.count("@") == 1
    if not is_plain or any(character in str(text) for character in " ,;<>\"'"):
        raise ConfigurationError(f"{where}: {text!r} is not an address like ops@example.com")
    return str(text)


def _secret(table: Mapping[str, Any], key: str, where: str) -> Secret | None:
    file, variable = table.get(f"{key}_file"), table.get(f"{key}_env")
    if file is not None and variable is not None:
        raise ConfigurationError(f"{where}: give one of {key}_file and {key}_env")
    for name, value in ((f"{key}_file", file), (f"{key}_env", variable)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigurationError(f"{where}: {name}: {value!r} is not a text")
    if file is None and variable is None:
        return None
    return Secret(path=None if file is None else Path(file), variable=variable)


def _required(table: Mapping[str, Any], key: str, where: str) -> str:
    found = _text(table, key, "", where)
    if not found:
        raise ConfigurationError(f"{where}: {key} is missing")
    return found


def _text(table: Mapping[str, Any], key: str, default: str, where: str) -> str:
    found = table.get(key, default)
    if not isinstance(found, str) or len(found) > TEXT_CHARACTERS_MAX or not found.isprintable():
        raise ConfigurationError(f"{where}: {key}: {found!r} is not a text of up to {TEXT_CHARACTERS_MAX} characters")
    return found


def _flag(table: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    found = table.get(key, default)
    if not isinstance(found, bool):
        raise ConfigurationError(f"{where}: {key}: {found!r} is neither true nor false")
    return found


def _names(
    table: Mapping[str, Any], key: str, legal: Sequence[str], default: Sequence[str], where: str
) -> tuple[str, ...]:
    found = table.get(key, list(default))
    if not isinstance(found, list) or not found:
        raise ConfigurationError(f"{where}: {key}: {found!r} is not a list of {', '.join(legal)}")
    for name in found:
        if name not in legal:
            raise ConfigurationError(f"{where}: {key}: {name!r} is not one of {', '.join(legal)}")
    return tuple(dict.fromkeys(found))


def _check_keys(table: Mapping[str, Any], legal: Sequence[str], where: str) -> None:
    for name in table:
        if name not in legal:
            raise ConfigurationError(f"{where}: unknown key {name!r}; legal keys: {', '.join(legal)}")
