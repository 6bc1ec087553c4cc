# SPDX-License-Identifier: Apache-2.0
"""Random lives of an agent: kills, stops, sleeps, set clocks. What it sealed is what a plain account of them says."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder
from tests.fakes import reference_meter
from tests.fakes.agents import Rig, spans
from tests.fakes.nvml import gpus
from tests.profiles import examples

INTERVAL_MS = 1000
SOMEBODY = Holder(workload="somebody", user=None, memory_bytes=None)


@dataclass(slots=True)
class Life:
    """A rig, and beside it the plain account: sessions as lists of ticks, begun and ended as accounting.md says."""

    rig: Rig
    rng: Random
    sessions: list[list[tuple[int, dict[str, GpuSnapshot]]]] = field(default_factory=list)
    offset_ms: int = 0
    not_before_ms: int = 0

    def begin_session(self) -> None:
        # What was sealed reaches to the last tick that was not too far from the one before.
        for ticks in self.sessions:
            for (before_ms, _), (edge_ms, _) in pairwise(ticks):
                if edge_ms - before_ms <= 30 * INTERVAL_MS:
                    self.not_before_ms = max(self.not_before_ms, edge_ms)
        self.sessions.append([])
        clock = self.rig.clock
        self.offset_ms = clock.wall_ms - clock.boottime_ns() // 1_000_000

    def tick(self, after_ms: int) -> None:
        clock = self.rig.clock
        clock.advance_ms(after_ms)
        edge_ms = clock.boottime_ns() // 1_000_000 + self.offset_ms
        if abs(clock.wall_ms - edge_ms) > 1000:
            self.begin_session()
            edge_ms = clock.wall_ms
        gpu = self.rig.gpu
        if edge_ms >= self.not_before_ms:
            seen = GpuSnapshot(
                activity_ppm=gpu.percent * 10_000,
                holders=(SOMEBODY,) if gpu.processes else (),
                health=Health.CLEAN,
                energy_mj=gpu.power_mw * (clock.boottime_ns() // 1_000_000) // 1000,
            )
            self.sessions[-1].append((edge_ms, {gpu.uuid: seen}))
        self.rig.agent.tick()

    # What may happen to a node.

    def run(self) -> None:
        for _ in range(self.rng.randint(1, 20)):
            self.tick(INTERVAL_MS + self.rng.choice((0, 0, -1, 1, self.rng.randint(-400, 900))))

    def run_to_the_edge(self) -> None:
        self.tick(self.rng.choice((1, INTERVAL_MS)))
        left_ms = CELL_MS - self.rig.clock.wall_ms % CELL_MS
        self.tick(left_ms + self.rng.choice((-1000, -500, 0, 700)) if left_ms > 1000 else left_ms)
        self.run()

    def work(self) -> None:
        pids = self.rng.choice(((), (4100,)))
        self.rig.gpu.work(self.rng.choice((0, 5, 6, 100)) if pids else 0, *pids, power_mw=70_000)
        self.tick(INTERVAL_MS)

    def sleep(self) -> None:
        self.tick(self.rng.choice((2000, 2001, 5000, 30_000, 30_001, CELL_MS, 700_000)))

    def set_clock(self) -> None:
        self.rig.clock.step_ms(self.rng.choice((-3_600_000, -CELL_MS, -1500, -1001, -1000, 999, 1001, 5000, 700_000)))
        self.tick(INTERVAL_MS)

    def kill(self) -> None:
        self.rig.clock.advance_ms(self.rng.choice((0, 1, 1500, CELL_MS)))
        self.rig.start()
        self.begin_session()
        self.tick(INTERVAL_MS)

    def stop(self) -> None:
        self.rig.agent.close()
        self.kill()


def expected_states(sessions: list[Any]) -> dict[tuple[int, str], int]:
    sums: dict[tuple[int, str], int] = {}
    for ticks in sessions:
        for (cell_ms, _), row in reference_meter.meter(ticks, INTERVAL_MS).items():
            for state, amount in row["states"].items():
                reference_meter.put(sums, (cell_ms, state), amount)
    return sums


@examples(1)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_what_an_agent_sealed_in_all_its_lives_is_what_a_plain_account_says(seed: int, steps: int) -> None:
    logging.disable()
    rng = Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        life = Life(rig=Rig(Path(directory), gpus(1)), rng=rng)
        life.begin_session()
        acts: list[Callable[[], None]] = [life.run, life.work, life.sleep, life.set_clock, life.kill, life.stop]
        acts += [life.run, life.run_to_the_edge]
        for _ in range(steps):
            rng.choice(acts)()
        life.rig.agent.close()
        readings = life.rig.readings()
    logging.disable(logging.NOTSET)
    spans(readings)
    assert [reading.start_ms for reading in readings] == sorted(reading.start_ms for reading in readings)
    found: dict[tuple[int, str], int] = {}
    for reading in readings:
        for gpu in reading.gpus:
            for state, amount in gpu.state_slice_ms.items():
                reference_meter.put(found, (reading.cell_ms, state.value), amount)
    assert found == expected_states(life.sessions)
