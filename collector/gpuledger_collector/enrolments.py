# SPDX-License-Identifier: Apache-2.0
"""Who may write under which node's name: what the log says of a key, and what follows for a reading. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger_collector.entries import DECLARED


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A key as the log has it: it counts for readings in [from_ms, to_ms) that end by `revoked_ms`."""

    node_id: str
    public_key: bytes
    node: str
    how: str
    at_ms: int
    from_ms: int | None = None
    to_ms: int | None = None
    revoked_ms: int | None = None

    def why_not(self, start_ms: int, end_ms: int) -> str | None:
        """Return why a reading of this span under this key does not count, or None where it does."""
        key = f"key {self.node_id[:16]} of {self.node}"
        if self.revoked_ms is not None and end_ms > self.revoked_ms:
            return f"{key} is revoked from {self.revoked_ms} on"
        if self.from_ms is not None and start_ms < self.from_ms:
            return f"{key} counts from {self.from_ms} on only"
        if self.to_ms is not None and end_ms > self.to_ms:
            return f"{key} counted until {self.to_ms} only"
        return None

    @property
    def is_declared(self) -> bool:
        return self.how == DECLARED
