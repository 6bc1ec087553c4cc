# SPDX-License-Identifier: Apache-2.0
"""The truth of a script: what an honest agent must account for, worked out without any of the agent's code.

From a script and the spans in which an agent runs, it derives the ticks, what each call answers then, and the time per
observed state, per activity bin and per cell, the activity integral, the time not covered, and the energy per state.
All of it follows the accounting rules; nothing is imported from gpuledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.abi.activity import Seen
from tests.abi.answers import MS_NS, Calls, GpuAnswers
from tests.abi.beholder import Beholder
from tests.abi.metering import GAP_INTERVALS, Meter
from tests.abi.script import Script
from tests.abi.truth import CELL_MS, Truth

STEP_MS = 1_000


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
        meters = [Meter(answer, truth[answer.gpu.uuid], interval_ms) for answer in answers]
        sealed_end_ms = _Life(world, meters, beholder(calls, interval_ms), sealed_end_ms).live(run.end_ms * MS_NS)
        for meter in meters:
            meter.seal()
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

    def __init__(self, world: _World, meters: list[Meter], beholder: Beholder, sealed_end_ms: int) -> None:
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

    def _meter(self, meter: Meter, sight: Seen | None, edge_ms: int) -> None:
        if sight is None:
            return
        if not meter.started and self._first_edge_ms is not None and self._edge_ms is not None:
            # Found only now: its cell, as far as the session has accounted for it, is not covered.
            meter.start_late(max(self._first_edge_ms, self._edge_ms // CELL_MS * CELL_MS), edge_ms)
        meter.tick(edge_ms, sight)
