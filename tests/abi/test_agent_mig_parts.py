# SPDX-License-Identifier: Apache-2.0
"""What the instances of divided GPUs (MIG) do, on the real agent: their GPM, processes, memory and energy."""

import pytest

from tests.abi.metered import PID, Meter, divided, working
from tests.abi.script import (
    BOARD,
    FULL,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    UNINITIALIZED,
    UNKNOWN,
    Failure,
    MigDevice,
    Script,
    Wave,
)

pytestmark = pytest.mark.abi
COUNT = "nvmlDeviceGetMaxMigDeviceCount"
TAKE, ALLOCATE, FREE = "nvmlGpmMigSampleGet", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree"
PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v3"


# ---------------------------------------------------------------------------------------------- GPM


@pytest.mark.parametrize("code", [NO_PERMISSION, NOT_SUPPORTED, UNKNOWN])
def test_gpm_refused_for_one_instance_leaves_that_one_unmeasured(meter_instances: Meter, code: int) -> None:
    script, gpu = divided()
    working(gpu, "3g.40gb")
    working(gpu, "2g.20gb", pid=PID + 1)
    gpu.add_instance("1g.10gb").act(0, memory_gib=0)
    script.rule(TAKE, gpu=0, instance=1, error=code).rule(TAKE, gpu=0, instance=2, error=code)
    found = meter_instances(script)
    assert found.instances == {
        "3g.40gb": {"busy": 3 * 29},
        "2g.20gb": {"unmeasured": 2 * 29},
        "1g.10gb": {"free": 29},
    }
    # Three times each, and then at every tenth tick.
    assert found.calls[TAKE] == 30 + 2 * (3 + 3)


def test_gpm_that_the_board_has_not_is_asked_for_once_an_instance(meter_instances: Meter) -> None:
    script, gpu = divided()
    gpu.gpm = False
    working(gpu, "3g.40gb")
    found = meter_instances(script)
    assert found.states == {"unmeasured": 3 * 29, "free": 4 * 29}
    assert TAKE not in found.calls
    assert found.calls["nvmlGpmQueryDeviceSupport"] == 1


def test_gpm_nan_of_an_instance_is_no_value(meter_instances: Meter) -> None:
    script, gpu = divided()
    one = working(gpu, "3g.40gb")
    one.set("graphics", Failure(), 10_200).set("graphics", 600_000, 10_300)
    assert meter_instances(script).states == {"busy": 3 * 28, "unmeasured": 3, "free": 4 * 29}


def test_gpm_of_an_instance_is_the_mean_over_our_own_interval_relative_to_the_instance(meter_instances: Meter) -> None:
    script, gpu = divided()
    one = gpu.add_instance("2g.20gb").act(0, memory_gib=3).run(PID)
    one.set("graphics", Wave(period_ms=1_000, on_ms=60)).set("sm", 123_456).set("tensor", 0)
    found = meter_instances(script)
    assert found.states == {"busy": 2 * 29, "free": 5 * 29}
    assert found.truths["2g.20gb"].active_ns == 29 * 60_000_000
    assert found.cell.active_ns == 2 * 29 * 60_000_000 // 7
    assert found.cell.active_known_ms == -(-2 * 29_000 // 7)
    assert found.cell.engines_ns == {"sm": 2 * 29 * 123_456_000 // 7}
    assert found.cell.engines_known_ms == {"sm": -(-2 * 29_000 // 7), "tensor": -(-2 * 29_000 // 7)}


def test_samples_of_instances_are_two_each_and_freed_with_them(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "1g.10gb", to_ms=5_500)
    working(gpu, "1g.10gb", from_ms=7_500, to_ms=9_500, slot=2, instance_id=8, pid=PID + 1)
    working(gpu, "3g.40gb", slot=5, pid=PID + 2)
    gpu.lose(15_500, 17_500)
    found = meter_instances(script.rule("*", from_ms=20_500, to_ms=21_500, error=UNINITIALIZED))
    assert found.calls[ALLOCATE] == found.calls[FREE] == 2 * (1 + 1 + 1) + 2


def test_gpm_metric_of_an_instance_that_says_the_gpu_is_lost_makes_the_board_down(meter_instances: Meter) -> None:
    script, gpu = divided()
    one = working(gpu, "3g.40gb")
    one.set("graphics", Failure(GPU_IS_LOST), 10_500).set("graphics", 600_000, 11_500)
    found = meter_instances(script)
    # Down at 11 s; at 12 s everything is seeded again.
    assert found.states == {"busy": 3 * 27, "down": 7, "unmeasured": 3, "free": 4 * 28}


# ---------------------------------------------------------------------------------------------- processes, memory


def test_who_holds_an_instance_comes_from_one_list_of_the_board(meter_instances: Meter) -> None:
    script, gpu = divided()
    for _ in range(7):
        gpu.add_instance("1g.10gb").set("graphics", 0).act(0, memory_gib=0)
    gpu.instances[3].act(10_500, memory_gib=2).run(PID, 10_500)
    found = meter_instances(script)
    assert found.states == {"free": 7 * 10 + 6 * 19, "held": 19}
    # At 0 and 11 s, the latter with an entry to be fetched.
    assert found.calls[PROCESSES] == 1 + 2


@pytest.mark.parametrize("code", [NO_PERMISSION, NOT_SUPPORTED])
def test_without_the_privilege_to_list_the_boards_processes_each_instance_lists_its_own(
    meter_instances: Meter, code: int
) -> None:
    script, gpu = divided()
    one = working(gpu, "3g.40gb")
    one.processes.clear()
    one.devices.append(MigDevice(uuid="MIG-second", slot=5, compute=1))
    one.run(PID, compute=1)
    gpu.add_instance("2g.20gb").set("graphics", 0).act(0, memory_gib=0)
    script.rule(PROCESSES, gpu=0, instance=BOARD, error=code)
    found = meter_instances(script)
    assert found.instances == {"3g.40gb": {"busy": 3 * 29}, "2g.20gb": {"free": 2 * 29}}
    # Who is where no instance is, only the board could tell.
    assert found.states["unmeasured"] == 2 * 29


def test_one_instances_list_that_fails_is_unknown_for_that_one_alone(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "3g.40gb")
    working(gpu, "2g.20gb", pid=PID + 1)
    script.rule(PROCESSES, gpu=0, instance=BOARD, error=NO_PERMISSION)
    script.rule(PROCESSES, gpu=0, instance=1, error=UNKNOWN)
    assert meter_instances(script).instances == {"3g.40gb": {"busy": 3 * 29}, "2g.20gb": {"unmeasured": 2 * 29}}


def test_a_process_that_is_on_no_instance_keeps_the_rest_from_being_called_free(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "3g.40gb")
    gpu.run(PID + 1)
    assert meter_instances(script).states["unmeasured"] == 4 * 29


def test_memory_and_energy_are_read_where_they_are_and_the_boards_power_once(meter_instances: Meter) -> None:
    script, gpu = divided()
    one = working(gpu, "3g.40gb")
    one.act(20_000, memory_gib=11)
    found = meter_instances(script)
    (core,) = found.cores
    (instance,) = core["instances"]
    assert (instance["memory_used_bytes_max"], instance["memory_total_bytes"]) == (11 << 30, 40 << 30)
    assert core["memory_used_bytes_max"] == 11 << 30
    assert core["energy_mj"] == {"mig": 29 * 200_000}


def test_power_at_the_floor_makes_no_instance_hung(meter_instances: Meter) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=0, power_w=115, memory_gib=20).run(PID, 0, 70_000)
    gpu.divide(0, on=False).divide(70_000).act(70_000, memory_gib=0)
    one = gpu.add_instance("3g.40gb", 70_000).act(0, memory_gib=4).set("graphics", FULL).set("sm", 0)
    one.run(PID + 1, 70_000)
    found = meter_instances(script, 100_000)
    assert found.instances["3g.40gb"]["busy"] > 0
    assert all("hang_suspicion_ms" not in core for core in found.cores)


def test_a_missing_count_of_slots_is_counted_as_a_failure_of_the_source(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "3g.40gb")
    found = meter_instances(script.rule(COUNT, error=NOT_FOUND))
    assert found.states == {"unmeasured": 7 * 29}
