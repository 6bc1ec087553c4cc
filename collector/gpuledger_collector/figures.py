# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a ledger, whoever holds the rows: sums by group over a period, never rows one by one.

Reports, the page and metrics ask through this Protocol, so that the store can push the work down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gpuledger.accounting import Account
from gpuledger_collector.ledger import Finding

Key = Literal["site", "cluster", "pool", "node", "gpu", "model", "hour_ms", "day_ms"]
"""What rows may be grouped by; `day_ms` is the start of the UTC day. A missing model is the empty text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The sum of all rows with one key: `key` has one value per requested Key, in order."""

    key: tuple[str | int, ...]
    account: Account
    gpus: int
    """How many different GPUs."""
    active_known_ms: int
    hang_suspicion_ms: int
    memory_used_bytes_max: int | None
    intervals_ms: tuple[int, ...]
    activity_sources: tuple[str, ...]
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one workload had on one node: busy and held time over all its GPUs, with names where they are open.

    `user_name` and `workload_name` are None where no opening is known; the digests always stand.
    """

    node: str
    site: str
    workload: str
    user: str | None
    workload_name: str | None
    user_name: str | None
    gpus: int
    busy_slice_ms: int
    held_slice_ms: int
    memory_bytes_max: int | None
    first_hour_ms: int
    last_hour_ms: int


class LedgerReader(Protocol):
    """Read access to a ledger; all spans are [start_ms, end_ms) on hour edges, answers are sorted by key."""

    def extent(self) -> tuple[int, int] | None:
        """Return the span of whole cells that the ledger accounts for, or None while it is empty."""
        ...

    def sum_by(self, keys: Sequence[Key], start_ms: int, end_ms: int) -> list[Group]: ...

    def holdings(self, start_ms: int, end_ms: int) -> list[Holding]:
        """Return every workload's time, largest held time first."""
        ...

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]: ...

    def digest(self, start_ms: int, end_ms: int) -> str:
        """Return SHA-256 over the canonical rows of the period."""
        ...
