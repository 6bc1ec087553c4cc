# SPDX-License-Identifier: Apache-2.0
"""How an engine is reached: flags, GPULEDGER_ENGINE_* variables, a TOML file, defaults, in that order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gpuledger import settings
from gpuledger.credentials import Credentials
from gpuledger.errors import ConfigurationError
from gpuledger.settings import Loaded, Pairs, setting

PREFIX = "GPULEDGER_ENGINE"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_RESERVED_HEADERS = frozenset({"authorization", "content-type", "content-length", "host", "accept-encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that can be set; see docs/configuration.md."""

    url: str = setting("url", "Address of the engine's HTTP API, with its path up to /api/v1.", "http://127.0.0.1:9090")
    profile: str = setting("profile", "Whose metrics to read: a built-in profile (docs/engine.md).", "dcgm")
    profile_file: Path | None = setting("profile_file", "A profile of your own, TOML; instead of `profile`.", None)
    scrape_interval_seconds: float | None = setting(
        "scrape_interval_seconds",
        "Time between two scrapes; found from the samples if not given.",
        None,
        low=1,
        high=300,
        flag="--scrape-interval",
    )
    match: Pairs = setting("match", "Labels that series must have, by name.", (), flag="--match")
    headers: Pairs = setting(
        "headers", "Headers of every request, like X-Scope-OrgID; secrets go into files.", (), flag="--header"
    )
    ca_file: Path | None = setting("tls_config.ca_file", "Who signs the engine's certificate.", None)
    cert_file: Path | None = setting("tls_config.cert_file", "Our own certificate.", None)
    key_file: Path | None = setting("tls_config.key_file", "Its key.", None)
    server_name: str | None = setting("tls_config.server_name", "The name to expect instead of the address's.", None)
    bearer_token_file: Path | None = setting("bearer_token_file", "File with a bearer token.", None)
    username: str | None = setting("basic_auth.username", "Name to log in with.", None)
    password_file: Path | None = setting("basic_auth.password_file", "File with its password.", None)
    query_timeout_seconds: float = setting(
        "limits.query_timeout_seconds", "Time for one answer.", 120.0, low=1, high=3600
    )
    concurrent_queries: int = setting("limits.concurrent_queries", "Queries at once.", 4, low=1, high=64)
    query_points: int = setting(
        "limits.query_points", "Points asked for at once; fewer where the engine refuses.", 250_000, low=1000
    )
    answer_bytes: int = setting("limits.answer_bytes", "Size of one answer.", 64 << 20, low=1 << 20)
    gpus: int = setting("limits.gpus", "GPUs that are read; more is an error.", 20_000, low=1)

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            server_name=self.server_name,
            bearer_token_file=self.bearer_token_file,
            username=self.username,
            password_file=self.password_file,
        )


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object | None]) -> Loaded[EngineConfig]:
    """Return the settings with their origins; raises ConfigurationError."""
    loaded = settings.load(EngineConfig, file=file, environment=environment, prefix=PREFIX, flags=flags)
    _check(loaded.value)
    return loaded


def _check(config: EngineConfig) -> None:
    parts = urlsplit(config.url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"url: {config.url!r} is not http://HOST:PORT/PATH or https://HOST:PORT/PATH")
    if "@" in parts.netloc:
        raise ConfigurationError("url: the address has a user name in it; give it with --username and --password-file")
    if not config.url.isprintable() or any(mark.isspace() for mark in config.url):
        raise ConfigurationError("url: a space or control character in the address")
    if (config.cert_file is None) is not (config.key_file is None):
        raise ConfigurationError("tls_config: cert_file and key_file go together")
    if (config.username is None) is not (config.password_file is None):
        raise ConfigurationError("basic_auth: username and password_file go together")
    if config.username is not None and config.bearer_token_file is not None:
        raise ConfigurationError("give one of basic_auth and bearer_token_file")
    shows_secret = config.username is not None or config.bearer_token_file is not None
    if shows_secret and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ConfigurationError(f"url: {config.url} is not https, so the password or token would be in the open")
    for name, value in config.headers:
        if name.lower() in _RESERVED_HEADERS:
            raise ConfigurationError(f"headers: {name} is not given this way; tokens and passwords go into files")
        if not name.isascii() or not name.replace("-", "").isalnum() or not value.isprintable():
            raise ConfigurationError(f"headers: {name!r} is not the name of a header, or its value is not one line")
