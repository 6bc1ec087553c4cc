# SPDX-License-Identifier: Apache-2.0
"""What adds up of a GPU over a span. Pure.

Everything is in units of a slice, so that a part of a GPU counts by its slices and nothing is rounded before it is
sealed: integrals are slice-ns (parts per million x ms x slices), and times are slice-ms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuledger.cells import SLICES_PER_GPU, share_equally
from gpuledger.states import ACTIVITY_EDGES_PPM, State, Uncovered, activity_bin
from gpuledger_agent.snapshot import GpuSnapshot, Holder

SOURCES = ("gpm", "samples", "polled")
"""Sources of activity, the best first."""

WorkloadKey = tuple[str, str | None]
"""Digests of a workload's name and of its user's (None: unknown)."""


@dataclass(slots=True, kw_only=True)
class Part:
    """What one tick means for some slices of a GPU: a state, or the reason why none is covered."""

    slices: int
    result: State | Uncovered
    seen: GpuSnapshot
    """What was seen of these slices."""
    activity_ppm: int | None = None
    is_hang_suspected: bool = False
    is_single: bool = False
    """The time is one tick's, decided by what was seen in it: engines were active in it as they were seen."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """Time and activity of some slices."""

    state_slice_ms: dict[State, int] = field(default_factory=dict)
    uncovered_slice_ms: dict[Uncovered, int] = field(default_factory=dict)
    bin_slice_ms: list[int] = field(default_factory=lambda: [0] * len(ACTIVITY_EDGES_PPM))
    binned_active_slice_ns: int = 0
    active_slice_ns: int | None = None
    active_known_slice_ms: int = 0
    engine_slice_ns: dict[str, int] = field(default_factory=dict)
    engine_known_slice_ms: dict[str, int] = field(default_factory=dict)
    memory_used_bytes_max: int | None = None

    @property
    def total_slice_ms(self) -> int:
        return sum(self.state_slice_ms.values()) + sum(self.uncovered_slice_ms.values())

    def measure(self, part: Part, time_ms: int) -> None:
        """Add what a part of a tick meant for `time_ms`."""
        amount = time_ms * part.slices
        result = part.result
        if isinstance(result, Uncovered):
            self.leave_uncovered(result, amount)
        elif amount > 0:
            self.state_slice_ms[result] = self.state_slice_ms.get(result, 0) + amount
            if part.activity_ppm is not None:
                self._add_activity(part.activity_ppm, result, amount)
            if part.is_single and not part.is_hang_suspected:
                self._add_engines(part.seen, amount)

    def leave_uncovered(self, reason: Uncovered, amount: int) -> None:
        """Add slice-ms that no state covers."""
        if amount > 0:
            self.uncovered_slice_ms[reason] = self.uncovered_slice_ms.get(reason, 0) + amount

    def use_memory(self, used_bytes: int | None) -> None:
        """Take in how much memory was in use, where that is known."""
        most = self.memory_used_bytes_max
        if used_bytes is not None and (most is None or used_bytes > most):
            self.memory_used_bytes_max = used_bytes

    def _add_activity(self, activity_ppm: int, state: State, amount: int) -> None:
        active_slice_ns = activity_ppm * amount
        self.active_slice_ns = active_slice_ns + (0 if self.active_slice_ns is None else self.active_slice_ns)
        self.active_known_slice_ms += amount
        if state is State.BUSY or state is State.HELD:
            self.bin_slice_ms[activity_bin(activity_ppm)] += amount
            self.binned_active_slice_ns += active_slice_ns

    def _add_engines(self, seen: GpuSnapshot, amount: int) -> None:
        for engine, active_ppm in (
            ("sm", seen.sm_active_ppm),
            ("sm_occupancy", seen.sm_occupancy_ppm),
            ("tensor", seen.tensor_active_ppm),
            ("dram", seen.dram_active_ppm),
        ):
            if active_ppm is not None:
                self.engine_slice_ns[engine] = self.engine_slice_ns.get(engine, 0) + active_ppm * amount
                self.engine_known_slice_ms[engine] = self.engine_known_slice_ms.get(engine, 0) + amount


@dataclass(slots=True, kw_only=True)
class Tally(Measured):
    """Everything one GPU accumulates over a span; also used for totals since the agent started."""

    activity_source: str | None = None
    """The weakest source of all ticks."""
    energy_mj: dict[str, int] = field(default_factory=dict)
    energy_start_mj: int | None = None
    energy_end_mj: int | None = None
    energy_epochs: int = 0
    hang_suspicion_ms: int = 0
    rejected_values: int = 0
    is_total: bool = False
    """A total since the agent started keeps no workloads: they would come and go for ever."""
    workload_slice_ms: dict[WorkloadKey, dict[State, int]] = field(default_factory=dict)
    workload_memory_bytes_max: dict[WorkloadKey, int] = field(default_factory=dict)

    def copy(self) -> Tally:
        """Return a copy that later ticks do not change (workloads are left out: only spans need them)."""
        return Tally(
            state_slice_ms=dict(self.state_slice_ms),
            uncovered_slice_ms=dict(self.uncovered_slice_ms),
            bin_slice_ms=list(self.bin_slice_ms),
            binned_active_slice_ns=self.binned_active_slice_ns,
            active_slice_ns=self.active_slice_ns,
            active_known_slice_ms=self.active_known_slice_ms,
            activity_source=self.activity_source,
            engine_slice_ns=dict(self.engine_slice_ns),
            engine_known_slice_ms=dict(self.engine_known_slice_ms),
            energy_mj=dict(self.energy_mj),
            energy_epochs=self.energy_epochs,
            hang_suspicion_ms=self.hang_suspicion_ms,
            rejected_values=self.rejected_values,
        )

    def add(self, part: Part, time_ms: int) -> None:
        """Add what a part of a tick meant for `time_ms` of one piece of it."""
        self.measure(part, time_ms)
        state = part.result
        if isinstance(state, Uncovered) or time_ms == 0:
            return
        if part.is_hang_suspected:
            self.hang_suspicion_ms += time_ms
        if part.activity_ppm is not None:
            self.activity_source = _weaker(self.activity_source, part.seen.activity_source)
        if not self.is_total and (state is State.BUSY or state is State.HELD):
            self._add_workloads(state, time_ms * part.slices, part.seen.holders or ())

    def spend(self, key: str, energy_mj: int | None, odometer_mj: int | None) -> None:
        """Add energy under `key`; `odometer_mj` is the board's counter after it. None where unknown."""
        if odometer_mj is not None:
            if self.energy_start_mj is None:
                self.energy_start_mj = odometer_mj if energy_mj is None else odometer_mj - energy_mj
            self.energy_end_mj = odometer_mj
        if energy_mj is not None and energy_mj > 0:
            self.energy_mj[key] = self.energy_mj.get(key, 0) + energy_mj

    def _add_workloads(self, state: State, amount: int, holders: tuple[Holder, ...]) -> None:
        """Split the time equally over the workloads that hold the GPU, the remainder to the first in order of name."""
        for holder, share in zip(holders, share_equally(amount, len(holders)), strict=True):
            key = (holder.workload, holder.user)
            times = self.workload_slice_ms.get(key)
            if times is None:
                times = self.workload_slice_ms[key] = {}
            times[state] = times.get(state, 0) + share
            if holder.memory_bytes is not None:
                most = self.workload_memory_bytes_max.get(key)
                if most is None or holder.memory_bytes > most:
                    self.workload_memory_bytes_max[key] = holder.memory_bytes


@dataclass(slots=True)
class Span:
    """A stretch of one cell in one session, [start_ms, end_ms), and each GPU's tally over it."""

    start_ms: int
    end_ms: int
    tallies: dict[str, Tally] = field(default_factory=dict)

    def tally(self, uuid: str) -> Tally:
        """Return a GPU's tally; one that is new to the span owes it the time since its start."""
        tally = self.tallies.get(uuid)
        if tally is None:
            tally = self.tallies[uuid] = Tally()
            tally.leave_uncovered(Uncovered.FIRST_TICK, (self.end_ms - self.start_ms) * SLICES_PER_GPU)
        return tally


def _weaker(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other, key=SOURCES.index)
