# SPDX-License-Identifier: Apache-2.0
"""Nodes that live twice in the same virtual time: once undisturbed, once with every fault that a node can have.

Both are the real agent (loop, meter, sealer, journal, crash file) over a scripted NVML; a life ends as kill -9 ends it,
between any two ticks, and the next begins on the same files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gpuledger.cells import CELL_MS, ceil_to, floor_to
from gpuledger_agent.config import AgentConfig
from tests.fakes.agents import Rig
from tests.fakes.boards import FakeGpu
from tests.fakes.clock import FakeClock

INTERVAL_MS = 5_000
GPUS = 3
GPU_IS_LOST = 15
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why cells of a node, or of one GPU of it, may be dark, or under another time."""

    kind: str
    start_ms: int
    end_ms: int
    gpu: str | None = None


@dataclass(slots=True)
class Node:
    """One node of the scenario, twice. `advance` plays both on."""

    name: str
    folder: Path
    start_ms: int
    chance: Random
    calm: Rig = field(init=False)
    tried: Rig = field(init=False)
    causes: list[Cause] = field(default_factory=list)
    down_ms: int = 0
    """For how long the tried one is not running yet; 0 while it runs."""
    stepped_ms: int = 0
    kills: int = 0
    unseen_ms: dict[int, int] = field(default_factory=dict)
    """Index of a GPU -> since when no life of the tried one has seen it: it was lost when that began."""

    def __post_init__(self) -> None:
        self.calm = self._rig("calm")
        self.tried = self._rig("tried")

    def _rig(self, kind: str) -> Rig:
        directory = self.folder / kind / self.name
        directory.mkdir(parents=True)
        config = AgentConfig(state_dir=directory, node_name=self.name, interval_seconds=INTERVAL_MS / 1000)
        number = sum(self.name.encode())
        devices = [
            FakeGpu(f"GPU-{number:08x}-0000-4000-8000-{index:012d}", serial=f"{number}{index:04d}")
            for index in range(GPUS)
        ]
        rig = Rig(directory, devices, FakeClock(self.start_ms), config)
        rig.agent.tick()
        return rig

    def script(self, time_ms: int) -> None:
        """Let the same happen on both, by the time alone."""
        for index in range(GPUS):
            what = Random(f"{self.name} {index} {time_ms // 60_000}").random()
            for rig in (self.calm, self.tried):
                gpu = rig.nvml.gpus[index]
                if what < 0.5:
                    gpu.work(round(40 + 50 * what), 4100)
                elif what < 0.75:
                    gpu.work(0, 4100, power_mw=90_000)
                else:
                    gpu.work(0, power_mw=70_000)

    def advance(self, ticks: int) -> None:
        """Play both on by so many ticks; the tried one only while it runs."""
        for _ in range(ticks):
            self.script(self.calm.clock.wall_ms)
            self.calm.tick(interval_ms=INTERVAL_MS)
            self.tried.clock.advance_ms(INTERVAL_MS)
            if self.down_ms > 0:
                self.down_ms -= INTERVAL_MS
                if self.down_ms <= 0:
                    self.tried.start()
                    self.tried.agent.tick()
            else:
                self.tried.agent.tick()

    # ------------------------------------------------------------------------------------------ faults

    def kill(self) -> str:
        """End the tried one's life; it begins again after a while."""
        if self.down_ms > 0:
            return f"{self.name} is down already"
        self.down_ms = INTERVAL_MS * self.chance.randint(1, 120)
        self.kills += 1
        now_ms = self.tried.clock.wall_ms
        # What was open was written down some ticks ago; the first interval of the next life is not measured.
        self.causes.append(
            Cause(kind="kill -9", start_ms=now_ms - 60_000, end_ms=now_ms + self.down_ms + 2 * INTERVAL_MS)
        )
        for index, gpu in enumerate(self.tried.nvml.gpus):
            if gpu.fails:
                self.unseen_ms.setdefault(index, now_ms)
        return f"{self.name} killed, down for {self.down_ms / 1000:g} s"

    def step_clock(self) -> str:
        """Set the tried one's clock ahead or back, and later right again."""
        now_ms = self.calm.clock.wall_ms
        if self.stepped_ms == 0:
            self.stepped_ms = self.chance.choice((-1, 1)) * 1_000 * self.chance.randint(2, 900)
            self.tried.clock.step_ms(self.stepped_ms)
            reach_ms = abs(self.stepped_ms)
            self.causes.append(Cause(kind="clock step", start_ms=now_ms - reach_ms, end_ms=now_ms + reach_ms))
            return f"{self.name}'s clock set by {self.stepped_ms / 1000:g} s"
        self.tried.clock.step_ms(-self.stepped_ms)
        reach_ms, self.stepped_ms = abs(self.stepped_ms), 0
        begun_ms = max(cause.start_ms for cause in self.causes if cause.kind == "clock step")
        self.causes.append(Cause(kind="clock step", start_ms=begun_ms, end_ms=now_ms + reach_ms + 2 * CELL_MS))
        return f"{self.name}'s clock set right"

    def lose_gpu(self) -> str:
        """Let NVML lose sight of a GPU, or find it again; both lives see it, since it is the truth."""
        index = self.chance.randrange(GPUS)
        is_lost = not self.calm.nvml.gpus[index].fails
        for rig in (self.calm, self.tried):
            rig.nvml.gpus[index].fails = {"*": GPU_IS_LOST} if is_lost else {}
        if not is_lost:
            self._find(index)
        return f"{self.name}: GPU {index} {'lost' if is_lost else 'found'}"

    def _find(self, index: int) -> None:
        """Note that an agent which began while a GPU was lost could not know of it: that time is dark, not down."""
        if (since_ms := self.unseen_ms.pop(index, None)) is not None:
            end_ms = self.tried.clock.wall_ms + CELL_MS
            gpu = self.calm.nvml.gpus[index].uuid
            self.causes.append(Cause(kind="began while a GPU was lost", start_ms=since_ms, end_ms=end_ms, gpu=gpu))

    def settle(self) -> None:
        """Begin the tried one's life where it is down, and set its clock right."""
        if self.stepped_ms != 0:
            self.step_clock()
        while self.down_ms > 0:
            self.advance(1)
        for index in range(GPUS):
            self._find(index)
            for rig in (self.calm, self.tried):
                rig.nvml.gpus[index].fails = {}

    def cause_of(self, cell_ms: int, gpu: str) -> set[str]:
        """Return why a GPU's cell may not be as in the undisturbed life."""
        return {
            cause.kind
            for cause in self.causes
            if cause.gpu in {None, gpu}
            and floor_to(cause.start_ms, CELL_MS) <= cell_ms < ceil_to(cause.end_ms, CELL_MS)
        }
