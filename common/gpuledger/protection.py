# SPDX-License-Identifier: Apache-2.0
"""The settings of a port that others may reach, the same for agent and collector, and what such a port lacks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from gpuledger.access import Access, Passwords, Tokens
from gpuledger.settings import Pairs, setting
from gpuledger.tls import CLIENT_AUTH, MIN_VERSIONS, TlsFiles, tls_files


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConfig:
    """TLS and logins, under the names that Prometheus exporters have for them."""

    tls_cert_file: Path | None = setting(
        "tls_server_config.cert_file", "Certificate (chain) to serve TLS with, PEM.", None
    )
    tls_key_file: Path | None = setting("tls_server_config.key_file", "Its private key, PEM.", None)
    tls_client_auth_type: str = setting(
        "tls_server_config.client_auth_type",
        "Whether clients need a certificate.",
        "NoClientCert",
        choices=tuple(CLIENT_AUTH),
    )
    tls_client_ca_file: Path | None = setting(
        "tls_server_config.client_ca_file", "Who signs the certificates of clients, PEM.", None
    )
    tls_min_version: str = setting(
        "tls_server_config.min_version", "Least version of TLS.", "TLS12", choices=tuple(MIN_VERSIONS)
    )
    basic_auth_users: Pairs = setting(
        "basic_auth_users", "User and digest of the password, from the command `credential`.", ()
    )
    bearer_tokens_file: Path | None = setting(
        "bearer_tokens_file", "File of the SHA-256 of each bearer token, one a line; mode 0600 or 0640.", None
    )
    is_healthz_open: bool = setting("http.healthz_open", "Answer /healthz without a login.", True)

    @property
    def tls(self) -> TlsFiles | None:
        """Return the files of TLS, None without; raises ConfigurationError for half a configuration."""
        return tls_files(
            self.tls_cert_file,
            self.tls_key_file,
            self.tls_client_auth_type,
            self.tls_client_ca_file,
            self.tls_min_version,
        )

    def missing_protection(self, address: str) -> tuple[str, ...]:
        """Return what a port on `address` (numeric) lacks; a port that only this machine reaches lacks nothing."""
        if ipaddress.ip_address(address).is_loopback:
            return ()
        files = self.tls
        is_login = bool(self.basic_auth_users) or self.bearer_tokens_file is not None
        is_mutual = files is not None and files.client_auth_type == "RequireAndVerifyClientCert"
        wanted = (("TLS", files is not None), ("a login", is_login or is_mutual))
        return tuple(name for name, is_there in wanted if not is_there)


def make_access(users: Pairs, tokens_file: Path | None) -> Access:
    """Return who may ask; raises ConfigurationError naming the user or file."""
    return Access(
        Passwords(dict(users)) if users else None,
        None if tokens_file is None else Tokens(tokens_file),
    )
