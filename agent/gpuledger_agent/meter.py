# SPDX-License-Identifier: Apache-2.0
"""The meter: ticks in, integer slice-ms per state out, cut at cell edges (accounting.md, 2, "Coverage").

Pure: it is told the edge of each tick on the session's timeline and what was seen. Every GPU of a span has its states
and uncovered reasons sum to the span, always, which `Tally.total_slice_ms` lets anybody check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuledger.cells import CELL_MS, SLICES_PER_GPU, floor_to, share_by_weight, split_at
from gpuledger.gpu_time import UNCOVERED_ENERGY
from gpuledger.states import State, Uncovered
from gpuledger_agent.decision import Floors, decide
from gpuledger_agent.snapshot import GpuSnapshot
from gpuledger_agent.tally import Part, Span, Tally

CONSECUTIVE_INTERVALS_MAX = 2
GAP_INTERVALS_MAX = 30


@dataclass(slots=True)
class _Outcome:
    """What one tick means for one GPU, before it is cut at cell edges."""

    seen: GpuSnapshot
    part: Part
    energy_mj: int | None
    energy_before_mj: int | None
    is_energy_whole: bool
    """The energy was spent within this tick alone, so it belongs to the tick's state."""
    is_energy_epoch: bool

    @property
    def energy_key(self) -> str:
        result = self.part.result
        return result.value if isinstance(result, State) and self.is_energy_whole else UNCOVERED_ENERGY


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
        self.states = {uuid: outcome.part.result for uuid, outcome in outcomes.items()}
        pieces = list(split_at(span.end_ms, edge_ms, CELL_MS)) or [(edge_ms, edge_ms)]
        for uuid, outcome in outcomes.items():
            self._total(uuid, outcome, gap_ms)
        parts = {uuid: _cut(outcome, pieces) for uuid, outcome in outcomes.items()}
        for index, (start_ms, end_ms) in enumerate(pieces):
            for uuid, outcome in outcomes.items():
                energy_mj, odometer_mj = parts[uuid][index]
                _add(span.tally(uuid), outcome, end_ms - start_ms, energy_mj, odometer_mj, index == 0)
            self._pass_over_missing(span, seen, end_ms - start_ms)
            span.end_ms = end_ms
            if end_ms == floor_to(end_ms, CELL_MS) and end_ms > span.start_ms:
                finished.append(span)
                span = self._span = Span(start_ms=end_ms, end_ms=end_ms)
                for uuid, outcome in outcomes.items():
                    _begin(span.tally(uuid), outcome, parts[uuid][index][1])
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
        is_whole = previous is not None and previous.is_energy_fresh
        part = self._decide(uuid, seen, previous, energy_mj if is_whole else None, gap_ms)
        self._previous[uuid] = _Previous(
            is_observed=seen.uncovered is None,
            is_held=bool(seen.holders),
            energy_mj=seen.energy_mj if seen.energy_mj is not None else before_mj,
            is_energy_fresh=seen.energy_mj is not None,
        )
        return _Outcome(
            seen=seen,
            part=part,
            energy_mj=energy_mj,
            energy_before_mj=before_mj,
            is_energy_whole=is_whole,
            is_energy_epoch=is_epoch,
        )

    def _decide(
        self, uuid: str, seen: GpuSnapshot, previous: _Previous | None, tick_energy_mj: int | None, gap_ms: int
    ) -> Part:
        floors = self._floors.get(uuid)
        if floors is None:
            floors = self._floors[uuid] = Floors()
        self.power_mw.pop(uuid, None)
        result: State | Uncovered
        if seen.uncovered is not None:
            result = seen.uncovered
        elif previous is None or not previous.is_observed:
            result = Uncovered.FIRST_TICK
        elif gap_ms > CONSECUTIVE_INTERVALS_MAX * self._interval_ms:
            is_held = previous.is_held or bool(seen.holders)
            result = State.UNMEASURED if tick_energy_mj is not None and is_held else Uncovered.GAP
        else:
            return self._decide_covered(uuid, seen, floors, tick_energy_mj, gap_ms)
        floors.interrupt()
        return Part(slices=SLICES_PER_GPU, result=result, seen=seen)

    def _decide_covered(
        self, uuid: str, seen: GpuSnapshot, floors: Floors, tick_energy_mj: int | None, gap_ms: int
    ) -> Part:
        power_mw = None
        if gap_ms == 0:
            tick_energy_mj = None  # a second look at the same millisecond: no time, no power
        if tick_energy_mj is not None:
            power_mw = self.power_mw[uuid] = 1000 * tick_energy_mj / gap_ms
        decision = decide(seen, power_mw, floors.idle_mw)
        floors.learn(decision.state, seen.activity_ppm, tick_energy_mj, gap_ms)
        return Part(
            slices=SLICES_PER_GPU,
            result=decision.state,
            seen=seen,
            # What a hung GPU calls activity is none: it must not reach the engine-active integral either.
            activity_ppm=None if decision.is_hang_suspected else seen.activity_ppm,
            is_hang_suspected=decision.is_hang_suspected,
            is_single=True,
        )

    # ------------------------------------------------------------------------------------------ adding up

    def _pass_over_missing(self, span: Span, seen: Mapping[str, GpuSnapshot], time_ms: int) -> None:
        # A GPU that the caller no longer speaks of still owes the span its time.
        for uuid, tally in span.tallies.items():
            if uuid not in seen:
                tally.leave_uncovered(Uncovered.NOT_ENUMERATED, time_ms * SLICES_PER_GPU)
                self._previous.pop(uuid, None)

    def _total(self, uuid: str, outcome: _Outcome, time_ms: int) -> None:
        tally = self._totals.get(uuid)
        if tally is None:
            tally = self._totals[uuid] = Tally(is_total=True)
        _add(tally, outcome, time_ms, outcome.energy_mj, None, True)


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
    tally.add(outcome.part, time_ms)
    tally.spend(outcome.energy_key, energy_mj, odometer_mj)
    tally.use_memory(outcome.seen.memory_used_bytes)
    if is_first:
        tally.energy_epochs += outcome.is_energy_epoch
        tally.rejected_values += outcome.seen.rejected_values
