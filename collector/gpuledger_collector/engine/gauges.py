# SPDX-License-Identifier: Apache-2.0
"""Gauges on a grid become cells of states, with the rules that the agent has. Pure.

Point t of the grid stands for (t - step, t]. A GPU is covered at a point where any of its gauges has a value:

activity unknown                       unmeasured
activity > theta, memory held          busy
activity > theta otherwise             unmeasured      there is no sign of a process
memory held, or not known              held            nothing shows that the GPU is free
a workload is named                    reserved
else                                   free

Memory is held where more is in use than the profile's level: gauges tell no processes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.states import ACTIVITY_EDGES_PPM, THETA_PPM, State, activity_bin
from gpuledger_collector.engine.answer import Grid
from gpuledger_collector.engine.profile import Profile

Value = float | None
Holder = tuple[str, str | None]
"""Workload and owner."""
WHOLE = ""
"""What stands for the whole GPU among its instances."""
MEMORY_BYTES_MAX = 1 << 50
"""No board has a pebibyte; the blanks of DCGM are above it."""
_PPM = 1_000_000
_CONTRADICTION_PPM = (10_000, 500_000)
"""The first gauge is under 1 % while the second is at half or more: one of them is stuck."""
_REMEMBERED_MAX = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The gauges of one label set over the grid; None where there is no value.

    `order` tells equals apart; `slices` is the size of the `instance` (None: its profile is not known).
    """

    order: tuple[str, ...]
    instance: str = WHOLE
    slices: int | None = SLICES_PER_GPU
    holder: Holder | None = None
    first: Sequence[Value]
    second: Sequence[Value]
    memory: Sequence[Value]


@dataclass(slots=True)
class Cell:
    """What one GPU did in one cell. Where instances overlapped, nothing is known but that."""

    covered_ms: int = 0
    state_slice_ms: dict[State, int] = field(default_factory=dict)
    bin_slice_ms: list[int] = field(default_factory=lambda: [0] * len(ACTIVITY_EDGES_PPM))
    active_slice_ns: int = 0
    active_known_slice_ms: int = 0
    memory_bytes_max: int | None = None
    sources: set[str] = field(default_factory=set)
    holders: dict[frozenset[Holder], dict[State, int]] = field(default_factory=dict)
    is_divided: bool = False
    has_overlap: bool = False


@dataclass(slots=True)
class Notes:
    """Counts over all GPUs, for the report."""

    changes: int = 0
    """How often a state changed from one point of the grid to the next."""
    points: int = 0
    """Points of the grid at which a GPU was covered."""
    rejected: int = 0
    """Points with a value outside what it can be."""
    contradictions: int = 0
    """Points at which the first gauge saw nothing and the second half or more."""
    without_memory: int = 0
    """Points at which memory in use was not known."""
    first_ms: int | None = None
    """When the first sample of counters was."""

    def add(self, other: Notes) -> None:
        self.changes += other.changes
        self.points += other.points
        self.rejected += other.rejected
        self.contradictions += other.contradictions
        self.without_memory += other.without_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What the values of one point say; FREE is RESERVED where a workload is named."""

    state: State
    activity_ppm: int | None
    source: str | None
    memory_bytes: int | None
    is_rejected: bool
    is_contradiction: bool


_Values = tuple[Value, Value, Value]
"""First and second gauge of activity, memory."""
_NOTHING: _Values = (None, None, None)
_Point = tuple[int, frozenset[Holder]]
_Line = list[_Point | None]
"""One instance over the grid: the outcome's number and who holds it; None where it is not covered."""
_NOBODY: frozenset[Holder] = frozenset()


class Reducer:
    """Turns tracks into cells by one profile; it remembers what values mean, since most come again."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._numbers: dict[_Values, int | None] = {}
        self._outcomes: list[_Outcome] = []

    def cells(self, tracks: Iterable[Track], grid: Grid, stand_ms: int, notes: Notes) -> dict[int, Cell]:
        """Return the cells (by start) of one GPU that any point covers; the grid begins one step after a cell's edge.

        `stand_ms` is how long a sample stands: where one series follows another, the newer counts.
        """
        if len(self._numbers) > _REMEMBERED_MAX:
            self._numbers.clear()
            self._outcomes.clear()
        by_instance: dict[str, list[Track]] = {}
        for track in sorted(tracks, key=lambda track: track.order):
            by_instance.setdefault(track.instance, []).append(track)
        carried = math.ceil(stand_ms / 2 / grid.step_ms)
        lines = {instance: self._line(found, carried) for instance, found in by_instance.items()}
        for line in lines.values():
            states = [None if point is None else self._state(point) for point in line]
            both = (pair for pair in pairwise(states) if pair[0] is not None and pair[1] is not None)
            notes.changes += sum(one is not other for one, other in both)
        slices = {instance: found[0].slices for instance, found in by_instance.items()}
        per_cell, edge_ms = CELL_MS // grid.step_ms, grid.first_ms - grid.step_ms
        cells: dict[int, Cell] = {}
        for start in range(0, grid.count, per_cell):
            parts = {instance: line[start : start + per_cell] for instance, line in lines.items()}
            covered = sum(points.count(None) < len(points) for points in zip(*parts.values(), strict=True))
            if covered > 0:
                cell = self._cell(parts, slices, grid.step_ms, covered, notes)
                cells[edge_ms + start * grid.step_ms] = cell
        return cells

    # ------------------------------------------------------------------------------------------ one instance

    def _line(self, tracks: Sequence[Track], carried: int) -> _Line:
        if len(tracks) == 1:
            holders = _NOBODY if tracks[0].holder is None else frozenset({tracks[0].holder})
            numbers = map(self._number, zip(tracks[0].first, tracks[0].second, tracks[0].memory, strict=True))
            return [None if number is None else (number, holders) for number in numbers]
        keys: list[list[_Values]] = [list(zip(one.first, one.second, one.memory, strict=True)) for one in tracks]
        holders_of = [_NOBODY if track.holder is None else frozenset({track.holder}) for track in tracks]
        line: _Line = [None] * len(keys[0])
        several: set[int] = set()
        for one, found in enumerate(keys):
            for index, key in enumerate(found):
                number = self._number(key)
                if number is not None:
                    if line[index] is not None:
                        several.add(index)
                    line[index] = number, holders_of[one]
        if several:
            fading = [_fading(found, carried) for found in keys]
            for index in several:
                present = [one for one, found in enumerate(keys) if found[index] != _NOTHING]
                fresh = [one for one in present if not fading[one][index]] or present
                number = self._number(_chosen([keys[one][index] for one in fresh]))
                assert number is not None
                line[index] = number, frozenset().union(*(holders_of[one] for one in fresh))
        return line

    def _number(self, key: _Values) -> int | None:
        try:
            return self._numbers[key]
        except KeyError:
            return self._learn(key)

    def _learn(self, key: _Values) -> int | None:
        number = None
        if key != _NOTHING:
            number = len(self._outcomes)
            self._outcomes.append(_outcome(*key, self._profile))
        self._numbers[key] = number
        return number

    def _state(self, point: _Point) -> State:
        state = self._outcomes[point[0]].state
        return State.RESERVED if state is State.FREE and point[1] else state

    # ------------------------------------------------------------------------------------------ one cell

    def _cell(
        self, parts: Mapping[str, _Line], slices: Mapping[str, int | None], step_ms: int, covered: int, notes: Notes
    ) -> Cell:
        divided = [instance for instance, part in parts.items() if instance != WHOLE and part.count(None) < len(part)]
        cell = Cell(covered_ms=covered * step_ms, is_divided=bool(divided))
        notes.points += covered
        for instance, part in parts.items():
            if divided and instance == WHOLE:
                continue
            weight = slices[instance] or 0
            for point, count in Counter(point for point in part if point is not None).items():
                self._add(cell, point, count, step_ms * weight, notes)
        if divided:
            sizes = [slices[instance] or 0 for instance in divided]
            for points in zip(*(parts[instance] for instance in divided), strict=True):
                if sum(size for size, point in zip(sizes, points, strict=True) if point is not None) > SLICES_PER_GPU:
                    return Cell(is_divided=True, has_overlap=True)
            # Slices in no instance that reports: unassigned, or of an instance that says nothing.
            rest = cell.covered_ms * SLICES_PER_GPU - sum(cell.state_slice_ms.values())
            if rest > 0:
                cell.state_slice_ms[State.UNMEASURED] = cell.state_slice_ms.get(State.UNMEASURED, 0) + rest
        return cell

    def _add(self, cell: Cell, point: _Point, count: int, weight: int, notes: Notes) -> None:
        """Add `count` points of `weight` slice-ms each."""
        outcome, state, amount = self._outcomes[point[0]], self._state(point), count * weight
        notes.rejected += count if outcome.is_rejected else 0
        notes.contradictions += count if outcome.is_contradiction else 0
        notes.without_memory += count if outcome.memory_bytes is None else 0
        if amount > 0:
            cell.state_slice_ms[state] = cell.state_slice_ms.get(state, 0) + amount
        if outcome.activity_ppm is not None:
            # Millionths times milliseconds are nanoseconds.
            cell.active_slice_ns += outcome.activity_ppm * amount
            cell.active_known_slice_ms += amount
        if outcome.source is not None:
            cell.sources.add(outcome.source)
        if outcome.memory_bytes is not None:
            cell.memory_bytes_max = max(cell.memory_bytes_max or 0, outcome.memory_bytes)
        if state in {State.BUSY, State.HELD} and outcome.activity_ppm is not None:
            cell.bin_slice_ms[activity_bin(outcome.activity_ppm)] += amount
            if point[1]:
                held = cell.holders.setdefault(point[1], {})
                held[state] = held.get(state, 0) + amount


def _fading(keys: Sequence[_Values], carried: int) -> list[bool]:
    """Return where a series may be there only because its last sample still stands: the ends of its runs."""
    fading = [False] * len(keys)
    for index in range(1, len(keys)):
        if keys[index] == _NOTHING and keys[index - 1] != _NOTHING:
            for back in range(max(0, index - carried), index):
                fading[back] = True
    return fading


def _chosen(keys: Sequence[_Values]) -> _Values:
    """Return the values of the first series that knows activity; memory of another where that one does not know it."""
    first = next((key for key in keys if key[0] is not None), None)
    chosen = next((key for key in keys if key[1] is not None), None) if first is None else first
    candidates = keys if chosen is None else (chosen, *keys)
    memory = next((key[2] for key in candidates if key[2] is not None), None)
    return (None, None, memory) if chosen is None else (chosen[0], chosen[1], memory)


def _outcome(first: Value, second: Value, memory: Value, profile: Profile) -> _Outcome:
    one = _ppm(first, profile.activities[0].full)
    other = None if len(profile.activities) == 1 else _ppm(second, profile.activities[1].full)
    low, high = _CONTRADICTION_PPM
    is_contradiction = one is not None and other is not None and one < low and other >= high
    if is_contradiction:
        activity, source = None, None
    elif one is not None:
        activity, source = one, profile.activities[0].metric
    elif other is not None:
        activity, source = other, profile.activities[1].metric
    else:
        activity, source = None, None
    used = _bytes(memory, profile)
    is_held = used is not None and profile.memory is not None and used > profile.memory.held_above_bytes
    return _Outcome(
        state=_state_of(activity, is_held=is_held, is_memory_known=used is not None),
        activity_ppm=activity,
        source=source,
        memory_bytes=used,
        is_rejected=(_is_number(first) and one is None)
        or (_is_number(second) and other is None)
        or (_is_number(memory) and used is None),
        is_contradiction=is_contradiction,
    )


def _state_of(activity_ppm: int | None, *, is_held: bool, is_memory_known: bool) -> State:
    if activity_ppm is None:
        return State.UNMEASURED
    if activity_ppm > THETA_PPM:
        return State.BUSY if is_held else State.UNMEASURED
    return State.HELD if is_held or not is_memory_known else State.FREE


def _is_number(value: Value) -> bool:
    return value is not None and not math.isnan(value)


def _ppm(value: Value, full: float) -> int | None:
    if value is None or not 0 <= value <= full:  # NaN is neither
        return None
    return round(value / full * _PPM)


def _bytes(value: Value, profile: Profile) -> int | None:
    if value is None or profile.memory is None or not 0 <= value * profile.memory.unit_bytes <= MEMORY_BYTES_MAX:
        return None
    return round(value * profile.memory.unit_bytes)
