# SPDX-License-Identifier: Apache-2.0
"""TLS of a port, as Prometheus exporters configure it; certificates are read again when they change."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from gpuledger.errors import ConfigurationError

_log = logging.getLogger(__name__)

CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
"""Prometheus knows two more, which take certificates without verifying them: they prove nothing and are not offered."""
MIN_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of a TLS server (PEM) and what it asks of clients."""

    cert_file: Path
    key_file: Path
    client_auth_type: str = "NoClientCert"
    client_ca_file: Path | None = None
    min_version: str = "TLS12"

    @property
    def paths(self) -> tuple[Path, ...]:
        own = (self.cert_file, self.key_file)
        return own if self.client_ca_file is None else (*own, self.client_ca_file)


def tls_files(
    cert_file: Path | None, key_file: Path | None, client_auth_type: str, client_ca_file: Path | None, min_version: str
) -> TlsFiles | None:
    """Return the files, or None where TLS is not configured; raises ConfigurationError for half a configuration."""
    table = "tls_server_config"
    wants_clients = client_auth_type != "NoClientCert"
    if cert_file is None or key_file is None:
        if cert_file is None and key_file is None and client_ca_file is None and not wants_clients:
            return None
        missing = "cert_file" if cert_file is None else "key_file"
        raise ConfigurationError(f"{table}.{missing}: missing: TLS needs both cert_file and key_file")
    if wants_clients and client_ca_file is None:
        raise ConfigurationError(f"{table}.client_ca_file: missing: client_auth_type {client_auth_type} needs it")
    if not wants_clients and client_ca_file is not None:
        raise ConfigurationError(
            f"{table}.client_auth_type: NoClientCert asks for no certificate, yet client_ca_file is given"
        )
    return TlsFiles(
        cert_file=cert_file,
        key_file=key_file,
        client_auth_type=client_auth_type,
        client_ca_file=client_ca_file,
        min_version=min_version,
    )


class TlsContexts:
    """Hands out the context for the next connection; new files that cannot be used leave the old ones in force."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises ConfigurationError where the files cannot be used."""
        self._files = files
        self._lock = threading.Lock()
        self._stamp = _stamp(files)
        self._context = _load(files)
        self._trouble = ""

    def renewing(self) -> ssl.SSLContext:
        """Return one context for good, which lets each connection go on with what `current` returns then."""

        def renew(stream: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            # OpenSSL calls this for every handshake, whether the client names a server or not.
            stream.context = self.current()

        context = _load(self._files)
        context.sni_callback = renew
        return context

    def current(self) -> ssl.SSLContext:
        with self._lock:
            try:
                stamp = _stamp(self._files)
                if stamp != self._stamp:
                    self._context, self._stamp = _load(self._files), stamp
                    _log.info("tls_reloaded", extra={"file": self._files.cert_file})
                self._trouble = ""
            except ConfigurationError as exc:
                # Certificate and key are two files: between their two renames they do not match, and soon do again.
                if str(exc) != self._trouble:
                    self._trouble = str(exc)
                    _log.warning("tls_reload_failed", extra={"why": exc})
            return self._context


def _stamp(files: TlsFiles) -> Stamp:
    found = []
    for path in files.paths:
        try:
            status = path.stat()
        except OSError as exc:
            raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc
        found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = MIN_VERSIONS[files.min_version]
    path = files.cert_file
    try:
        # Without a password of our own OpenSSL would ask a terminal for one.
        context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")
        if files.client_ca_file is not None:
            path = files.client_ca_file
            context.load_verify_locations(cafile=files.client_ca_file)
            context.verify_mode = CLIENT_AUTH[files.client_auth_type]
    except ssl.SSLError as exc:
        what = "no certificates in PEM" if path is files.client_ca_file else f"does not go with {files.key_file}"
        raise ConfigurationError(f"{path}: {what}: {exc.reason or exc}") from exc
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{path} or {files.key_file}: cannot be read: {exc}") from exc
    return context
