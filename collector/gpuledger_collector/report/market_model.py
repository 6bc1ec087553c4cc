# SPDX-License-Identifier: Apache-2.0
"""What schedulers and leases say of idle time, as data of the report. Amounts are integer slice-ms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSchedulableNode:
    """A node that took no new work, what of it was free then, why, by whom and since when."""

    cluster: str
    site: str
    node: str
    why: str
    reason: str | None
    by_name: str | None
    by_digest: str | None
    since_ms: int | None
    free_slice_ms: int
    all_slice_ms: int
    is_at_end: bool
    """Whether it still took none when the figures end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrandedNode:
    """Free time that could not be sold whole: beside GPUs in use, or slices for which no memory was left (MIG)."""

    site: str
    pool: str
    node: str
    gpus: int
    beside_used_slice_ms: int
    mig_slice_ms: int
    free_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Jobs that waited for GPUs in one partition for one reason: the most at a time, and the GPU time they wanted."""

    cluster: str
    partition: str | None
    reason: str
    jobs_max: int
    wanted_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleWhileWaiting:
    """One scheduler: GPU time free at nodes open to it, wanted by waiting jobs, and both at once.

    `known_ms` is for how long its view is known.
    """

    cluster: str
    known_ms: int
    free_slice_ms: int
    wanted_slice_ms: int
    idle_wanted_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedJob:
    """GPUs that one job was given at one node and had no process on."""

    cluster: str | None
    site: str
    node: str
    job_name: str | None
    job_digest: str
    user_name: str | None
    user_digest: str | None
    account_name: str | None
    account_digest: str | None
    gpus: int
    reserved_slice_ms: int
    all_slice_ms: int
    first_hour_ms: int
    last_hour_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SoldIdle:
    """What one lease's GPUs were held or reserved without work: at least and at most; tenants who may soon leave."""

    tenant_name: str | None
    tenant_digest: str | None
    lease: str
    kind: str
    site: str | None
    pool: str
    leased_slice_ms: int
    idle_low_slice_ms: int
    idle_high_slice_ms: int
    dark_low_slice_ms: int
    dark_high_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTime:
    """Installed time of one commercial kind, and what of it was busy, at least and at most."""

    kind: str
    slice_ms: int
    used_low_slice_ms: int
    used_high_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterBridge:
    """GPUs installed at the start and the end, and what lies between: opening + added - retired = closing."""

    opening: int
    added: int
    retired: int
    closing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """All that schedulers and leases say; lists are whole, the most first, and empty where there is nothing."""

    has_scheduler: bool
    has_leases: bool
    not_schedulable: tuple[NotSchedulableNode, ...]
    stranded: tuple[StrandedNode, ...]
    queues: tuple[Queue, ...]
    waiting: tuple[IdleWhileWaiting, ...]
    reserved_jobs: tuple[ReservedJob, ...]
    sold_idle: tuple[SoldIdle, ...]
    kinds: tuple[KindTime, ...]
    bridge: RosterBridge | None
