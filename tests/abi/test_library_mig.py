# SPDX-License-Identifier: Apache-2.0
"""MIG as the scripted library answers it to the real nvidia-ml-py."""

import math

import pytest

from tests.abi.asking import GPU, MEMORY_V2, Ask, error, one_gpu
from tests.abi.script import (
    BOARD,
    FULL,
    GIB,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    UNKNOWN,
    Gpu,
    MigDevice,
    Script,
)

pytestmark = pytest.mark.abi
SLOT, UUID, NAME = "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName"
MODE, COUNT, ID = "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetGpuInstanceId"
PROCESSES, MEMORY = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMemoryInfo"
UTILIZATION, ROWS = "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetRemappedRows"


def divided() -> tuple[Script, Gpu]:
    script, gpu = one_gpu()
    return script, gpu.divide()


def test_a_mig_device_says_who_it_is_and_whose(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("3g.40gb", instance_id=2, slot=1)
    found = ask(
        script,
        [None, MODE, GPU],
        [None, COUNT, GPU],
        [None, UUID, "mig:0/1"],
        [None, NAME, "mig:0/1"],
        [None, ID, "mig:0/1"],
        [None, "nvmlDeviceGetComputeInstanceId", "mig:0/1"],
        [None, "nvmlDeviceGetHandleByUUID", gpu.instances[0].devices[0].uuid],
        [None, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", "mig:0/1"],
        [None, "nvmlDeviceGetAttributes", "mig:0/1"],
    )
    uuid = gpu.instances[0].devices[0].uuid
    assert found[:8] == [[1, 1], 7, uuid, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 2, 0, True, True]
    assert isinstance(found[8], dict)
    assert (found[8]["gpuInstanceSliceCount"], found[8]["memorySizeMB"]) == (3, 40 << 10)


def test_slots_have_holes_and_end(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("1g.10gb", slot=0, to_ms=1_000)
    gpu.add_instance("2g.20gb", slot=2)
    slots = [[1_000, SLOT, GPU, slot] for slot in (0, 1, 2, 6, 7)]
    assert ask(script, *slots) == [*[error(NOT_FOUND)] * 2, True, error(NOT_FOUND), error(INVALID_ARGUMENT)]


def test_a_handle_means_nothing_once_its_device_is_gone_or_another_that_has_its_slot(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("1g.10gb", instance_id=7, slot=0, to_ms=1_000)
    other = gpu.add_instance("2g.20gb", 2_000, instance_id=7, slot=0)
    found = ask(
        script,
        [0, ID, "mig:0/0"],
        [1_000, ID, "mig:0/0"],
        [1_000, NAME, "mig:0/0"],
        [2_000, UUID, "mig:0/0"],
        [2_000, NAME, "mig:0/0"],
    )
    stale = error(INVALID_ARGUMENT)
    assert found == [7, stale, stale, other.devices[0].uuid, "NVIDIA H100 80GB HBM3 MIG 2g.20gb"]


def test_the_handle_of_a_destroyed_device_may_still_be_handed_out(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("1g.10gb", devices=[MigDevice(uuid="MIG-gone", slot=0, to_ms=1_000, ghost=True)])
    assert ask(script, [1_000, SLOT, GPU, 0], [1_000, UUID, "mig:0/0"]) == [True, error(INVALID_ARGUMENT)]


def test_the_mode_changes_and_takes_the_devices_with_it(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.divide(1_000, on=False, pending=True).divide(2_000).divide(5_000, on=False)
    gpu.add_instance("7g.80gb")
    modes: list[object] = [[0, 0], [0, 1], [1, 1], [0, 0]]
    times = (0, 1_000, 2_000, 5_000)
    assert ask(script, *([at_ms, MODE, GPU] for at_ms in times)) == modes
    hole = error(NOT_FOUND)
    assert ask(script, *([at_ms, SLOT, GPU, 0] for at_ms in times)) == [hole, hole, True, hole]
    assert ask(script, *([at_ms, COUNT, GPU] for at_ms in times)) == [0, 0, 7, 0]


def test_a_board_that_cannot_be_divided_says_so(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.mig_supported = False
    assert ask(script, [0, MODE, GPU]) == [error(NOT_SUPPORTED)]


def test_what_is_not_offered_under_mig_is_not(ask: Ask) -> None:
    script, gpu = divided()
    gpu.act(0, utilization_pct=50, power_w=90).add_instance("7g.80gb")
    power = "nvmlDeviceGetPowerUsage"
    found = ask(
        script,
        *([2_000, call, place] for place in (GPU, "mig:0/0") for call in (UTILIZATION, ROWS, power)),
        [2_000, "samples", GPU, 1, 0],
        [2_000, "gpm_sample", GPU],
        [2_000, "nvmlDeviceGetTotalEnergyConsumption", GPU],
        [2_000, "nvmlDeviceGetAttributes", GPU],
    )
    refused = error(NOT_SUPPORTED)
    assert found == [refused, refused, 90_000, *[refused] * 5, 180_000, refused]


def test_memory_and_processes_are_each_instances_own_and_the_boards_all_of_them(ask: Ask) -> None:
    script, gpu = divided()
    gpu.act(0, memory_gib=1)
    gpu.add_instance("3g.40gb", instance_id=2).act(0, memory_gib=5).run(10)
    both = gpu.add_instance("4g.40gb", instance_id=1).act(0, memory_gib=7).run(20).run(21, compute=3)
    both.devices.append(MigDevice(uuid="MIG-second", slot=5, compute=3))
    used = [ask(script, [0, MEMORY, place, MEMORY_V2])[0] for place in (GPU, "mig:0/0", "mig:0/1")]
    assert [answer["used"] // GIB for answer in used if isinstance(answer, dict)] == [13, 5, 7]
    places = (GPU, "mig:0/0", "mig:0/1", "mig:0/5")
    lists = ask(script, *([0, PROCESSES, place] for place in places))
    found = [
        [(one["pid"], one["gpuInstanceId"], one["computeInstanceId"]) for one in answer]
        for answer in lists
        if isinstance(answer, list)
    ]
    assert found == [[(10, 2, 0), (20, 1, 0), (21, 1, 3)], [(10, 2, 0)], [(20, 1, 0)], [(21, 1, 3)]]


def test_rules_name_a_gpu_with_its_instances_the_board_alone_or_one_instance(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("3g.40gb")
    gpu.add_instance("3g.40gb")
    script.rule(PROCESSES + "_v3", gpu=0, instance=BOARD, error=NO_PERMISSION)
    script.rule(MEMORY + "_v2", gpu=0, instance=1, error=UNKNOWN).rule(UUID, gpu=0, error=UNKNOWN)
    places = (GPU, "mig:0/0", "mig:0/1")
    assert ask(script, *([0, PROCESSES, place] for place in places)) == [error(NO_PERMISSION), [], []]
    memory = ask(script, *([0, MEMORY, place, MEMORY_V2] for place in places))
    assert [answer == error(UNKNOWN) for answer in memory] == [False, False, True]
    assert ask(script, *([0, UUID, place] for place in places)) == [error(UNKNOWN)] * 3


def test_gpm_of_an_instance_is_its_own_mean(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("3g.40gb", instance_id=2).set("graphics", FULL).set("graphics", 0, 500).set("sm", 300_000)
    found = ask(
        script,
        [0, "gpm_mig_sample", GPU, 2],
        [99, "gpm_mig_sample", GPU, 2],
        [1_000, "gpm_mig_sample", GPU, 2],
        [1_000, "gpm_sample", "mig:0/0"],
        [None, "gpm_metrics", 0, 2, [1, 2, 10]],
        [None, "gpm_metrics", 0, 3, [1]],
        [None, "gpm_metrics", 0, 1, [1]],
        [1_000, "gpm_mig_sample", GPU, 3],
    )
    assert found[4] == [[0, pytest.approx(50)], [0, pytest.approx(30)], [NOT_SUPPORTED, 0.0]]
    assert found[5:] == [[[0, pytest.approx(50)]], [[0, "nan"]], error(INVALID_ARGUMENT)]


def test_gpm_may_be_refused_for_one_instance_and_not_offered_for_the_board(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("3g.40gb", instance_id=1)
    gpu.add_instance("3g.40gb", instance_id=2)
    script.rule("nvmlGpmMigSampleGet", gpu=0, instance=1, error=NO_PERMISSION)
    ids = [[0, "gpm_mig_sample", GPU, 1], [0, "gpm_mig_sample", GPU, 2], [0, "gpm_sample", GPU]]
    assert ask(script, *ids) == [0, error(NO_PERMISSION), error(NOT_SUPPORTED)]
    script.mig_parent_gpm = True
    assert ask(script, ids[2]) == [0]


def test_gpm_of_two_instances_that_had_one_id_is_nonsense_that_nobody_marks(ask: Ask) -> None:
    script, gpu = divided()
    gpu.add_instance("1g.10gb", instance_id=7, to_ms=10_000).set("graphics", FULL)
    gpu.add_instance("1g.10gb", 10_000, instance_id=7).set("graphics", 0)
    found = ask(
        script,
        [9_000, "gpm_mig_sample", GPU, 7],
        [10_000, "gpm_mig_sample", GPU, 7],
        [None, "gpm_metrics", 0, 1, [1]],
    )
    assert isinstance(found[2], list)
    assert math.isclose(found[2][0][1], -900)


def test_a_lost_board_takes_its_instances_along(ask: Ask) -> None:
    script, gpu = divided()
    gpu.lose(1_000).add_instance("7g.80gb")
    lost = error(GPU_IS_LOST)
    assert ask(script, [0, ID, "mig:0/0"], [1_000, ID, "mig:0/0"], [1_000, SLOT, GPU, 0]) == [1, lost, lost]
