# SPDX-License-Identifier: Apache-2.0
"""The meter: ticks in, integer slice-ms per state out, cut at cell edges (accounting.md, 2, "Coverage").

Pure: it is told the edge of each tick on the session's timeline and what was seen. Every GPU of a span has its states
and uncovered reasons sum to the span, always, which `Tally.total_slice_ms` lets anybody check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuledger.cells import CELL_MS, SLICES_PER_GPU, floor_to, share_by_weight, split_at
from gpuledger.gpu_time import MIG_ENERGY, UNCOVERED_ENERGY
from gpuledger.states import State, Uncovered
from gpuledger_agent import features
from gpuledger_agent.decision import Floors, decide
from gpuledger_agent.integrals import Amount, Bridge, cut
from gpuledger_agent.snapshot import GpuSnapshot, InstanceIdentity
from gpuledger_agent.tally import Part, Span, Tally, divide

CONSECUTIVE_INTERVALS_MAX = 2
GAP_INTERVALS_MAX = 30
POWER_WINDOW_MS_MIN = 100
"""The energy counter moves in steps: over less time it may not have moved at all, and that is no power of 0."""


@dataclass(slots=True)
class _Outcome:
    """What one tick means for one GPU, before it is cut at cell edges."""

    seen: GpuSnapshot
    parts: tuple[Part, ...]
    energy_mj: int | None
    energy_before_mj: int | None
    energy_key: str
    is_energy_epoch: bool
    engines: list[Amount]
    """What counters say of engines where no mean does."""
    links: list[Amount]


@dataclass(slots=True)
class _Previous:
    """What the tick before left behind for one GPU."""

    is_observed: bool
    held: frozenset[InstanceIdentity | None]
    """The instances that a process was seen on; None stands for the undivided GPU, or for what no instance has."""
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
        self._bridges: dict[str, Bridge] = {}
        self._features = features.Features()
        self.parts: dict[str, tuple[Part, ...]] = {}
        """What the last tick was for each GPU, by UUID."""
        self.power_mw: dict[str, float] = {}
        """Mean power of each GPU over the last tick, where it is known."""
        self.suspected: frozenset[str] = frozenset()
        """The GPUs of which the last tick suspected a hang or a fault."""

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
        self.parts = {uuid: outcome.parts for uuid, outcome in outcomes.items()}
        self.suspected = frozenset(
            uuid for uuid, parts in self.parts.items() if any(part.is_hang_suspected for part in parts)
        )
        pieces = list(split_at(span.end_ms, edge_ms, CELL_MS)) or [(edge_ms, edge_ms)]
        for uuid, outcome in outcomes.items():
            self._total(uuid, outcome, gap_ms)
            self._totals[uuid].health.add_throttled(outcome.seen, edge_ms, None, edge_ms)
        energies = {uuid: _cut(outcome, pieces) for uuid, outcome in outcomes.items()}
        found = {
            (uuid, key): features.cut(found, pieces)
            for (uuid, _), (key, found) in self._features.tick(_places(outcomes), gap_ms).items()
        }
        engines = {uuid: cut(outcome.engines, pieces, span.start_ms) for uuid, outcome in outcomes.items()}
        links = {uuid: cut(outcome.links, pieces, span.start_ms) for uuid, outcome in outcomes.items()}
        for index, (start_ms, end_ms) in enumerate(pieces):
            since_ms = start_ms if index > 0 else span.start_ms
            for uuid, outcome in outcomes.items():
                energy_mj, odometer_mj = energies[uuid][index]
                tally = span.tally(uuid)
                _add(tally, outcome, end_ms - start_ms, energy_mj, odometer_mj, index == 0)
                _integrate(tally, engines[uuid][index], links[uuid][index])
                tally.health.add_throttled(outcome.seen, edge_ms, since_ms, end_ms)
            for (uuid, key), by_piece in found.items():
                span.tally(uuid).behave(key, by_piece[index])
            self._pass_over_missing(span, seen, end_ms - start_ms)
            span.end_ms = end_ms
            if end_ms == floor_to(end_ms, CELL_MS) and end_ms > span.start_ms:
                finished.append(span)
                span = self._span = Span(start_ms=end_ms, end_ms=end_ms)
                for uuid, outcome in outcomes.items():
                    _begin(span.tally(uuid), outcome, energies[uuid][index][1])
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
        # Spent within this tick alone, so that it belongs to the tick's state.
        is_whole = previous is not None and previous.is_energy_fresh
        parts = self._decide(uuid, seen, previous, energy_mj if is_whole else None, gap_ms)
        self._previous[uuid] = _Previous(
            is_observed=seen.uncovered is None,
            held=frozenset(part.instance for part in parts if part.seen.holders),
            energy_mj=seen.energy_mj if seen.energy_mj is not None else before_mj,
            is_energy_fresh=seen.energy_mj is not None,
        )
        engines, links = self._cross(uuid, seen, parts, gap_ms)
        return _Outcome(
            seen=seen,
            parts=parts,
            energy_mj=energy_mj,
            energy_before_mj=before_mj,
            energy_key=_energy_key(seen, parts) if is_whole else UNCOVERED_ENERGY,
            is_energy_epoch=is_epoch,
            engines=engines,
            links=links,
        )

    def _cross(
        self, uuid: str, seen: GpuSnapshot, parts: tuple[Part, ...], gap_ms: int
    ) -> tuple[list[Amount], list[Amount]]:
        """Return what went over the links, and what counters bridge; of a divided GPU neither is known as a whole."""
        if seen.is_divided:
            self._bridges.pop(uuid, None)
            return [], []
        bridge = self._bridges.get(uuid)
        if bridge is None:
            bridge = self._bridges[uuid] = Bridge()
        return bridge.cross(seen, parts[0], gap_ms, GAP_INTERVALS_MAX * self._interval_ms)

    def _decide(
        self, uuid: str, seen: GpuSnapshot, previous: _Previous | None, tick_energy_mj: int | None, gap_ms: int
    ) -> tuple[Part, ...]:
        if uuid not in self._floors:
            self._floors[uuid] = Floors()
        self.power_mw.pop(uuid, None)
        is_covered = False
        parts = divide(seen)
        for part in parts:
            if seen.uncovered is not None:
                part.result = seen.uncovered
            elif previous is None or not previous.is_observed:
                part.result = Uncovered.FIRST_TICK
            elif gap_ms > CONSECUTIVE_INTERVALS_MAX * self._interval_ms:
                is_held = bool(part.seen.holders) or part.instance in previous.held
                part.result = State.UNMEASURED if tick_energy_mj is not None and is_held else Uncovered.GAP
            else:
                is_covered = True
        if is_covered:
            self._decide_covered(uuid, seen, parts, tick_energy_mj, gap_ms)
        else:
            self._floors[uuid].interrupt()
        return parts

    def _decide_covered(
        self, uuid: str, seen: GpuSnapshot, parts: tuple[Part, ...], tick_energy_mj: int | None, gap_ms: int
    ) -> None:
        floors = self._floors[uuid]
        power_mw = None
        if gap_ms == 0:
            tick_energy_mj = None  # a second look at the same millisecond: no time, no power
        if tick_energy_mj is not None and gap_ms >= POWER_WINDOW_MS_MIN:
            power_mw = self.power_mw[uuid] = 1000 * tick_energy_mj / gap_ms
        if seen.is_divided:
            # The board's power is nobody's alone: no hang can be told by it.
            power_mw = None
        for part in parts:
            decision = decide(part.seen, power_mw, floors.idle_mw)
            part.result = decision.state
            # What a hung GPU calls activity is none: it must not reach the engine-active integral either.
            part.activity_ppm = part.seen.activity_ppm if decision.is_activity_believed else None
            part.is_hang_suspected = decision.is_hang_suspected
            part.is_single = True
            part.is_believed = decision.is_activity_believed
            # Of a divided board's activity as a whole nothing is known, so no floor is learnt either.
            floors.learn(decision.state, seen.activity_ppm, tick_energy_mj, gap_ms)

    # ------------------------------------------------------------------------------------------ adding up

    def _pass_over_missing(self, span: Span, seen: Mapping[str, GpuSnapshot], time_ms: int) -> None:
        # A GPU that the caller no longer speaks of still owes the span its time.
        for uuid, tally in span.tallies.items():
            if uuid not in seen:
                tally.leave_uncovered(Uncovered.NOT_ENUMERATED, time_ms * SLICES_PER_GPU)
                self._previous.pop(uuid, None)
                self._bridges.pop(uuid, None)

    def _total(self, uuid: str, outcome: _Outcome, time_ms: int) -> None:
        tally = self._totals.get(uuid)
        if tally is None:
            tally = self._totals[uuid] = Tally(is_total=True)
        if outcome.seen.is_divided:
            tally.set_rest_apart()
        _add(tally, outcome, time_ms, outcome.energy_mj, None, True)
        _integrate(tally, outcome.engines, outcome.links)
        if tally.rest is not None and outcome.seen.is_looked_at and outcome.seen.instances is not None:
            tally.keep_instances({part.instance for part in outcome.parts})


def _places(outcomes: Mapping[str, _Outcome]) -> dict[features.Place, tuple[Part, int | None]]:
    """Return what a tick meant by GPU and instance, and the energy spent within it alone; instances have none."""
    places: dict[features.Place, tuple[Part, int | None]] = {}
    for uuid, outcome in outcomes.items():
        for part in outcome.parts:
            # What was spent in a state of its own was spent in this tick, by all of the GPU.
            energy_mj = outcome.energy_mj if outcome.energy_key == part.result else None
            places[uuid, None if part.instance is None else part.instance.uuid] = (part, energy_mj)
    return places


def _energy_key(seen: GpuSnapshot, parts: tuple[Part, ...]) -> str:
    if any(isinstance(part.result, Uncovered) for part in parts):
        return UNCOVERED_ENERGY
    return MIG_ENERGY if seen.is_divided else parts[0].result.value


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
    for part in outcome.parts:
        if part.instance is not None:
            tally.add(part, 0)


def _add(
    tally: Tally, outcome: _Outcome, time_ms: int, energy_mj: int | None, odometer_mj: int | None, is_first: bool
) -> None:
    """Add one piece of a tick: `energy_mj` is the piece's share, `odometer_mj` the counter at its end."""
    for part in outcome.parts:
        tally.add(part, time_ms)
    tally.spend(outcome.energy_key, energy_mj, odometer_mj)
    tally.use_memory(outcome.seen.memory_used_bytes)
    if is_first:
        tally.energy_epochs += outcome.is_energy_epoch
        tally.rejected_values += outcome.seen.rejected_values
        tally.health.count(outcome.seen)


def _integrate(tally: Tally, engines: list[Amount], links: list[Amount]) -> None:
    """Add what counters bridged and links carried."""
    for part in engines:
        tally.bridge_whole(part.name, part.amount, part.time_ms)
    for part in links:
        tally.carry(part.name, part.amount, part.time_ms)
