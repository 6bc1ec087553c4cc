# SPDX-License-Identifier: Apache-2.0
"""The sampler: what each failing source costs, and how long what was read before may stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger.states import State, Uncovered
from gpuledger_agent.snapshot import GpuSnapshot, Health
from tests.fakes.agents import Rig
from tests.fakes.nvml import NOT_SUPPORTED, UNKNOWN, gpus


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.work(90, 4100)
    rig.tick(2)
    return rig


def seen(rig: Rig) -> GpuSnapshot:
    return rig.agent.view.gpus[0].seen


def state(rig: Rig) -> State | Uncovered:
    return rig.agent.view.gpus[0].result


@pytest.mark.parametrize(
    ("function", "source", "lost"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "energy", "energy_mj"),
        ("nvmlDeviceGetUtilizationRates", "activity", "activity_ppm"),
        ("nvmlDeviceGetMemoryInfo", "memory", "memory_used_bytes"),
    ],
)
@pytest.mark.parametrize("code", [UNKNOWN, NOT_SUPPORTED])
def test_a_value_that_fails_is_absent_and_counted_and_one_that_is_not_offered_only_absent(
    rig: Rig, function: str, source: str, lost: str, code: int
) -> None:
    rig.gpu.fails[function] = code
    rig.tick(3)
    assert getattr(seen(rig), lost) is None
    report = rig.agent.view.sources[source]
    assert report.is_success is (code == NOT_SUPPORTED)
    assert report.failures == ({"unknown": 3} if code == UNKNOWN else {})
    others = [name for name in ("energy_mj", "activity_ppm", "memory_used_bytes") if name != lost]
    assert all(getattr(seen(rig), name) is not None for name in others)


@pytest.mark.parametrize("percent", [-1, 101, 2**31])
def test_a_value_outside_the_physical_range_is_rejected_and_counted(rig: Rig, percent: int) -> None:
    rig.gpu.percent = percent
    rig.tick(4)
    assert seen(rig).activity_ppm is None
    assert state(rig) is State.UNMEASURED
    assert rig.agent.view.gpus[0].total.rejected_values == 4


def test_a_process_list_is_read_when_the_memory_changes_and_every_thirty_seconds(rig: Rig) -> None:
    before = rig.nvml.calls["nvmlDeviceGetComputeRunningProcesses"]
    rig.tick(29)
    assert rig.nvml.calls["nvmlDeviceGetComputeRunningProcesses"] == before + 1
    rig.gpu.work(90)
    rig.tick()
    assert seen(rig).holders == ()
    assert state(rig) is State.UNMEASURED


def test_a_process_list_that_fails_stands_for_two_polls_and_is_then_unknown(rig: Rig) -> None:
    rig.gpu.fails["nvmlDeviceGetComputeRunningProcesses"] = UNKNOWN
    rig.tick(58)
    assert state(rig) is State.BUSY
    rig.tick(5)
    assert seen(rig).holders is None
    assert state(rig) is State.UNMEASURED


def test_a_process_list_that_fails_when_the_memory_changed_is_unknown_at_once(rig: Rig) -> None:
    rig.gpu.fails["nvmlDeviceGetComputeRunningProcesses"] = UNKNOWN
    rig.gpu.memory_used_bytes += 1
    rig.tick()
    assert seen(rig).holders is None


def test_health_that_fails_stands_for_thirty_seconds_and_is_then_unknown(rig: Rig) -> None:
    rig.gpu.work(0)
    rig.tick()
    rig.gpu.fails = dict.fromkeys(["nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows"], UNKNOWN)
    rig.tick(25)
    assert state(rig) is State.FREE
    rig.tick(20)
    assert seen(rig).health is None
    assert state(rig) is State.UNMEASURED


@pytest.mark.parametrize(
    ("fault", "health", "read"),
    [
        ("recovery_action", Health.RECOVERY_ACTION, "nvmlDeviceGetFieldValues"),
        ("is_row_remap_failed", Health.ROW_REMAP_FAILURE, "nvmlDeviceGetRemappedRows"),
    ],
)
def test_a_fault_stands_until_the_read_that_found_it_says_otherwise(
    rig: Rig, fault: str, health: Health, read: str
) -> None:
    setattr(rig.gpu, fault, 1)
    rig.tick(11)
    assert seen(rig).health is health
    assert state(rig) is State.DOWN
    rig.gpu.fails[read] = UNKNOWN
    rig.tick(25)
    assert state(rig) is State.DOWN
    del rig.gpu.fails[read]
    setattr(rig.gpu, fault, 0)
    rig.tick(11)
    assert state(rig) is State.BUSY


def test_a_gpu_of_which_no_call_answers_is_uncovered(rig: Rig) -> None:
    rig.gpu.fails["*"] = UNKNOWN
    rig.tick()
    assert state(rig) is Uncovered.CALLS_FAILED


def test_a_failed_enumeration_is_counted_and_tried_again_and_changes_nothing(rig: Rig) -> None:
    rig.nvml.fails["nvmlDeviceGetCount"] = UNKNOWN
    rig.tick(20)
    assert state(rig) is State.BUSY
    assert rig.agent.view.sources["inventory"].failures["unknown"] > 5
    rig.nvml.fails.clear()
    rig.tick()
    assert rig.agent.view.sources["inventory"].is_success


def test_a_look_up_that_fails_is_counted(rig: Rig) -> None:
    rig.gpu.fails["nvmlDeviceGetUUID"] = UNKNOWN
    rig.tick(61)
    assert state(rig) is State.BUSY
    assert rig.agent.view.sources["inventory"].failures == {"unknown": 1}


def test_gpus_are_counted_every_ten_seconds_and_looked_up_every_minute_while_all_of_them_answer(rig: Rig) -> None:
    rig.tick(61)
    rig.nvml.calls.clear()
    rig.tick(120)
    assert (rig.nvml.calls["nvmlDeviceGetCount"], rig.nvml.calls["nvmlDeviceGetUUID"]) == (12, 2 * len(rig.nvml.gpus))


def test_gpus_are_looked_up_every_ten_seconds_while_one_does_not_answer(rig: Rig) -> None:
    rig.tick(61)
    rig.gpu.fails["*"] = UNKNOWN
    rig.tick()
    rig.nvml.calls.clear()
    rig.tick(60)
    assert rig.nvml.calls["nvmlDeviceGetHandleByIndex"] == 6 * len(rig.nvml.gpus)


def test_the_library_going_in_the_middle_of_a_tick_is_counted_by_the_source_that_met_it(rig: Rig) -> None:
    rig.gpu.fails["nvmlDeviceGetMemoryInfo"] = 9
    rig.tick()
    report = rig.agent.view.sources["memory"]
    assert (report.is_success, report.failures) == (False, {"driver_not_loaded": 1})
