# SPDX-License-Identifier: Apache-2.0
"""The flags of a report that say which engine to ask and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gpuledger.errors import ConfigurationError

_Command = Callable[..., Any]
_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option("--url", metavar="URL", help="The engine's address; default: http://127.0.0.1:9090."),
    click.option("--profile", metavar="NAME", help="Whose metrics to read: dcgm (the default) or nvitop."),
    click.option("--profile-file", type=_FILE, help="A profile of your own, TOML."),
    click.option("--match", metavar="LABEL=VALUE", multiple=True, help="Only series with that label; repeatable."),
    click.option("--scrape-interval", metavar="SECONDS", type=float, help="Default: found from the samples."),
    click.option("--header", metavar="'NAME: VALUE'", multiple=True, help="A header, like X-Scope-OrgID; repeatable."),
    click.option("--ca-file", type=_FILE, help="Who signs the engine's certificate."),
    click.option("--cert-file", type=_FILE, help="Our own certificate."),
    click.option("--key-file", type=_FILE, help="Its key."),
    click.option("--server-name", metavar="NAME", help="The name to expect in the engine's certificate."),
    click.option("--bearer-token-file", type=_FILE, help="File with a bearer token."),
    click.option("--username", metavar="NAME", help="Name to log in with."),
    click.option("--password-file", type=_FILE, help="File with its password."),
    click.option("--engine-config", type=_FILE, help="TOML file with all of these and more (docs/configuration.md)."),
)
NAMES = (
    "url",
    "profile",
    "profile_file",
    "match",
    "scrape_interval",
    "header",
    "ca_file",
    "cert_file",
    "key_file",
    "server_name",
    "bearer_token_file",
    "username",
    "password_file",
    "engine_config",
)


def engine_options(command: _Command) -> _Command:
    """Give the command the flags of an engine."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(flags: Mapping[str, Any]) -> list[str]:
    """Return the flags that were given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name in NAMES if flags[name] not in {None, ()}]


def settings_of(flags: Mapping[str, Any]) -> dict[str, object | None]:
    """Return the flags by the fields of EngineConfig; raises ConfigurationError where one has the wrong form."""
    fields = {
        name: flags[name] for name in NAMES if name not in {"match", "header", "scrape_interval", "engine_config"}
    }
    fields["scrape_interval_seconds"] = flags["scrape_interval"]
    fields["match"] = _pairs(flags["match"], "=", "--match: {!r} is not LABEL=VALUE")
    fields["headers"] = _pairs(flags["header"], ":", "--header: {!r} is not 'NAME: VALUE'")
    return fields


def _pairs(texts: Sequence[str], between: str, complaint: str) -> dict[str, str] | None:
    pairs = {}
    for text in texts:
        name, found, value = text.partition(between)
        if not found or not name.strip():
            raise ConfigurationError(complaint.format(text))
        pairs[name.strip()] = value.strip() if between == ":" else value
    return pairs or None
