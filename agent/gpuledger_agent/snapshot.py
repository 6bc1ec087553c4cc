# SPDX-License-Identifier: Apache-2.0
"""What one tick saw of one GPU. `None` is unknown: not offered, failed, or too old; a zero is a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gpuledger.hints import Hints
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

    `memory_bytes` is that of all its processes on the GPU, None where one's is unknown; `source` says what told it, one
    of WORKLOAD_SOURCES; `hints` are what its processes told of its kind (None: nobody has looked yet).
    """

    workload: str
    user: str | None
    memory_bytes: int | None
    is_operator: bool = False
    source: str | None = None
    hints: Hints | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """A counter that runs on between ticks: SM cycles in `amount` out of `of`, or (`of` is None) bytes."""

    amount: int
    of: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSnapshot:
    """One GPU in one tick.

    `activity_ppm` is engine activity over the tick in parts per million, from `activity_source`; the others beside it
    are GPM's. `link_bytes` are the bytes over each link since the last tick; `counts` the counters of engines and links
    that proved themselves, by name. `high_activity_ms` is for how long activity, or utilisation where GPM sees next to
    nothing, has been above 70 % without a break (None: it is not, or nobody knows). `holders` are the workloads whose
    processes hold the GPU, ignorable ones left out (None: process list unknown); `is_allocated` says whether the GPU is
    somebody's, process or not, and `allocated_to` whose; `energy_mj` is the board's odometer. `uncovered` says that
    nothing at all can be observed, and why; `error` is NVML's name of the error where it was the only one.

    A divided GPU (MIG) has `instances`, and all else is said of the board and of what no instance has; where the
    instances are unknown they are None, and all else is said of the whole GPU.
    """

    activity_ppm: int | None = None
    activity_source: str | None = None
    sm_active_ppm: int | None = None
    sm_occupancy_ppm: int | None = None
    tensor_active_ppm: int | None = None
    dram_active_ppm: int | None = None
    link_bytes: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Count] = field(default_factory=dict)
    high_activity_ms: int | None = None
    holders: tuple[Holder, ...] | None = None
    tenant: Holder | None = None
    is_allocated: bool | None = None
    allocated_to: tuple[Holder, ...] = ()
    health: Health | None = None
    energy_mj: int | None = None
    power_limit_mw: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    uncovered: Uncovered | None = None
    error: str | None = None
    rejected_values: int = 0
    health_facts: HealthFacts | None = None
    xids: tuple[tuple[int, int | None], ...] = ()
    throttled: Mapping[str, Growth] = field(default_factory=dict)
    ecc_errors: Mapping[str, int] = field(default_factory=dict)
    is_divided: bool = False
    instances: tuple[InstanceSnapshot, ...] | None = ()

    @property
    def is_looked_at(self) -> bool:
        """Return whether the GPU answered at all: one that did not says nothing of its instances either."""
        return self.uncovered is None and self.health is not Health.LOST and self.health is not Health.RESET_REQUIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceIdentity:
    """A GPU instance: whatever differs in any of this is another one, though the driver gave it the same id.

    `instance` is that id, `uuid` that of its first MIG device.
    """

    uuid: str
    instance: int
    profile: str | None
    slices: int
    memory_total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSnapshot:
    """One GPU instance in one tick: its slices seen as a GPU is; what is measured is relative to the instance."""

    identity: InstanceIdentity
    seen: GpuSnapshot
