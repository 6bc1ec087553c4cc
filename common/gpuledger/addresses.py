# SPDX-License-Identifier: Apache-2.0
"""Addresses of programs of ours: scheme, host and port, and nothing that would end up in logs and labels."""

from __future__ import annotations

from urllib.parse import urlsplit

from gpuledger.errors import ConfigurationError

URL_CHARACTERS_MAX = 512
_WANTED = "http://HOST:PORT or https://HOST:PORT"


def read_address(value: object, where: str) -> str:
    """Return scheme://host[:port]; raises ConfigurationError, which begins with `where`."""
    if not isinstance(value, str) or len(value) > URL_CHARACTERS_MAX:
        raise ConfigurationError(f"{where}: {value!r} is not an address of at most {URL_CHARACTERS_MAX} characters")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigurationError(f"{where}: {value!r} is not {_WANTED} ({exc})") from exc
    if "@" in parts.netloc:
        raise ConfigurationError(f"{where}: the address of {host} has a user name in it; write {_WANTED}")
    is_plain = parts.path in {"", "/"} and not parts.query and not parts.fragment
    if parts.scheme not in {"http", "https"} or host is None or not host.isascii() or port == 0 or not is_plain:
        raise ConfigurationError(f"{where}: {value!r} is not {_WANTED}")
    if any(not 0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        raise ConfigurationError(f"{where}: {value!r} has no valid host name")
    if any(character.isspace() or not character.isprintable() for character in value):
        raise ConfigurationError(f"{where}: {value!r} has a space or control character in it")
    return f"{parts.scheme}://{parts.netloc.lower()}"
