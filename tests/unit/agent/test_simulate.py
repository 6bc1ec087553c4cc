# SPDX-License-Identifier: Apache-2.0
"""SIMULATED nodes: what goes wrong in a scenario goes wrong for the real agent, and is marked like all the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger.sealing import NameSealer, SigningKey
from gpuledger.states import State
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.loop import Agent, GpuView
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.scenarios import SCENARIOS
from gpuledger_agent.sealer import Sealer
from gpuledger_agent.simulate import GPUS, SimulatedNvml, SimulatedProcesses
from tests.fakes.agents import BIG, sealed
from tests.fakes.clock import FakeClock

MONDAY_6_MS = 1_764_568_800_000
"""2025-12-01 06:00 UTC."""


class Node:
    """A simulated node on virtual time."""

    def __init__(self, directory: Path, scenario: str, from_ms: int) -> None:
        self.directory = directory
        self.clock = FakeClock(wall_ms=from_ms)
        self.key = SigningKey.generate()
        journal = Journal(directory / "journal", BIG, BIG)
        self.agent = Agent(
            config=AgentConfig(state_dir=directory, interval_seconds=10),
            node_name="simulated",
            boot_id="boot",
            clock=self.clock,
            nvml=Nvml(SimulatedNvml(scenario, self.clock)),
            holders=Holders(SimulatedProcesses(), NameSealer(bytes(32)), own_pid=1),
            journal=journal,
            sealer=Sealer(self.key, journal, CrashFile(directory / "open")),
        )

    def play(self, minutes: int) -> list[GpuView]:
        for _ in range(6 * minutes):
            self.agent.tick()
            self.clock.advance_ms(10_000)
        return sorted(self.agent.view.gpus, key=lambda gpu: gpu.identity.index or 0)


def test_a_gpu_that_falls_off_the_bus_says_so_once_and_is_down(tmp_path: Path) -> None:
    node = Node(tmp_path, "serving", MONDAY_6_MS - 5 * 60_000)
    *others, fallen = node.play(10)
    assert fallen.total.health.xids == {79: 1}
    assert fallen.result is State.DOWN
    assert all(gpu.total.health.xids == {} and gpu.result is not State.DOWN for gpu in others)
    node.agent.close()
    readings = sealed(tmp_path, node.key.public_bytes)
    assert all(reading.simulated for reading in readings)
    assert sum(gpu.xids.get(79, 0) for reading in readings for gpu in reading.gpus) == 1


def test_training_runs_into_the_power_limit_and_is_no_less_busy_for_it(tmp_path: Path) -> None:
    gpus = Node(tmp_path, "training", MONDAY_6_MS + 60 * 60_000).play(30)
    assert len(gpus) == GPUS
    for gpu in gpus:
        held_s = gpu.total.health.throttled_ns["sw_power_cap"] / 1e9
        assert 60 < held_s < 30 * 60
        assert gpu.total.state_slice_ms[State.BUSY] > 7 * 20 * 60_000


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_every_scenario_plays_half_an_hour_without_a_failure_that_is_not_meant(tmp_path: Path, scenario: str) -> None:
    node = Node(tmp_path, scenario, MONDAY_6_MS + 3_600_000)
    node.play(30)
    failures = {error for report in node.agent.view.sources.values() for error in report.failures}
    assert failures <= {"gpu_is_lost"}
