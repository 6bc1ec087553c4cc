# SPDX-License-Identifier: Apache-2.0
"""Names that the collector itself learns, of tenants, users and jobs: digests for the log, openings beside it.

The log cannot forget, and anybody may copy it. Collectors of one site that share the secret's file give one name one
digest.
"""

from __future__ import annotations

from pathlib import Path

from gpuledger.sealing import NameSealer, load_or_create_secret

SECRET = "names.key"  # noqa: S105 - a file's name
"""Where the secret lies below the state directory, unless the settings name another file."""


class Namer:
    """Gives names their digests, and keeps the openings of those that were asked for until they are taken."""

    def __init__(self, path: Path) -> None:
        """Read the secret, or make one on first use; raises StorageError."""
        self._sealer = NameSealer(load_or_create_secret(path))
        self._openings: dict[str, str] = {}

    def digest(self, name: str) -> str:
        found = self._sealer.digest_of(name)
        self._openings[found] = name
        return found

    def digest_or_none(self, name: str | None) -> str | None:
        return None if name is None else self.digest(name)

    def take_openings(self) -> dict[str, str]:
        """Return the openings since the last call: they are to be stored with what mentions the digests."""
        found, self._openings = self._openings, {}
        return found
