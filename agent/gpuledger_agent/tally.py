# SPDX-License-Identifier: Apache-2.0
"""What adds up of a GPU and of its instances (MIG) over a span. Pure.

Everything is in units of a slice, so that a part of a GPU counts by its slices and nothing is rounded before it is
sealed: integrals are slice-ns (parts per million x ms x slices), and times are slice-ms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gpuledger.cells import SLICES_PER_GPU, share_equally
from gpuledger.hints import Hints, merge
from gpuledger.states import ACTIVITY_EDGES_PPM, State, Uncovered, activity_bin
from gpuledger_agent.health_tally import HealthTally
from gpuledger_agent.snapshot import GpuSnapshot, Holder, InstanceIdentity

SOURCES = ("gpm", "samples", "polled")
"""Sources of activity, the best first."""

_WORST_LAST: tuple[State | Uncovered, ...] = (*State, *Uncovered)

WorkloadKey = tuple[str, str | None, str | None]
"""Digests of a workload's name and of its user's (None: unknown), and the UUID of the instance (None: no instance)."""


@dataclass(slots=True, kw_only=True)
class Part:
    """What one tick means for some slices of a GPU: a state, or the reason why none is covered.

    They are all of an undivided GPU's, an instance's (`instance`), or what no instance has; `seen` is what was seen of
    them.
    """

    slices: int
    seen: GpuSnapshot
    instance: InstanceIdentity | None = None
    result: State | Uncovered = Uncovered.FIRST_TICK
    activity_ppm: int | None = None
    is_hang_suspected: bool = False
    is_single: bool = False
    """The time is one tick's, decided by what was seen in it: engines were active in it as they were seen."""
    is_believed: bool = True
    """What was seen of engines can be so."""

    @property
    def are_engines_believed(self) -> bool:
        """Return whether engines did what was seen of them: what a hung GPU says of itself is in no integral."""
        return self.is_believed and (not self.is_hang_suspected or self.activity_ppm is not None)


def divide(seen: GpuSnapshot) -> tuple[Part, ...]:
    """Return the parts of a GPU, undecided; they have all its slices between them."""
    if not seen.instances:
        return (Part(slices=SLICES_PER_GPU, seen=seen),)
    parts = [Part(slices=i.identity.slices, seen=i.seen, instance=i.identity) for i in seen.instances]
    rest = SLICES_PER_GPU - sum(part.slices for part in parts)
    if rest > 0:
        parts.append(Part(slices=rest, seen=seen))
    return tuple(parts)


def overall(parts: Sequence[Part]) -> State | Uncovered:
    """Return what a GPU is called for short: what most of its slices are, and free only where all are."""
    if len(parts) == 1:
        return parts[0].result
    slices: dict[State | Uncovered, int] = {}
    for part in parts:
        if part.result is not State.FREE:
            slices[part.result] = slices.get(part.result, 0) + part.slices
    return max(slices, key=lambda result: (slices[result], _WORST_LAST.index(result)), default=State.FREE)


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
            if part.is_single and part.are_engines_believed:
                self._add_engines(part.seen, amount)

    def bridge(self, engine: str, active_slice_ns: int, known_slice_ms: int) -> None:
        """Add what an engine did in a time of which no mean tells; cut to pieces it may be a unit too much for one."""
        if known_slice_ms > 0:
            active_slice_ns = min(active_slice_ns, known_slice_ms * 1_000_000)
            self.engine_slice_ns[engine] = self.engine_slice_ns.get(engine, 0) + active_slice_ns
            self.engine_known_slice_ms[engine] = self.engine_known_slice_ms.get(engine, 0) + known_slice_ms

    def copy_from(self, other: Measured) -> None:
        """Become a copy of another one, which its later ticks do not change."""
        self.state_slice_ms = dict(other.state_slice_ms)
        self.uncovered_slice_ms = dict(other.uncovered_slice_ms)
        self.bin_slice_ms = list(other.bin_slice_ms)
        self.binned_active_slice_ns = other.binned_active_slice_ns
        self.active_slice_ns = other.active_slice_ns
        self.active_known_slice_ms = other.active_known_slice_ms
        self.engine_slice_ns = dict(other.engine_slice_ns)
        self.engine_known_slice_ms = dict(other.engine_known_slice_ms)

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
    """Everything one GPU accumulates over a span, its instances included; also used for totals since the start.

    `rest` is what no instance had, once it has been set apart; totals have it, and only the instances of the moment.
    """

    instances: dict[InstanceIdentity, Measured] = field(default_factory=dict)
    rest: Measured | None = None
    activity_source: str | None = None
    """The weakest source of all ticks."""
    energy_mj: dict[str, int] = field(default_factory=dict)
    energy_start_mj: int | None = None
    energy_end_mj: int | None = None
    energy_epochs: int = 0
    link_bytes: dict[str, int] = field(default_factory=dict)
    link_known_ms: dict[str, int] = field(default_factory=dict)
    hang_suspicion_ms: int = 0
    rejected_values: int = 0
    health: HealthTally = field(default_factory=HealthTally)
    is_total: bool = False
    """A total since the agent started keeps no workloads: they would come and go for ever."""
    workload_slice_ms: dict[WorkloadKey, dict[State, int]] = field(default_factory=dict)
    workload_memory_bytes_max: dict[WorkloadKey, int] = field(default_factory=dict)
    workload_source: dict[WorkloadKey, str] = field(default_factory=dict)
    workload_features: dict[WorkloadKey, dict[str, int]] = field(default_factory=dict)
    workload_hints: dict[WorkloadKey, Hints] = field(default_factory=dict)

    def copy(self) -> Tally:
        """Return a copy that later ticks do not change (workloads are left out: only spans need them)."""
        copied = Tally(
            instances={identity: copy_of(measured) for identity, measured in self.instances.items()},
            rest=None if self.rest is None else copy_of(self.rest),
            activity_source=self.activity_source,
            energy_mj=dict(self.energy_mj),
            energy_epochs=self.energy_epochs,
            link_bytes=dict(self.link_bytes),
            link_known_ms=dict(self.link_known_ms),
            hang_suspicion_ms=self.hang_suspicion_ms,
            rejected_values=self.rejected_values,
            health=self.health.copy(),
        )
        copied.copy_from(self)
        return copied

    def set_rest_apart(self) -> None:
        """Count apart, from now on, what no instance has; until now that was everything."""
        if self.rest is None:
            self.rest = copy_of(self)

    def keep_instances(self, identities: Collection[InstanceIdentity | None]) -> None:
        """Drop the other instances."""
        for identity in [identity for identity in self.instances if identity not in identities]:
            del self.instances[identity]

    def add(self, part: Part, time_ms: int) -> None:
        """Add what a part of a tick meant for `time_ms` of one piece of it."""
        self.measure(part, time_ms)
        if part.instance is not None:
            self._of_instance(part.instance, part.seen.memory_used_bytes).measure(part, time_ms)
        elif self.rest is not None:
            self.rest.measure(part, time_ms)
        state = part.result
        if isinstance(state, Uncovered) or time_ms == 0:
            return
        if part.is_hang_suspected:
            self.hang_suspicion_ms += time_ms
        if part.activity_ppm is not None:
            self.activity_source = _weaker(self.activity_source, part.seen.activity_source)
        if self.is_total:
            return
        if state is State.BUSY or state is State.HELD:
            self._add_workloads(state, time_ms * part.slices, part, part.seen.holders or ())
        elif state is State.RESERVED and part.seen.allocated_to:
            self._add_workloads(state, time_ms * part.slices, part, part.seen.allocated_to)
        elif state is State.UNMEASURED and part.seen.tenant is not None:
            self._add_workloads(state, time_ms * part.slices, part, (part.seen.tenant,))

    def spend(self, key: str, energy_mj: int | None, odometer_mj: int | None) -> None:
        """Add energy under `key`; `odometer_mj` is the board's counter after it. None where unknown."""
        if odometer_mj is not None:
            if self.energy_start_mj is None:
                self.energy_start_mj = odometer_mj if energy_mj is None else odometer_mj - energy_mj
            self.energy_end_mj = odometer_mj
        if energy_mj is not None and energy_mj > 0:
            self.energy_mj[key] = self.energy_mj.get(key, 0) + energy_mj

    def bridge_whole(self, engine: str, active_ns: int, known_ms: int) -> None:
        """Add what an engine of the undivided GPU did in a time of which no mean tells."""
        for measured in (self, self.rest):
            if measured is not None:
                measured.bridge(engine, active_ns * SLICES_PER_GPU, known_ms * SLICES_PER_GPU)

    def carry(self, link: str, carried_bytes: int, known_ms: int) -> None:
        """Add the bytes over a link in a time for which they are known."""
        if known_ms > 0:
            self.link_bytes[link] = self.link_bytes.get(link, 0) + carried_bytes
            self.link_known_ms[link] = self.link_known_ms.get(link, 0) + known_ms

    def behave(self, key: WorkloadKey, found: Mapping[str, int]) -> None:
        """Add to what is known of how a workload behaves."""
        features = self.workload_features.get(key)
        if features is None:
            features = self.workload_features[key] = {}
        for name, amount in found.items():
            features[name] = features.get(name, 0) + amount

    def hint(self, key: WorkloadKey, hints: Hints) -> None:
        """Add to what a workload's processes told of its kind."""
        known = self.workload_hints.get(key)
        if known is not hints:
            merged = merge(known, hints)
            if merged is not None:
                self.workload_hints[key] = merged

    def _of_instance(self, identity: InstanceIdentity, memory_used_bytes: int | None) -> Measured:
        measured = self.instances.get(identity)
        if measured is None:
            measured = self.instances[identity] = Measured()
        measured.use_memory(memory_used_bytes)
        return measured

    def _add_workloads(self, state: State, amount: int, part: Part, holders: tuple[Holder, ...]) -> None:
        """Split the time equally over the workloads that hold the part, or were given it: the first get the rest."""
        instance_uuid = None if part.instance is None else part.instance.uuid
        for holder, share in zip(holders, share_equally(amount, len(holders)), strict=True):
            key = (holder.workload, holder.user, instance_uuid)
            times = self.workload_slice_ms.get(key)
            if times is None:
                times = self.workload_slice_ms[key] = {}
            times[state] = times.get(state, 0) + share
            if holder.source is not None:
                self.workload_source[key] = holder.source
            if holder.hints is not None:
                self.hint(key, holder.hints)
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


def copy_of(measured: Measured) -> Measured:
    """Return a copy that later ticks do not change."""
    copied = Measured()
    copied.copy_from(measured)
    return copied


def _weaker(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other, key=SOURCES.index)
