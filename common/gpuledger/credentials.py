# SPDX-License-Identifier: Apache-2.0
"""What a client shows to a server and wants shown by it: certificates, tokens, passwords; all in files.

Files are looked at with each request and read again when they change, so certificates and tokens may be short-lived.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpuledger.errors import ConfigurationError

SECRET_BYTES_MAX = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The files of one group; the names are those of Prometheus' scrape configuration."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    bearer_token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        files = (self.ca_file, self.cert_file, self.key_file, self.bearer_token_file, self.password_file)
        return tuple(path for path in files if path is not None)


NO_CREDENTIALS = Credentials()


def check_credentials(credentials: Credentials, where: str) -> None:
    """Raise ConfigurationError, which begins with `where`, for half of what goes together and for two logins."""
    if (credentials.cert_file is None) != (credentials.key_file is None):
        raise ConfigurationError(f"{where}: tls_config: cert_file and key_file go together")
    if (credentials.username is None) != (credentials.password_file is None):
        raise ConfigurationError(f"{where}: basic_auth: username and password_file go together")
    if ":" in (credentials.username or ""):
        raise ConfigurationError(f"{where}: basic_auth: username: a name with a colon cannot be sent")
    if credentials.bearer_token_file is not None and credentials.username is not None:
        raise ConfigurationError(f"{where}: give one of basic_auth and bearer_token_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What one request needs: a TLS context (None: the machine's authorities), headers, the name to expect."""

    context: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    server_name: str | None = None


_NO_PROOF = Proof()
_Stamp = tuple[tuple[int, int, int], ...]


class Keyring:
    """Turns credentials into proofs, and keeps these until a file changes."""

    def __init__(self) -> None:
        self._kept: dict[Credentials, tuple[_Stamp, Proof]] = {}

    def proof(self, credentials: Credentials) -> Proof:
        """Return the proof as of now; raises ConfigurationError naming the file that cannot be used."""
        if credentials == NO_CREDENTIALS:
            return _NO_PROOF
        stamp = tuple(_stamp_of(path) for path in credentials.paths)
        kept = self._kept.get(credentials)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        proof = Proof(context=_context(credentials), headers=_headers(credentials), server_name=credentials.server_name)
        self._kept[credentials] = stamp, proof
        return proof


def _stamp_of(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc
    return status.st_ino, status.st_mtime_ns, status.st_size


def _context(credentials: Credentials) -> ssl.SSLContext:
    path = credentials.ca_file
    try:
        context = ssl.create_default_context(cafile=path)
        if credentials.cert_file is not None:
            path = credentials.cert_file
            # Without a password of our own OpenSSL would ask a terminal for one.
            context.load_cert_chain(credentials.cert_file, credentials.key_file, password=lambda: "")
    except ssl.SSLError as exc:
        what = "no certificates in PEM" if path is credentials.ca_file else f"does not go with {credentials.key_file}"
        raise ConfigurationError(f"{path}: {what}: {exc.reason or exc}") from exc
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc}") from exc
    return context


def _headers(credentials: Credentials) -> dict[str, str]:
    if credentials.bearer_token_file is not None:
        return {"Authorization": f"Bearer {_secret(credentials.bearer_token_file)}"}
    if credentials.username is not None and credentials.password_file is not None:
        pair = f"{credentials.username}:{_secret(credentials.password_file)}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}
    return {}


def _secret(path: Path) -> str:
    """Return the one line of a file."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8").strip()
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 text") from exc
    if not text or not text.isprintable() or len(data) > SECRET_BYTES_MAX:
        raise ConfigurationError(f"{path}: not one line of 1 to {SECRET_BYTES_MAX} bytes")
    return text
