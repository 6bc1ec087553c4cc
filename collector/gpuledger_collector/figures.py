# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a ledger, whoever holds the rows: sums by group over a period, never rows one by one.

Reports, the page and metrics ask through this Protocol, so that the store can push the work down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gpuledger.accounting import Account
from gpuledger.states import State
from gpuledger_collector.leases import Commercial, Several
from gpuledger_collector.ledger import Finding
from gpuledger_collector.roster_change import Bridge
from gpuledger_collector.schedulers.view import Unschedulable
from gpuledger_collector.spare import NO_TAGS, FreeTags

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
    tags: FreeTags = NO_TAGS
    """Of its free time, what could not have been sold."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CommerceSum:
    """GPU time of one pool under one lease, or under none (`lease` None), and the bounds of each state in it.

    `site` is None where the pool is leased as a whole. `tenant_name` is None where no opening of the digest is known.
    """

    site: str | None
    pool: str
    kind: Commercial
    lease: str | None
    tenant: str | None
    tenant_name: str | None
    slice_ms: int
    low_slice_ms: Mapping[State, int] = field(default_factory=dict)
    high_slice_ms: Mapping[State, int] = field(default_factory=dict)
    low_of_slice_ms: Mapping[Several, int] = field(default_factory=dict)
    high_of_slice_ms: Mapping[Several, int] = field(default_factory=dict)

    @property
    def used(self) -> tuple[int, int]:
        """At least and at most this many slice-ms were busy."""
        return self.low_slice_ms.get(State.BUSY, 0), self.high_of_slice_ms.get(Several.USED_OR_UNKNOWN, 0)

    @property
    def delivered(self) -> tuple[int, int]:
        """At least and at most this many were at the lessee's disposal and healthy."""
        low, high = self.low_of_slice_ms, self.high_of_slice_ms
        return low.get(Several.DELIVERED, 0), high.get(Several.DELIVERED_OR_DARK, 0)

    @property
    def sold_idle(self) -> tuple[int, int]:
        """At least and at most this many were held or reserved."""
        low, high = self.low_of_slice_ms, self.high_of_slice_ms
        return low.get(Several.SOLD_IDLE, 0), high.get(Several.SOLD_IDLE, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotted:
    """GPU time that one job was given at one node, and what of it was busy, held and reserved (without a process).

    `cluster` None: the node itself told of it, and only reserved time is known. `untold_slice_ms` is the part of which
    nobody said which GPUs it was, so its states are not known. `gpus` is the most in any hour.
    """

    cluster: str | None
    site: str
    node: str
    job: str
    user: str | None
    account: str | None
    partition: str | None
    job_name: str | None
    user_name: str | None
    account_name: str | None
    gpus: int
    slice_ms: int
    busy_slice_ms: int
    held_slice_ms: int
    reserved_slice_ms: int
    untold_slice_ms: int
    first_hour_ms: int
    last_hour_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSchedulable:
    """GPU time of one node during which it took no new work, what of it was free, why, by whom and since when."""

    cluster: str
    site: str
    node: str
    why: Unschedulable
    reason: str | None
    by: str | None
    by_name: str | None
    since_ms: int | None
    slice_ms: int
    free_slice_ms: int
    first_hour_ms: int
    last_hour_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSum:
    """Jobs of one partition that waited for GPUs for one reason: the most at a time, and the GPU time they wanted."""

    cluster: str
    partition: str | None
    reason: str
    jobs_max: int
    wanted_slice_ms: int
    first_hour_ms: int
    last_hour_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSum:
    """One scheduler: for how long its view is known; GPU time free at open nodes, wanted by jobs, and both at once."""

    cluster: str
    known_ms: int
    free_slice_ms: int
    wanted_slice_ms: int
    idle_wanted_slice_ms: int


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


class SideReader(Protocol):
    """Read access to what stands beside the hours of GPUs; spans as for LedgerReader.

    Empty where the ledger cannot tell: no scheduler was looked at, or the rows come from an engine.
    """

    def commerce(self, start_ms: int, end_ms: int) -> list[CommerceSum]:
        """Return installed time by kind, lease, tenant, pool and site; it sums to it."""
        ...

    def allotments(self, start_ms: int, end_ms: int) -> list[Allotted]:
        """Return who was given GPUs, most time without a process first."""
        ...

    def not_schedulable(self, start_ms: int, end_ms: int) -> list[NotSchedulable]:
        """Return which nodes took no new work, most free time first."""
        ...

    def queues(self, start_ms: int, end_ms: int) -> list[QueueSum]:
        """Return what waited, most wanted GPU time first."""
        ...

    def clusters(self, start_ms: int, end_ms: int) -> list[ClusterSum]:
        """Return every scheduler that was looked at."""
        ...

    def bridge(self, start_ms: int, end_ms: int) -> Bridge | None:
        """Return opening + added - retired = closing of the roster; None where there is no roster."""
        ...


class Reader(LedgerReader, SideReader, Protocol):
    """Both, as a ledger of one's own answers."""


class GpuAccounts(Protocol):
    """The states' time of every GPU over one period, read once; looked up a page at a time."""

    def of(self, gpus: Iterable[str]) -> Mapping[str, Account]:
        """Return the accounts of those that have any time; only states and what was declared are in them."""
        ...


class FleetReader(Reader, Protocol):
    """A ledger that can also be asked for each GPU of a large fleet."""

    def gpu_accounts(self, start_ms: int, end_ms: int) -> GpuAccounts: ...
