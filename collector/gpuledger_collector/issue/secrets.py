# SPDX-License-Identifier: Apache-2.0
"""Secrets of channels: read when they are needed, from a file or the environment, and never said."""

from __future__ import annotations

from collections.abc import Mapping

from gpuledger.credentials import SECRET_BYTES_MAX
from gpuledger.errors import ConfigurationError
from gpuledger_collector.issue.plan import Secret


def read_secret(secret: Secret, environment: Mapping[str, str], where: str) -> str:
    """Return the text of a secret; raises ConfigurationError naming where it should be, never what it is."""
    if secret.variable is not None:
        found = environment.get(secret.variable, "").strip()
        if not found:
            raise ConfigurationError(f"{where}: the environment has no {secret.variable}")
        return found
    if secret.path is None:  # pragma: no cover - a plan has one of the two
        raise ConfigurationError(f"{where}: no secret is named")
    try:
        data = secret.path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{where}: {secret.path} cannot be read: {exc.strerror}") from exc
    text = data[:SECRET_BYTES_MAX].decode("utf-8", errors="replace").strip()
    if not text or len(data) > SECRET_BYTES_MAX or not text.isprintable():
        raise ConfigurationError(f"{where}: {secret.path} is not one line of up to {SECRET_BYTES_MAX} bytes")
    return text
