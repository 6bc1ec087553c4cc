# SPDX-License-Identifier: Apache-2.0
"""What one tick saw of one GPU. `None` is unknown: not offered, failed, or too old; a zero is a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gpuledger.states import Uncovered


class Health(str, Enum):
    """What the health reads say; unknown health is None."""

    CLEAN = "clean"
    LOST = "lost"
    RESET_REQUIRED = "reset_required"
    RECOVERY_ACTION = "recovery_action"
    ROW_REMAP_FAILURE = "row_remap_failure"
    FATAL_XID = "fatal_xid"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """What the driver last said about a board's health; None was never said."""

    recovery_action: int | None = None
    remapped_correctable: int | None = None
    remapped_uncorrectable: int | None = None
    is_remap_pending: bool | None = None
    is_remap_failed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a counter grew by since `since_ms`, the edge of the tick that read it before."""

    since_ms: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One workload that holds the GPU: digests of its name and of its user's (None: user unknown).

    `source` is what told it, one of WORKLOAD_SOURCES.
    """

    workload: str
    user: str | None
    memory_bytes: int | None
    is_operator: bool = False
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSnapshot:
    """One GPU in one tick.

    `activity_ppm` is engine activity over the tick in parts per million, from `activity_source`; the others beside it
    are GPM's. `holders` are the workloads whose processes hold the GPU, ignorable ones left out (None: process list
    unknown); `energy_mj` is the board's odometer. `uncovered` says that nothing at all can be observed, and why;
    `error` is NVML's name of the error where it was the only one.
    """

    activity_ppm: int | None = None
    activity_source: str | None = None
    sm_active_ppm: int | None = None
    sm_occupancy_ppm: int | None = None
    tensor_active_ppm: int | None = None
    dram_active_ppm: int | None = None
    holders: tuple[Holder, ...] | None = None
    tenant: Holder | None = None
    is_allocated: bool | None = None
    health: Health | None = None
    energy_mj: int | None = None
    memory_used_bytes: int | None = None
    uncovered: Uncovered | None = None
    error: str | None = None
    rejected_values: int = 0
    health_facts: HealthFacts | None = None
    xids: tuple[tuple[int, int | None], ...] = ()
    throttled: Mapping[str, Growth] = field(default_factory=dict)
    ecc_errors: Mapping[str, int] = field(default_factory=dict)
