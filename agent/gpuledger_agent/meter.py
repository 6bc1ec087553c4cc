# SPDX-License-Identifier: Apache-2.0
"""The meter: ticks in, integer slice-ms per state out, cut at cell edges (accounting.md, 2, "Coverage").

Pure: it is told the edge of each tick on the session's timeline and what was seen. Every GPU of a span has its states
and uncovered reasons sum to the span, always, which `Tally.total_slice_ms` lets anybody check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuledger.cells import CELL_MS, SLICES_PER_GPU, floor_to, share_by_weight, share_equally, split_at
from gpuledger.gpu_time import UNCOVERED_ENERGY
from gpuledger.states import ACTIVITY_EDGES_PPM, State, Uncovered, activity_bin
from gpuledger_agent.decision import Floors, decide
from gpuledger_agent.snapshot import GpuSnapshot, Holder

CONSECUTIVE_INTERVALS_MAX = 2
GAP_INTERVALS_MAX = 30
SOURCES = ("gpm", "samples", "polled")
"""Sources of activity, the best first."""


@dataclass(slots=True)
class Tally:
    """Everything one GPU accumulates over a span; also used for totals since the agent started."""

    state_slice_ms: dict[State, int] = field(default_factory=dict)
    uncovered_slice_ms: dict[Uncovered, int] = field(default_factory=dict)
    bin_slice_ms: list[int] = field(default_factory=lambda: [0] * len(ACTIVITY_EDGES_PPM))
    binned_active_ns: int = 0
    active_ns: int | None = None
    active_known_ms: int = 0
    activity_source: str | None = None
    """The weakest source of all ticks."""
    engine_ns: dict[str, int] = field(default_factory=dict)
    engine_known_ms: dict[str, int] = field(default_factory=dict)
    energy_mj: dict[str, int] = field(default_factory=dict)
    energy_start_mj: int | None = None
    energy_end_mj: int | None = None
    energy_epochs: int = 0
    memory_used_bytes_max: int | None = None
    hang_suspicion_ms: int = 0
    rejected_values: int = 0
    workload_slice_ms: dict[tuple[str, str | None], dict[State, int]] = field(default_factory=dict)
    workload_memory_bytes_max: dict[tuple[str, str | None], int] = field(default_factory=dict)

    @property
    def total_slice_ms(self) -> int:
        return sum(self.state_slice_ms.values()) + sum(self.uncovered_slice_ms.values())

    def copy(self) -> Tally:
        """Return a copy that later ticks do not change (workloads are left out: only spans need them)."""
        return Tally(
            state_slice_ms=dict(self.state_slice_ms),
            uncovered_slice_ms=dict(self.uncovered_slice_ms),
            bin_slice_ms=list(self.bin_slice_ms),
            binned_active_ns=self.binned_active_ns,
            active_ns=self.active_ns,
            active_known_ms=self.active_known_ms,
            activity_source=self.activity_source,
            engine_ns=dict(self.engine_ns),
            engine_known_ms=dict(self.engine_known_ms),
            energy_mj=dict(self.energy_mj),
            energy_epochs=self.energy_epochs,
            hang_suspicion_ms=self.hang_suspicion_ms,
            rejected_values=self.rejected_values,
        )


@dataclass(slots=True)
class Span:
    """A stretch of one cell in one session, [start_ms, end_ms), and each GPU's tally over it."""

    start_ms: int
    end_ms: int
    tallies: dict[str, Tally] = field(default_factory=dict)


@dataclass(slots=True)
class _Outcome:
    """What one tick means for one GPU, before it is cut at cell edges."""

    state: State | None
    reason: Uncovered | None
    activity_ppm: int | None
    energy_mj: int | None
    energy_before_mj: int | None
    is_energy_whole: bool
    """The energy was spent within this tick alone, so it belongs to the tick's state."""
    is_energy_epoch: bool
    is_hang_suspected: bool
    is_single: bool
    """The time is one tick's, decided by what was seen in it: engines were active in it as they were seen."""
    seen: GpuSnapshot

    @property
    def result(self) -> State | Uncovered:
        if self.state is not None:
            return self.state
        return Uncovered.FIRST_TICK if self.reason is None else self.reason

    @property
    def energy_key(self) -> str:
        return self.state.value if self.state is not None and self.is_energy_whole else UNCOVERED_ENERGY


@dataclass(slots=True)
class _Previous:
    """What the tick before left behind for one GPU."""

    is_observed: bool
    is_held: bool
    energy_mj: int | None
    is_energy_fresh: bool


class Meter:
    """Integrates one session; a new session starts with a new meter."""

    def __init__(self, interval_ms: int, floors: dict[str, Floors], totals: dict[str, Tally]) -> None:
        """`floors` and `totals` are by UUID and outlive the session; the meter adds to them."""
        self._interval_ms = interval_ms
        self._floors = floors
        self._totals = totals
        self._span: Span | None = None
        self._previous: dict[str, _Previous] = {}
        self.states: dict[str, State | Uncovered] = {}
        """What the last tick was for each GPU, by UUID."""
        self.power_mw: dict[str, float] = {}
        """Mean power of each GPU over the last tick, where it is known."""

    @property
    def open_span(self) -> Span | None:
        """Return the span that is still growing; None before the first tick."""
        return self._span

    def tick(self, edge_ms: int, seen: Mapping[str, GpuSnapshot]) -> list[Span]:
        """Take in one tick that began at `edge_ms`; return the spans that it finished."""
        finished: list[Span] = []
        span = self._span
        if span is None:
            span = self._span = Span(start_ms=edge_ms, end_ms=edge_ms)
        gap_ms = edge_ms - span.end_ms
        if gap_ms < 0:
            raise ValueError(f"tick at {edge_ms} ms is before the last one at {span.end_ms} ms")
        if gap_ms > GAP_INTERVALS_MAX * self._interval_ms:
            # Too long to carry anything over: close what is known, and begin again here.
            if span.end_ms > span.start_ms:
                finished.append(span)
            span = self._span = Span(start_ms=edge_ms, end_ms=edge_ms)
            for previous in self._previous.values():
                previous.is_observed = False
            gap_ms = 0
        outcomes = {uuid: self._outcome(uuid, snapshot, gap_ms) for uuid, snapshot in seen.items()}
        self.states = {uuid: outcome.result for uuid, outcome in outcomes.items()}
        pieces = list(split_at(span.end_ms, edge_ms, CELL_MS)) or [(edge_ms, edge_ms)]
        for uuid, outcome in outcomes.items():
            self._total(uuid, outcome, gap_ms)
        parts = {uuid: _cut(outcome, pieces) for uuid, outcome in outcomes.items()}
        for index, (start_ms, end_ms) in enumerate(pieces):
            for uuid, outcome in outcomes.items():
                energy_mj, odometer_mj = parts[uuid][index]
                _add(self._tally(span, uuid), outcome, end_ms - start_ms, energy_mj, odometer_mj, index == 0)
            self._pass_over_missing(span, seen, end_ms - start_ms)
            span.end_ms = end_ms
            if end_ms == floor_to(end_ms, CELL_MS) and end_ms > span.start_ms:
                finished.append(span)
                span = self._span = Span(start_ms=end_ms, end_ms=end_ms)
                for uuid, outcome in outcomes.items():
                    _begin(self._tally(span, uuid), outcome, parts[uuid][index][1])
        return finished

    def close(self) -> Span | None:
        """End the session: return what is open, or None where nothing was accounted for."""
        span, self._span = self._span, None
        return span if span is not None and span.end_ms > span.start_ms else None

    # ------------------------------------------------------------------------------------------ one tick, one GPU

    def _outcome(self, uuid: str, seen: GpuSnapshot, gap_ms: int) -> _Outcome:
        previous = self._previous.get(uuid)
        before_mj = None if previous is None else previous.energy_mj
        energy_mj: int | None = None
        is_epoch = False
        if before_mj is not None and seen.energy_mj is not None:
            energy_mj = seen.energy_mj - before_mj
            if energy_mj < 0:
                energy_mj, is_epoch = None, True
        outcome = _Outcome(
            state=None,
            reason=None,
            activity_ppm=None,
            energy_mj=energy_mj,
            energy_before_mj=before_mj,
            is_energy_whole=previous is not None and previous.is_energy_fresh,
            is_energy_epoch=is_epoch,
            is_hang_suspected=False,
            is_single=False,
            seen=seen,
        )
        self._decide(uuid, outcome, previous, gap_ms)
        self._previous[uuid] = _Previous(
            is_observed=seen.uncovered is None,
            is_held=bool(seen.holders),
            energy_mj=seen.energy_mj if seen.energy_mj is not None else before_mj,
            is_energy_fresh=seen.energy_mj is not None,
        )
        return outcome

    def _decide(self, uuid: str, outcome: _Outcome, previous: _Previous | None, gap_ms: int) -> None:
        seen = outcome.seen
        tick_energy_mj = outcome.energy_mj if outcome.is_energy_whole else None
        floors = self._floors.get(uuid)
        if floors is None:
            floors = self._floors[uuid] = Floors()
        self.power_mw.pop(uuid, None)
        if seen.uncovered is not None:
            outcome.reason = seen.uncovered
        elif previous is None or not previous.is_observed:
            outcome.reason = Uncovered.FIRST_TICK
        elif gap_ms > CONSECUTIVE_INTERVALS_MAX * self._interval_ms:
            if tick_energy_mj is not None and (previous.is_held or seen.holders):
                outcome.state = State.UNMEASURED
            else:
                outcome.reason = Uncovered.GAP
        else:
            self._decide_covered(uuid, outcome, floors, tick_energy_mj, gap_ms)
            return
        floors.interrupt()

    def _decide_covered(
        self, uuid: str, outcome: _Outcome, floors: Floors, tick_energy_mj: int | None, gap_ms: int
    ) -> None:
        seen = outcome.seen
        power_mw = None
        if gap_ms == 0:
            tick_energy_mj = None  # a second look at the same millisecond: no time, no power
        if tick_energy_mj is not None:
            power_mw = self.power_mw[uuid] = 1000 * tick_energy_mj / gap_ms
        decision = decide(seen, power_mw, floors.idle_mw)
        outcome.state = decision.state
        outcome.is_hang_suspected = decision.is_hang_suspected
        outcome.is_single = True
        # What a hung GPU calls activity is none: it must not reach the engine-active integral either.
        outcome.activity_ppm = None if decision.is_hang_suspected else seen.activity_ppm
        floors.learn(decision.state, seen.activity_ppm, tick_energy_mj, gap_ms)

    # ------------------------------------------------------------------------------------------ adding up

    def _tally(self, span: Span, uuid: str) -> Tally:
        tally = span.tallies.get(uuid)
        if tally is None:
            tally = span.tallies[uuid] = Tally()
            before_ms = span.end_ms - span.start_ms
            if before_ms > 0:
                tally.uncovered_slice_ms[Uncovered.FIRST_TICK] = before_ms * SLICES_PER_GPU
        return tally

    def _pass_over_missing(self, span: Span, seen: Mapping[str, GpuSnapshot], time_ms: int) -> None:
        # A GPU that the caller no longer speaks of still owes the span its time.
        for uuid, tally in span.tallies.items():
            if uuid not in seen:
                _count(tally.uncovered_slice_ms, Uncovered.NOT_ENUMERATED, time_ms * SLICES_PER_GPU)
                self._previous.pop(uuid, None)

    def _total(self, uuid: str, outcome: _Outcome, time_ms: int) -> None:
        tally = self._totals.get(uuid)
        if tally is None:
            tally = self._totals[uuid] = Tally()
        _add(tally, outcome, time_ms, outcome.energy_mj, None, True)


def _count(counts: dict[Uncovered, int], reason: Uncovered, amount: int) -> None:
    if amount > 0:
        counts[reason] = counts.get(reason, 0) + amount


def _cut(outcome: _Outcome, pieces: list[tuple[int, int]]) -> list[tuple[int | None, int | None]]:
    """Return (energy, odometer at the end) of each piece; the odometer between two reads is what the shares make it."""
    energy_mj = outcome.energy_mj
    if len(pieces) == 1:
        return [(energy_mj, outcome.seen.energy_mj)]
    if energy_mj is None:
        return [(None, None)] * (len(pieces) - 1) + [(None, outcome.seen.energy_mj)]
    odometer_mj = outcome.energy_before_mj
    parts: list[tuple[int | None, int | None]] = []
    for share_mj in share_by_weight(energy_mj, [end_ms - start_ms for start_ms, end_ms in pieces]):
        odometer_mj = share_mj + (0 if odometer_mj is None else odometer_mj)
        parts.append((share_mj, odometer_mj))
    return parts


def _begin(tally: Tally, outcome: _Outcome, odometer_mj: int | None) -> None:
    """Open a GPU's tally in a new span with what is known at its start."""
    tally.energy_start_mj = tally.energy_end_mj = odometer_mj
    tally.memory_used_bytes_max = outcome.seen.memory_used_bytes


def _add(
    tally: Tally, outcome: _Outcome, time_ms: int, energy_mj: int | None, odometer_mj: int | None, is_first: bool
) -> None:
    """Add one piece of a tick: `energy_mj` is the piece's share, `odometer_mj` the counter at its end."""
    seen, state = outcome.seen, outcome.state
    amount = time_ms * SLICES_PER_GPU
    if state is None:
        if outcome.reason is not None:
            _count(tally.uncovered_slice_ms, outcome.reason, amount)
    elif amount > 0:
        tally.state_slice_ms[state] = tally.state_slice_ms.get(state, 0) + amount
        if outcome.is_hang_suspected:
            tally.hang_suspicion_ms += time_ms
        if outcome.activity_ppm is not None:
            _add_activity(tally, outcome, state, time_ms)
        if outcome.is_single and not outcome.is_hang_suspected:
            _add_engines(tally, seen, time_ms)
        if state is State.BUSY or state is State.HELD:
            _add_workloads(tally, state, amount, seen.holders or ())
    if odometer_mj is not None:
        if tally.energy_start_mj is None:
            tally.energy_start_mj = odometer_mj if energy_mj is None else odometer_mj - energy_mj
        tally.energy_end_mj = odometer_mj
    if energy_mj is not None and energy_mj > 0:
        key = outcome.energy_key
        tally.energy_mj[key] = tally.energy_mj.get(key, 0) + energy_mj
    if seen.memory_used_bytes is not None:
        most = tally.memory_used_bytes_max
        if most is None or seen.memory_used_bytes > most:
            tally.memory_used_bytes_max = seen.memory_used_bytes
    if is_first:
        tally.energy_epochs += outcome.is_energy_epoch
        tally.rejected_values += seen.rejected_values


def _add_activity(tally: Tally, outcome: _Outcome, state: State, time_ms: int) -> None:
    activity_ppm = outcome.activity_ppm
    if activity_ppm is None:
        return
    active_ns = activity_ppm * time_ms
    tally.active_ns = active_ns + (0 if tally.active_ns is None else tally.active_ns)
    tally.active_known_ms += time_ms
    tally.activity_source = _weaker(tally.activity_source, outcome.seen.activity_source)
    if state is State.BUSY or state is State.HELD:
        tally.bin_slice_ms[activity_bin(activity_ppm)] += time_ms * SLICES_PER_GPU
        tally.binned_active_ns += active_ns


def _weaker(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other, key=SOURCES.index)


def _add_engines(tally: Tally, seen: GpuSnapshot, time_ms: int) -> None:
    for engine, active_ppm in (
        ("sm", seen.sm_active_ppm),
        ("sm_occupancy", seen.sm_occupancy_ppm),
        ("tensor", seen.tensor_active_ppm),
        ("dram", seen.dram_active_ppm),
    ):
        if active_ppm is not None:
            tally.engine_ns[engine] = tally.engine_ns.get(engine, 0) + active_ppm * time_ms
            tally.engine_known_ms[engine] = tally.engine_known_ms.get(engine, 0) + time_ms


def _add_workloads(tally: Tally, state: State, amount: int, holders: tuple[Holder, ...]) -> None:
    """Split the time equally over the workloads that hold the GPU, the remainder to the first in order of name."""
    for holder, share in zip(holders, share_equally(amount, len(holders)), strict=True):
        key = (holder.workload, holder.user)
        times = tally.workload_slice_ms.get(key)
        if times is None:
            times = tally.workload_slice_ms[key] = {}
        times[state] = times.get(state, 0) + share
        if holder.memory_bytes is not None:
            most = tally.workload_memory_bytes_max.get(key)
            if most is None or holder.memory_bytes > most:
                tally.workload_memory_bytes_max[key] = holder.memory_bytes
