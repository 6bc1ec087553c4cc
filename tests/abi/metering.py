# SPDX-License-Identifier: Apache-2.0
"""The oracle's account of one GPU: from what each tick saw to what a reading must say, by the accounting rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.abi.activity import Seen
from tests.abi.answers import LINKS, GpuAnswers
from tests.abi.counting import Spans, shares
from tests.abi.truth import CELL_MS, SLICES, CellTruth, InstanceTruth, OpenReading, bin_of

THETA_PPM = 50_000
HANG_PPM = 700_000
SM_ALIVE_PPM = 10_000
PARKED_PPM = 10_000
FLOOR_TICKS = 60
NEAR_INTERVALS = 2
GAP_INTERVALS = 30
POWER_WINDOW_MS = 100
CONTRADICTED_MS = 10_000
UNCLAIMED_MS = 60_000
HUNG = "hung"
"""A suspected hang: unmeasured, and what the GPU calls activity is none."""
DISBELIEVED = "disbelieved"
"""GPM sees nothing where utilisation and power see much: unmeasured, and what GPM says counts for nothing."""
SUSPECT = " (suspected)"
"""What follows the name of a state that is as it was seen, though a hang or a fault is suspected."""
STATES = {HUNG: "unmeasured", DISBELIEVED: "unmeasured", "unmeasured" + SUSPECT: "unmeasured"}


class Floor:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """Some slices of a GPU in one tick, and what was seen of them; `name` is the instance's, None what none has."""

    name: Any
    slices: int
    seen: Seen


class Meter:
    """One GPU's account."""

    def __init__(self, answers: GpuAnswers, cells: dict[int, CellTruth], interval_ms: int) -> None:
        self.answers = answers
        self._cells = cells
        self._open: dict[int, OpenReading] = {}
        self._interval_ms = interval_ms
        self._parked, self._bare = Floor(), Floor()
        self._spans = Spans(GAP_INTERVALS * interval_ms)
        self.begin()

    @property
    def started(self) -> bool:
        """It has been seen in this session."""
        return self._edge_ms is not None

    def start_late(self, begin_ms: int, edge_ms: int) -> None:
        """The session began at `begin_ms`, the GPU was found at `edge_ms`."""
        for reading, _, span_ms, _ in self._pieces(begin_ms, edge_ms):
            reading.uncovered["first_tick"] += SLICES * span_ms

    def begin(self) -> None:
        """A new session: nothing before it can be joined to it."""
        self.seal()
        self._parked.interrupt()
        self._bare.interrupt()
        self._edge_ms: int | None = None
        self._whole = False  # the last tick was covered or could have begun a covered one
        self._held: set[Any] = set()
        self._pending_mj = 0
        self._pending_errors: list[Seen] = []
        self._spans.begin({}, 0)
        self._odometer_mj: int | None = None
        self._odometer_fresh = False  # read in the last tick itself

    def seal(self) -> None:
        """What is open is a reading of its own."""
        for cell_ms, reading in self._open.items():
            reading.seal(self._cell(cell_ms))
        self._open.clear()

    def tick(self, edge_ms: int, seen: Seen) -> None:
        begin_ms = self._edge_ms
        self._book_errors(begin_ms, edge_ms, seen)
        slices = self._shares(seen)
        if begin_ms is not None:
            energy_mj, fell = self._delta(seen)
            known_mj = energy_mj if self._odometer_fresh else None
            verdicts = [self._judge(edge_ms - begin_ms, seen, share, known_mj) for share in slices]
            if ("dark", "") in verdicts:
                # Nothing is said about the time since; what the board used meanwhile is known all the same.
                self.seal()
                begin_ms = edge_ms
            elif self._pending_mj > 0:
                self._cell(begin_ms).energy_mj["uncovered"] += self._pending_mj
                self._pending_mj = 0
            if fell:
                self._cell(begin_ms).energy_epochs += 1
            for share, verdict in zip(slices, verdicts, strict=True):
                self._book(begin_ms, edge_ms, share, verdict)
            self._book_beside(begin_ms, edge_ms, seen, verdicts[0])
            if energy_mj is not None:
                self._book_energy(begin_ms, edge_ms, self._energy_key(seen, verdicts), energy_mj)
            self._learn(seen, verdicts, known_mj, edge_ms - begin_ms)
        self._edge_ms = edge_ms
        self._whole = seen.reason is None
        self._held = {share.name for share in slices if share.seen.process}
        self._odometer_fresh = seen.energy_mj is not None
        if seen.energy_mj is not None:
            self._odometer_mj = seen.energy_mj

    def _book_errors(self, begin_ms: int | None, edge_ms: int, seen: Seen) -> None:
        """Errors of a tick that covers nothing are sealed with the next one's span, if there is one."""
        if begin_ms is None or edge_ms - begin_ms > GAP_INTERVALS * self._interval_ms:
            self._pending_errors = [seen]
            return
        cell = self._cell(begin_ms)
        for erring in (*self._pending_errors, seen):
            cell.xids.update(erring.xids)
            cell.ecc.update(erring.ecc)
        self._pending_errors.clear()

    def _shares(self, seen: Seen) -> list[_Share]:
        """All seven slices, once each."""
        shares = [_Share(name=name, slices=name[2], seen=part) for name, part in seen.parts or ()]
        left = SLICES - sum(share.slices for share in shares)
        return shares + [_Share(name=None, slices=left, seen=seen)] * (left > 0)

    def _energy_key(self, seen: Seen, verdicts: list[tuple[str, str]]) -> str:
        if not self._odometer_fresh or any(kind not in ("state", "gap") for kind, _ in verdicts):
            return "uncovered"
        name = verdicts[0][1].removesuffix(SUSPECT)
        return "mig" if seen.divided else STATES.get(name, name)

    def _delta(self, seen: Seen) -> tuple[int | None, bool]:
        if seen.energy_mj is None or self._odometer_mj is None:
            return None, False
        delta_mj = seen.energy_mj - self._odometer_mj
        return (None, True) if delta_mj < 0 else (delta_mj, False)

    def _judge(self, span_ms: int, board: Seen, share: _Share, energy_mj: int | None) -> tuple[str, str]:
        """("state", which), ("gap", which): a state although nobody looked, ("uncovered", why), or ("dark", "")."""
        if span_ms > GAP_INTERVALS * self._interval_ms:
            return "dark", ""
        if board.reason is not None:
            return "uncovered", board.reason
        if not self._whole:
            return "uncovered", "first_tick"
        if span_ms <= NEAR_INTERVALS * self._interval_ms:
            return "state", self._state(span_ms, board, share.seen, energy_mj if span_ms >= POWER_WINDOW_MS else None)
        integrating = self._odometer_fresh and board.energy_mj is not None and energy_mj is not None
        if integrating and (share.name in self._held or share.seen.process):
            return "gap", "unmeasured"
        return "uncovered", "gap"

    def _state(self, span_ms: int, board: Seen, seen: Seen, energy_mj: int | None) -> str:
        name = self._plain_state(span_ms, board, seen, energy_mj)
        # The power of a divided board is nobody's alone.
        if name not in ("unmeasured", "held", "free") or seen.process is None or energy_mj is None or board.divided:
            return name
        needed_ms = CONTRADICTED_MS if seen.process else UNCLAIMED_MS
        still = seen.sm_ppm is None or seen.sm_ppm < SM_ALIVE_PPM
        if seen.high_ms is None or seen.high_ms < needed_ms or not still:
            return name
        limit_mj = self.answers.gpu.power_limit_mw * span_ms / 1_000
        if energy_mj * 4 < limit_mj or self._at_floor(span_ms, energy_mj):
            return name + SUSPECT
        silent = seen.activity_ppm is not None and seen.activity_ppm <= THETA_PPM
        return DISBELIEVED if silent and limit_mj > 0 else name

    def _plain_state(self, span_ms: int, board: Seen, seen: Seen, energy_mj: int | None) -> str:
        works = seen.activity_ppm is not None and seen.activity_ppm > THETA_PPM
        if board.down or ((board.fatal or seen.fatal) and not works):
            return "down"
        if seen.process is None:
            return "unmeasured"
        if seen.activity_ppm is None:
            if seen.process:
                return "unmeasured"
        elif seen.activity_ppm > THETA_PPM:
            if not seen.process:
                return "unmeasured"
            # The power of a divided board is nobody's alone.
            return HUNG if not board.divided and self._hanging(span_ms, seen, energy_mj) else "busy"
        if seen.process:
            return "held"
        return "free" if board.healthy is not None else "unmeasured"

    def _hanging(self, span_ms: int, seen: Seen, energy_mj: int | None) -> bool:
        if seen.activity_ppm is None or seen.activity_ppm <= HANG_PPM or energy_mj is None:
            return False
        if seen.sm_ppm is not None and seen.sm_ppm >= SM_ALIVE_PPM:
            return False
        return self._at_floor(span_ms, energy_mj)

    def _at_floor(self, span_ms: int, energy_mj: int) -> bool:
        floor = self._parked.lowest or self._bare.lowest
        # energy / span <= 1.05 × floor energy / floor span, without dividing
        return floor is not None and energy_mj * floor[1] * 100 <= 105 * floor[0] * span_ms

    def _learn(self, seen: Seen, verdicts: list[tuple[str, str]], energy_mj: int | None, span_ms: int) -> None:
        kind, name = verdicts[0][0], verdicts[0][1].removesuffix(SUSPECT)
        quiet = kind == "state" and not seen.divided
        quiet = quiet and seen.activity_ppm is not None and seen.activity_ppm <= PARKED_PPM
        self._parked.learn(quiet and name == "held", energy_mj, span_ms)
        self._bare.learn(quiet and name == "free", energy_mj, span_ms)

    def _cell(self, at_ms: int) -> CellTruth:
        return self._cells.setdefault(at_ms // CELL_MS * CELL_MS, CellTruth())

    def _pieces(self, begin_ms: int, end_ms: int) -> Iterator[tuple[OpenReading, CellTruth, int, bool]]:
        """(reading, cell, milliseconds, is it the last) along the cells that a span touches."""
        while begin_ms < end_ms:
            cell_ms = begin_ms // CELL_MS * CELL_MS
            edge_ms = min(cell_ms + CELL_MS, end_ms)
            reading = self._open.setdefault(cell_ms, OpenReading())
            yield reading, self._cell(cell_ms), edge_ms - begin_ms, edge_ms == end_ms
            begin_ms = edge_ms

    def _book(self, begin_ms: int, end_ms: int, share: _Share, verdict: tuple[str, str]) -> None:
        heard = is_heard(verdict)
        kind, name = verdict[0], verdict[1].removesuffix(SUSPECT)
        verdict = (kind, name)
        activity_ppm = share.seen.activity_ppm if heard else None
        engines = share.seen.engines_ppm if heard else {}
        for reading, cell, span_ms, _ in self._pieces(begin_ms, end_ms):
            amount = share.slices * span_ms
            instance = None
            if share.name is not None:
                instance = cell.instances.setdefault(share.name[0], InstanceTruth(share.slices))
                _book_instance(instance, span_ms, verdict, activity_ppm, engines)
            if kind == "uncovered":
                reading.uncovered[name] += amount
                continue
            reading.states[STATES.get(name, name)] += amount
            for engine, active_ppm in engines.items():
                reading.engines_known[engine] += amount
                if active_ppm:
                    reading.engines[engine] += active_ppm * amount
            if activity_ppm is None:
                continue
            reading.active += activity_ppm * amount
            reading.known += amount
            if name in ("busy", "held"):
                reading.bins[bin_of(activity_ppm)] += amount

    def _book_beside(self, begin_ms: int, edge_ms: int, seen: Seen, verdict: tuple[str, str]) -> None:
        """Book suspicion, links and counters, all of which only an undivided GPU has."""
        if verdict[1] == HUNG or verdict[1].endswith(SUSPECT):
            for _, cell, span_ms, _ in self._pieces(begin_ms, edge_ms):
                cell.hang_ms += span_ms
        heard = is_heard(verdict) and not seen.divided
        if heard and edge_ms > begin_ms:
            for link, carried in seen.links.items():
                self._book_link(link, carried, begin_ms, edge_ms, begin_ms)
        if seen.divided or seen.is_gone or not (heard or verdict[0] == "gap"):
            # Over this time nothing is to be said by a counter.
            self._spans.begin({} if seen.divided else seen.counts, edge_ms)
            return
        told = {*seen.engines_ppm, *seen.links} if heard else set()
        for name, amount, since_ms in self._spans.reach(seen.counts, edge_ms, told):
            # What lies in a cell that is sealed already is lost.
            start_ms = max(since_ms, begin_ms // CELL_MS * CELL_MS)
            if name in LINKS:
                self._book_link(name, amount, since_ms, edge_ms, start_ms)
                continue
            parts = shares(amount, since_ms, edge_ms, start_ms, CELL_MS)
            for (reading, _, span_ms, _), part in zip(self._pieces(start_ms, edge_ms), parts, strict=True):
                reading.engines[name] += SLICES * min(part, span_ms * 1_000_000)
                reading.engines_known[name] += SLICES * span_ms

    def _book_link(self, link: str, amount: int, since_ms: int, end_ms: int, start_ms: int) -> None:
        for (_, cell, span_ms, _), part in zip(
            self._pieces(start_ms, end_ms), shares(amount, since_ms, end_ms, start_ms, CELL_MS), strict=True
        ):
            cell.links[link] += part
            cell.links_known_ms[link] += span_ms

    def _book_energy(self, begin_ms: int, end_ms: int, holder: str, energy_mj: int) -> None:
        if begin_ms == end_ms:
            # It is sealed with the next tick's span, if there is one.
            self._pending_mj += energy_mj
            return
        left_mj = energy_mj
        for _, cell, span_ms, last in self._pieces(begin_ms, end_ms):
            part_mj = left_mj if last else energy_mj * span_ms // (end_ms - begin_ms)
            cell.energy_mj[holder] += part_mj
            left_mj -= part_mj


def is_heard(verdict: tuple[str, str]) -> bool:
    """Whether what was seen of engines counts."""
    return verdict[0] == "state" and verdict[1] not in STATES


def _book_instance(
    instance: InstanceTruth,
    span_ms: int,
    verdict: tuple[str, str],
    activity_ppm: int | None,
    engines_ppm: dict[str, int],
) -> None:
    kind, name = verdict
    amount = instance.slices * span_ms
    if kind == "uncovered":
        instance.uncovered_slice_ms[name] += amount
        return
    instance.states_slice_ms[name] += amount
    for engine, active_ppm in engines_ppm.items():
        instance.engines_known_ms[engine] += span_ms
        if active_ppm:
            instance.engines_ns[engine] += active_ppm * span_ms
    if activity_ppm is not None:
        instance.active_ns += activity_ppm * span_ms
        instance.active_known_ms += span_ms
        if name in ("busy", "held"):
            instance.bins_slice_ms[bin_of(activity_ppm)] += amount
