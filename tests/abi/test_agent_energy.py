# SPDX-License-Identifier: Apache-2.0
"""Traps of the energy counter, of power and of idle floors on the real agent; the figures are by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.readings import sealed
from tests.abi.script import NOT_SUPPORTED, UNKNOWN, Gpu, Script
from tests.abi.sealed import Meter
from tests.abi.stage import Stage

pytestmark = pytest.mark.abi
PID = 4_200_001
POWER, COUNTER = "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption"
FIELDS = "nvmlDeviceGetFieldValues"


def parked(power_w: float = 115) -> tuple[Script, Gpu]:
    """A GPU that a process holds and nobody works on."""
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=0, power_w=power_w, memory_gib=40).run(PID)
    return script.polled(), gpu


def test_energy_is_what_the_counter_moved_however_coarse_its_steps(meter: Meter) -> None:
    script, gpu = parked(123.457)
    gpu.energy_refresh_ms = 370
    found = meter(script)
    # From the step before 0 s, which is 0 s, to the last before 29 s.
    assert found.energy_mj == {"held": 123_457 * (29_000 // 370 * 370) // 1_000}


@pytest.mark.parametrize("code", [NOT_SUPPORTED, UNKNOWN])
def test_an_energy_counter_that_is_no_field_is_read_by_its_own_call_and_says_the_same(meter: Meter, code: int) -> None:
    script, _ = parked(123.457)
    script.rule(FIELDS, field=(83, code)).rule(FIELDS, field=(185, NOT_SUPPORTED))
    found = meter(script)
    assert found.energy_mj == {"held": 123_457 * 29}
    assert found.calls[COUNTER] == 30
    assert found.calls[POWER] == 3


def test_the_driver_reports_power_as_a_mean_of_a_second_and_the_counter_agrees(meter: Meter) -> None:
    script, _ = parked()
    found = meter(script, 620_000)
    # Both come with the batch of fields.
    assert POWER not in found.calls
    assert "energy_disagrees" not in found.log


@pytest.mark.parametrize(
    ("rate_ppm", "says"), [(572_000, True), (1_749_000, True), (810_000, False), (1_240_000, False)]
)
def test_a_counter_that_says_187_j_where_power_says_327_j_is_reported_once(
    meter: Meter, rate_ppm: int, says: bool
) -> None:
    script, gpu = parked()
    gpu.energy_rate_ppm = rate_ppm
    found = meter(script, 620_000)
    assert found.log.count("event=energy_disagrees") == int(says)
    # What is sealed is what the counter said.
    assert found.energy_mj == {"held": pytest.approx(115 * 619 * rate_ppm / 1_000, abs=2)}


def test_a_learnt_floor_outlives_the_agent_so_the_next_one_suspects_at_once(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script, gpu = parked()
    state_dir = tmp_path / "state"
    first = stage(script, duration_ms=70_000)
    first.run(["-m", "tests.abi.run_agent", str(state_dir)])
    floors = json.loads((state_dir / "floors.json").read_text())
    assert floors["idle_mw"] == {gpu.uuid: {"parked": 115_000}}
    gpu.tracks["utilization"] = []
    gpu.act(0, utilization_pct=100)
    again = stage(script, duration_ms=30_000, wall_start_ms=first_end_ms(state_dir))
    again.run(["-m", "tests.abi.run_agent", str(state_dir)])
    found = [core["gpus"][0].get("hang_suspicion_ms", 0) for core in sealed(state_dir)]
    assert found == [0, 29_000]


def first_end_ms(state_dir: Path) -> int:
    return 1_000 + max(int(core["end_ms"]) for core in sealed(state_dir))
