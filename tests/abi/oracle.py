# SPDX-License-Identifier: Apache-2.0
"""The truth of a script: what an honest agent must account for, worked out without any of the agent's code.

From a script and the spans in which an agent runs, it derives the ticks, what each call answers then, and the time per
observed state, per activity bin and per cell, the activity integral, the time not covered, and the energy per state.
All of it follows the accounting rules; nothing is imported from gpuledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.abi.activity import Seen
from tests.abi.answers import MS_NS, Calls, GpuAnswers
from tests.abi.beholder import Beholder
from tests.abi.script import Script

CELL_MS = 300_000
SLICES = 7
THETA_PPM = 50_000
BIN_EDGES_PPM = (0, 10_000, 50_000, 100_000, 250_000, 500_000, 750_000, 1_000_000)
HANG_PPM = 700_000
SM_ALIVE_PPM = 10_000
PARKED_PPM = 10_000
FLOOR_TICKS = 60
NEAR_INTERVALS = 2
GAP_INTERVALS = 30
STEP_MS = 1_000
HUNG = "hung"
"""A suspected hang: unmeasured, and what the GPU calls activity is none."""
STATES = {HUNG: "unmeasured"}


@dataclass(slots=True)
class CellTruth:
    """One GPU's truth in one cell; milliseconds of the whole GPU (times 7: slice-ms)."""

    states_ms: Counter[str] = field(default_factory=Counter)
    uncovered_ms: Counter[str] = field(default_factory=Counter)
    bins_ms: list[int] = field(default_factory=lambda: [0] * len(BIN_EDGES_PPM))
    active_ns: int = 0
    active_known_ms: int = 0
    engines_ns: Counter[str] = field(default_factory=Counter)
    engines_known_ms: Counter[str] = field(default_factory=Counter)
    energy_mj: Counter[str] = field(default_factory=Counter)
    energy_epochs: int = 0
    xids: Counter[int] = field(default_factory=Counter)
    ecc: Counter[str] = field(default_factory=Counter)

    def slice_ms(self) -> dict[str, int]:
        """Slice-milliseconds per state."""
        return {state: ms * SLICES for state, ms in self.states_ms.items() if ms}


Truth = dict[str, dict[int, CellTruth]]
"""UUID → cell start (POSIX ms) → truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An agent's life, in script time; `end_ms` is exclusive: a tick due then no longer happens."""

    start_ms: int
    end_ms: int


def expect(
    script: Script,
    runs: Sequence[Run],
    *,
    wall_start_ms: int,
    interval_ms: int = 1_000,
    beholder: type[Beholder] = Beholder,
) -> Truth:
    """The truth of `script` as agents that live during `runs` must see it."""
    truth: Truth = {gpu.uuid: {} for gpu in script.gpus}
    calls = Calls(script)
    answers = [GpuAnswers(script, index) for index in range(len(script.gpus))]
    sealed_end_ms = 0
    for run in runs:
        calls.now_ns = max(calls.now_ns, run.start_ms * MS_NS)
        # With the wall clock back in time, a new session seals nothing before the last sealed end.
        world = _World(script=script, calls=calls, wall_start_ms=wall_start_ms, interval_ms=interval_ms)
        meters = [_Meter(answer, truth[answer.gpu.uuid], interval_ms) for answer in answers]
        sealed_end_ms = _Life(world, meters, beholder(calls, interval_ms), sealed_end_ms).live(run.end_ms * MS_NS)
    return truth


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """What a life is lived in."""

    script: Script
    calls: Calls
    wall_start_ms: int
    interval_ms: int


class _Life:
    """One agent process: its sessions and its ticks."""

    def __init__(self, world: _World, meters: list[_Meter], beholder: Beholder, sealed_end_ms: int) -> None:
        self._script = world.script
        self._calls = world.calls
        self._wall_start_ns = world.wall_start_ms * MS_NS
        self._interval_ms = world.interval_ms
        self._interval_ns = world.interval_ms * MS_NS
        self._meters = meters
        self._beholder = beholder
        self._sealed_end_ms = sealed_end_ms
        self._open_session()

    def _wall_ns(self) -> int:
        steps_ms = sum(delta for at_ms, delta in self._script.steps_ms if at_ms * MS_NS <= self._calls.now_ns)
        return self._wall_start_ns + self._calls.now_ns + steps_ms * MS_NS

    def _open_session(self) -> None:
        self._offset_ns = self._wall_ns() - self._calls.now_ns
        self._first_edge_ms: int | None = None
        self._edge_ms: int | None = None
        self._beholder.forget()
        self._beholder.offset_ns = self._offset_ns
        for meter in self._meters:
            meter.begin()

    def _due_ns(self, after_ns: int) -> int:
        """Script time of the first multiple of the interval at or after a script time."""
        return -(-(after_ns + self._offset_ns) // self._interval_ns) * self._interval_ns - self._offset_ns

    def live(self, end_ns: int) -> int:
        """Tick until `end_ns` (script time); returns the end of what was accounted for (POSIX ms)."""
        due_ns = self._due_ns(self._calls.now_ns)
        while due_ns < end_ns:
            self._calls.now_ns = max(self._calls.now_ns, due_ns)
            if abs(self._wall_ns() - self._calls.now_ns - self._offset_ns) > STEP_MS * MS_NS:
                self._open_session()
            edge_ms = (self._calls.now_ns + self._offset_ns + MS_NS // 2) // MS_NS
            seen = self._beholder.look([meter.answers for meter in self._meters])
            # With the wall clock back in time, nothing before the last sealed end is accounted for again.
            if edge_ms >= self._sealed_end_ms:
                for meter, sight in zip(self._meters, seen, strict=True):
                    self._meter(meter, sight, edge_ms)
                dark = self._edge_ms is None or edge_ms - self._edge_ms > GAP_INTERVALS * self._interval_ms
                self._first_edge_ms = edge_ms if dark else self._first_edge_ms
                self._edge_ms = edge_ms
                # A first tick alone leaves nothing to seal.
                self._sealed_end_ms = self._sealed_end_ms if dark else edge_ms
            if self._beholder.gave_up:
                break
            due_ns = self._due_ns(max(self._calls.now_ns, (edge_ms + 1) * MS_NS - self._offset_ns))
        return self._sealed_end_ms

    def _meter(self, meter: _Meter, sight: Seen | None, edge_ms: int) -> None:
        if sight is None:
            return
        if not meter.started and self._first_edge_ms is not None and self._edge_ms is not None:
            # Found only now: its cell, as far as the session has accounted for it, is not covered.
            meter.start_late(max(self._first_edge_ms, self._edge_ms // CELL_MS * CELL_MS), edge_ms)
        meter.tick(edge_ms, sight)


class _Floor:
    """The lowest mean power over 60 consecutive quiet ticks, as (mJ, ms)."""

    def __init__(self) -> None:
        self._window: list[tuple[int, int]] = []
        self.lowest: tuple[int, int] | None = None

    def interrupt(self) -> None:
        self._window.clear()

    def learn(self, quiet: bool, energy_mj: int | None, span_ms: int) -> None:
        if not quiet or energy_mj is None:
            self.interrupt()
            return
        self._window.append((energy_mj, span_ms))
        if len(self._window) > FLOOR_TICKS:
            self._window.pop(0)
        if len(self._window) == FLOOR_TICKS:
            total_mj, total_ms = (sum(part) for part in zip(*self._window, strict=True))
            if self.lowest is None or total_mj * self.lowest[1] < self.lowest[0] * total_ms:
                self.lowest = (total_mj, total_ms)


class _Meter:
    """One GPU's account."""

    def __init__(self, answers: GpuAnswers, cells: dict[int, CellTruth], interval_ms: int) -> None:
        self.answers = answers
        self._cells = cells
        self._interval_ms = interval_ms
        self._parked, self._bare = _Floor(), _Floor()
        self.begin()

    @property
    def started(self) -> bool:
        """It has been seen in this session."""
        return self._edge_ms is not None

    def start_late(self, begin_ms: int, edge_ms: int) -> None:
        """The session began at `begin_ms`, the GPU was found at `edge_ms`."""
        self._book(begin_ms, edge_ms, "uncovered", "first_tick", None)

    def begin(self) -> None:
        """A new session: nothing before it can be joined to it."""
        self._parked.interrupt()
        self._bare.interrupt()
        self._edge_ms: int | None = None
        self._whole = False  # the last tick was covered or could have begun a covered one
        self._process: bool | None = None
        self._pending_mj = 0
        self._pending_errors: list[Seen] = []
        self._odometer_mj: int | None = None
        self._odometer_fresh = False  # read in the last tick itself

    def tick(self, edge_ms: int, seen: Seen) -> None:
        begin_ms = self._edge_ms
        is_dark = begin_ms is None or edge_ms - begin_ms > GAP_INTERVALS * self._interval_ms
        # Errors of a tick that covers nothing are sealed with the next one's span, if there is one.
        self._pending_errors = [seen] if is_dark else [*self._pending_errors, seen]
        if begin_ms is not None and not is_dark:
            self._book_errors(begin_ms)
        if begin_ms is not None:
            energy_mj, fell = self._delta(seen)
            known_mj = energy_mj if self._odometer_fresh else None
            kind, name = self._judge(edge_ms - begin_ms, seen, known_mj)
            activity_ppm = seen.activity_ppm if kind == "state" else None
            if kind == "dark":
                # Nothing is said about the time since; what the board used meanwhile is known all the same.
                begin_ms = edge_ms
            elif self._pending_mj > 0:
                self._cell(begin_ms).energy_mj["uncovered"] += self._pending_mj
                self._pending_mj = 0
            if fell:
                self._cell(begin_ms).energy_epochs += 1
            self._book(begin_ms, edge_ms, kind, name, None if name == HUNG else activity_ppm)
            if kind == "state" and name != HUNG:
                self._book_engines(begin_ms, edge_ms, seen.engines_ppm)
            if energy_mj is not None:
                whole = kind in ("state", "gap") and self._odometer_fresh
                self._book_energy(begin_ms, edge_ms, STATES.get(name, name) if whole else "uncovered", energy_mj)
            self._learn(kind, name, activity_ppm, known_mj, edge_ms - begin_ms)
        self._edge_ms = edge_ms
        self._whole = seen.reason is None
        self._process = seen.process
        self._odometer_fresh = seen.energy_mj is not None
        if seen.energy_mj is not None:
            self._odometer_mj = seen.energy_mj

    def _book_errors(self, begin_ms: int) -> None:
        cell = self._cell(begin_ms)
        for seen in self._pending_errors:
            cell.xids.update(seen.xids)
            cell.ecc.update(seen.ecc)
        self._pending_errors.clear()

    def _delta(self, seen: Seen) -> tuple[int | None, bool]:
        if seen.energy_mj is None or self._odometer_mj is None:
            return None, False
        delta_mj = seen.energy_mj - self._odometer_mj
        return (None, True) if delta_mj < 0 else (delta_mj, False)

    def _judge(self, span_ms: int, seen: Seen, energy_mj: int | None) -> tuple[str, str]:
        """("state", which), ("gap", which): a state although nobody looked, ("uncovered", why), or ("dark", "")."""
        if span_ms > GAP_INTERVALS * self._interval_ms:
            return "dark", ""
        if seen.reason is not None:
            return "uncovered", seen.reason
        if not self._whole:
            return "uncovered", "first_tick"
        if span_ms <= NEAR_INTERVALS * self._interval_ms:
            return "state", self._state(span_ms, seen, energy_mj)
        integrating = self._odometer_fresh and seen.energy_mj is not None
        if integrating and (self._process or seen.process):
            return "gap", "unmeasured"
        return "uncovered", "gap"

    def _state(self, span_ms: int, seen: Seen, energy_mj: int | None) -> str:
        if seen.down or (seen.fatal and not (seen.activity_ppm is not None and seen.activity_ppm > THETA_PPM)):
            return "down"
        if seen.process is None:
            return "unmeasured"
        if seen.activity_ppm is None:
            if seen.process:
                return "unmeasured"
        elif seen.activity_ppm > THETA_PPM:
            if not seen.process:
                return "unmeasured"
            return HUNG if self._hanging(span_ms, seen, energy_mj) else "busy"
        if seen.process:
            return "held"
        return "free" if seen.healthy is not None else "unmeasured"

    def _hanging(self, span_ms: int, seen: Seen, energy_mj: int | None) -> bool:
        if seen.activity_ppm is None or seen.activity_ppm <= HANG_PPM or energy_mj is None:
            return False
        if seen.sm_ppm is not None and seen.sm_ppm >= SM_ALIVE_PPM:
            return False
        floor = self._parked.lowest or self._bare.lowest
        # energy / span <= 1.05 × floor energy / floor span, without dividing
        return floor is not None and energy_mj * floor[1] * 100 <= 105 * floor[0] * span_ms

    def _learn(self, kind: str, name: str, activity_ppm: int | None, energy_mj: int | None, span_ms: int) -> None:
        quiet = kind == "state" and activity_ppm is not None and activity_ppm <= PARKED_PPM
        self._parked.learn(quiet and name == "held", energy_mj, span_ms)
        self._bare.learn(quiet and name == "free", energy_mj, span_ms)

    def _cell(self, at_ms: int) -> CellTruth:
        return self._cells.setdefault(at_ms // CELL_MS * CELL_MS, CellTruth())

    def _pieces(self, begin_ms: int, end_ms: int) -> Iterator[tuple[CellTruth, int, bool]]:
        """(cell, milliseconds, is it the last) along the cells that a span touches."""
        while begin_ms < end_ms:
            edge_ms = min(begin_ms // CELL_MS * CELL_MS + CELL_MS, end_ms)
            yield self._cell(begin_ms), edge_ms - begin_ms, edge_ms == end_ms
            begin_ms = edge_ms

    def _book(self, begin_ms: int, end_ms: int, kind: str, name: str, activity_ppm: int | None) -> None:
        for cell, span_ms, _ in self._pieces(begin_ms, end_ms):
            if kind == "uncovered":
                cell.uncovered_ms[name] += span_ms
                continue
            cell.states_ms[STATES.get(name, name)] += span_ms
            if activity_ppm is None:
                continue
            cell.active_ns += activity_ppm * span_ms
            cell.active_known_ms += span_ms
            if name in ("busy", "held"):
                place = next(index for index, edge in enumerate(BIN_EDGES_PPM) if activity_ppm <= edge)
                cell.bins_ms[place] += span_ms

    def _book_engines(self, begin_ms: int, end_ms: int, engines_ppm: dict[str, int]) -> None:
        for cell, span_ms, _ in self._pieces(begin_ms, end_ms):
            for engine, active_ppm in engines_ppm.items():
                if active_ppm:
                    cell.engines_ns[engine] += active_ppm * span_ms
                cell.engines_known_ms[engine] += span_ms

    def _book_energy(self, begin_ms: int, end_ms: int, holder: str, energy_mj: int) -> None:
        if begin_ms == end_ms:
            # It is sealed with the next tick's span, if there is one.
            self._pending_mj += energy_mj
            return
        left_mj = energy_mj
        for cell, span_ms, last in self._pieces(begin_ms, end_ms):
            part_mj = left_mj if last else energy_mj * span_ms // (end_ms - begin_ms)
            cell.energy_mj[holder] += part_mj
            left_mj -= part_mj
