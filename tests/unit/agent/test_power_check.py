# SPDX-License-Identifier: Apache-2.0
"""The energy counter against reported power."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gpuledger_agent.nvml_fields import FI_ENERGY, FI_POWER_AVERAGE
from gpuledger_agent.power_check import PAIRS, PowerCheck
from tests.fakes.agents import Rig
from tests.fakes.nvml import NOT_SUPPORTED, UNKNOWN, gpus


@pytest.mark.parametrize(
    ("counted", "reported", "disagree"), [(100.0, 125, False), (100.0, 126, True), (126.0, 100, True)]
)
def test_sums_of_thirty_pairs_may_differ_by_a_quarter(counted: float, reported: int, disagree: bool) -> None:
    check = PowerCheck()
    found = [check.offer(counted, reported) for _ in range(2 * PAIRS)]
    assert [index for index, means in enumerate(found) if means is not None] == ([29, 59] if disagree else [])
    assert found[29] == ((counted, float(reported)) if disagree else None)


def test_single_values_may_differ_as_they_like() -> None:
    check = PowerCheck()
    found = [check.offer(200.0 if pair % 2 else 20.0, 20 if pair % 2 else 200) for pair in range(PAIRS)]
    assert found == [None] * PAIRS


def test_a_counter_of_nothing_beside_power_disagrees() -> None:
    check = PowerCheck()
    assert [check.offer(0.0, 70_000) for _ in range(PAIRS)][-1] == (0.0, 70_000)


def test_a_board_whose_counter_disagrees_is_named_once_and_counted_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, gpus(2))
    rig.gpu.reported_power_mw = 122_000
    asked = []
    with caplog.at_level(logging.WARNING):
        for second in range(605):
            before = rig.nvml.fields_asked[FI_POWER_AVERAGE]
            rig.tick()
            if rig.nvml.fields_asked[FI_POWER_AVERAGE] > before:
                asked.append(second)
    assert [(record.msg, record.uuid) for record in caplog.records] == [("energy_disagrees", rig.gpu.uuid)]  # type: ignore[attr-defined]
    assert rig.agent.view.sources["energy"].failures == {"disagreement": 2}
    assert asked == [*range(1, 605, 10)], "with the batch that has the counter too"
    assert rig.nvml.calls["nvmlDeviceGetPowerUsage"] == 0


@pytest.mark.parametrize(("code", "asked"), [(NOT_SUPPORTED, 4), (UNKNOWN, 20)])
def test_an_energy_counter_that_is_no_field_is_read_by_its_own_call(tmp_path: Path, code: int, asked: int) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.values[FI_ENERGY] = code, 0
    rig.tick(20)
    assert rig.agent.view.gpus[0].seen.energy_mj is not None
    assert rig.nvml.calls["nvmlDeviceGetTotalEnergyConsumption"] == 20
    assert rig.nvml.calls["nvmlDeviceGetFieldValues"] == asked, "a batch without it is wanted only for health and power"


def test_power_comes_from_a_call_of_its_own_where_it_is_no_field(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.values[FI_POWER_AVERAGE] = NOT_SUPPORTED, 0
    rig.gpu.reported_power_mw = 122_000
    rig.tick(305)
    assert rig.agent.view.sources["energy"].failures == {"disagreement": 1}
    assert rig.nvml.calls["nvmlDeviceGetPowerUsage"] == 31


def test_a_board_that_reports_no_power_is_not_judged(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.fails["nvmlDeviceGetPowerUsage"] = NOT_SUPPORTED
    rig.tick(400)
    assert rig.agent.view.sources["energy"].failures == {}
    assert rig.agent.view.sources["power"].is_success


@pytest.mark.parametrize("interval_ms", [499, 2_001])
def test_ticks_much_shorter_or_longer_than_a_second_are_not_held_against_its_mean(
    tmp_path: Path, interval_ms: int
) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.tick(60, interval_ms=interval_ms)
    assert (rig.nvml.calls["nvmlDeviceGetPowerUsage"], rig.nvml.fields_asked[FI_POWER_AVERAGE]) == (0, 0)
