# SPDX-License-Identifier: Apache-2.0
"""What the scripted library answers to the real nvidia-ml-py, in a process of its own."""

import math

import pytest

from tests.abi.asking import GPU, MEMORY_V2, UUID, Ask, error, one_gpu
from tests.abi.script import (
    FULL,
    FUNCTION_NOT_FOUND,
    GIB,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    TIMEOUT,
    Failure,
    Process,
    Wave,
)
from tests.abi.stage import WALL_START_MS

pytestmark = pytest.mark.abi


def test_identity_is_what_the_script_says(ask: Ask) -> None:
    script, _ = one_gpu()
    found = ask(
        script,
        [None, "nvmlDeviceGetCount"],
        [None, "nvmlDeviceGetUUID", GPU],
        [None, "nvmlDeviceGetSerial", GPU],
        [None, "nvmlDeviceGetName", GPU],
        [None, "nvmlDeviceGetBoardPartNumber", GPU],
        [None, "nvmlDeviceGetIndex", GPU],
        [None, "nvmlDeviceGetMinorNumber", GPU],
        [None, "nvmlDeviceGetCudaComputeCapability", GPU],
        [None, "nvmlDeviceGetArchitecture", GPU],
        [None, "nvmlDeviceGetEnforcedPowerLimit", GPU],
        [None, "nvmlDeviceGetPowerManagementLimit", GPU],
        [None, "nvmlSystemGetDriverVersion"],
        [None, "nvmlSystemGetNVMLVersion"],
        [None, "nvmlSystemGetCudaDriverVersion_v2"],
        [None, "nvmlDeviceGetHandleByUUID", UUID],
        [None, "nvmlDeviceGetHandleByUUID", "GPU-none"],
        [None, "nvmlDeviceGetHandleByIndex", 1],
        [None, "nvmlErrorString", GPU_IS_LOST],
    )
    assert found[:14] == [
        *(1, UUID, "1650220000000", "NVIDIA H100 80GB HBM3", "692-2G520-0200-000", 0, 0, [9, 0], 9),
        *(700_000, 700_000, "570.124.06", "12.570.124.06", 12080),
    ]
    assert found[14:] == [True, error(NOT_FOUND), error(INVALID_ARGUMENT), "GPU is lost"]


def test_a_pci_address_has_its_long_and_its_short_form(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.pci = "00000001:AB:00.0"
    (pci,) = ask(script, [None, "nvmlDeviceGetPciInfo", GPU])
    assert isinstance(pci, dict)
    assert (pci["busId"], pci["busIdLegacy"]) == ("00000001:AB:00.0", "0001:AB:00.0")
    assert (pci["domain"], pci["bus"], pci["pciDeviceId"]) == (1, 0xAB, 0x233010DE)


def test_a_board_without_a_serial_says_not_supported(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.serial = None
    assert ask(script, [None, "nvmlDeviceGetSerial", GPU]) == [error(NOT_SUPPORTED)]


def test_what_the_library_does_not_implement_is_absent_as_in_an_old_driver(ask: Ask) -> None:
    script, _ = one_gpu()
    calls = ["nvmlDeviceGetModuleId", "nvmlDeviceGetEncoderUtilization", "nvmlDeviceGetNumGpuCores"]
    assert ask(script, *([None, call, GPU] for call in calls)) == [error(FUNCTION_NOT_FOUND)] * 3


def test_memory_splits_reserved_from_used_only_in_its_second_version(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.act(0, memory_gib=2).act(5_000, memory_gib=3)
    first, second, later = ask(
        script,
        [0, "nvmlDeviceGetMemoryInfo", GPU],
        [4_999, "nvmlDeviceGetMemoryInfo", GPU, MEMORY_V2],
        [5_000, "nvmlDeviceGetMemoryInfo", GPU, MEMORY_V2],
    )
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert isinstance(later, dict)
    total, reserved = 81_559 << 20, 512 << 20
    assert (first["total"], first["used"]) == (total, 2 * GIB + reserved)
    assert (second["used"], second["reserved"], second["free"]) == (2 * GIB, reserved, total - reserved - 2 * GIB)
    assert later["used"] == 3 * GIB


def test_process_lists_are_sized_first_and_name_only_whom_they_should(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.run(10).run(20, kind="graphics").run(30, kind="mps").run(40, 5_000, 6_000)
    gpu.processes.append(Process(pid=50, memory_bytes=None, from_ms=5_000))
    kinds = ("Compute", "Graphics", "MPSCompute")
    found = ask(
        script,
        *([0, f"nvmlDeviceGet{kind}RunningProcesses", GPU] for kind in kinds),
        [0, "counted", "nvmlDeviceGetComputeRunningProcesses_v3"],
        [5_500, "nvmlDeviceGetComputeRunningProcesses", GPU],
        [6_000, "nvmlDeviceGetComputeRunningProcesses", GPU],
    )
    pids = [[process["pid"] for process in answer] if isinstance(answer, list) else answer for answer in found]
    assert pids == [[10], [20], [30], 2, [10, 40, 50], [10, 50]]
    assert isinstance(found[4], list)
    assert [process["usedGpuMemory"] for process in found[4]] == [GIB, GIB, None]
    assert found[4][0]["gpuInstanceId"] == 0xFFFFFFFF


def test_the_energy_counter_is_the_exact_integral_of_power(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.energy_base_mj = 1_000
    gpu.set("power_mw", 100_001).set("power_mw", Wave(period_ms=100, on_ms=25, high=700_003, low=70_001), 1_500)
    gpu.energy_resets.append((10_000, 7))
    asked = [0, 1, 1_499, 1_537, 3_600_000, 9_999, 10_000, 10_001]
    asked.sort()
    found = ask(script, *([at_ms, "nvmlDeviceGetTotalEnergyConsumption", GPU] for at_ms in asked))
    # before 1,500 ms: t × 100,001 µJ; the wave's mean is 0.25 × 700,003 + 0.75 × 70,001 mW = 227,501.5 mW
    at_1537 = (1_500 * 100_001 + 25 * 700_003 + 12 * 70_001) // 1_000
    at_9999 = (1_500 * 100_001 + 85 * 100 * 227_501 + 8_500 // 2 - 70_001) // 1_000
    at_10001 = 7 + 700_003 // 1_000
    hour = 7 + (3_600_000 - 10_000) * 455_003 // 2_000
    expected = [0, 100, 1_499 * 100_001 // 1_000, at_1537, at_9999]
    assert found == [*(1_000 + value for value in expected), 7, at_10001, hour]


def test_power_is_averaged_over_a_second_and_the_instant_field_is_not(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.act(0, power_w=100).act(1_000, power_w=500)
    power, values = ask(script, [1_250, "nvmlDeviceGetPowerUsage", GPU], [1_250, "fields", GPU, [185, 186, 190]])
    assert power == 200_000
    stamp = (WALL_START_MS + 1_250) * 1_000
    assert values == [[0, 200_000, stamp], [0, 500_000, stamp], [0, 700_000, stamp]]


def test_field_values_answer_one_by_one(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.act(0, power_w=100).set("memory_temperature_c", 61).set("throttle_power", FULL // 4)
    gpu.set("throttle_thermal", 0).set("throttle_thermal", FULL, 1_000)
    gpu.set("remap_corrected", 1).set("remap_uncorrected", 2).set("remap_pending", 1).set("remap_failure", 0)
    gpu.set("recovery_action", 2)
    script.rule("nvmlDeviceGetFieldValues", from_ms=3_000, field=(83, NOT_SUPPORTED))
    ids = [82, 83, 74, 269, 270, 271, 142, 143, 144, 145, 230, 4_711]
    early, late = ask(script, [2_000, "fields", GPU, ids], [3_000, "fields", GPU, [83, 82]])
    assert isinstance(early, list)
    quarter_ns, second_ns = 500_000_000, 1_000_000_000
    values = [61, 200_000, quarter_ns, second_ns, 0, 0, 1, 2, 1, 0, 2, None]
    assert [entry[1] for entry in early] == values
    assert [entry[0] for entry in early] == [0] * 11 + [NOT_SUPPORTED]
    assert isinstance(late, list)
    assert [entry[:2] for entry in late] == [[NOT_SUPPORTED, None], [0, 61]]


def test_slow_quantities_and_health_are_read_as_scripted(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.set("temperature_c", 44).set("sm_clock_mhz", 345).set("clock_reasons", 1).set("ecc_uncorrected", 3)
    gpu.set("remap_failure", 1)
    found = ask(
        script,
        [0, "nvmlDeviceGetTemperature", GPU, 0],
        [0, "nvmlDeviceGetClockInfo", GPU, 1],
        [0, "nvmlDeviceGetClockInfo", GPU, 2],
        [0, "nvmlDeviceGetCurrentClocksEventReasons", GPU],
        [0, "nvmlDeviceGetPerformanceState", GPU],
        [0, "nvmlDeviceGetTotalEccErrors", GPU, 0, 1],
        [0, "nvmlDeviceGetTotalEccErrors", GPU, 1, 1],
        [0, "nvmlDeviceGetRemappedRows", GPU],
        [0, "nvmlDeviceGetAccountingMode", GPU],
        [0, "nvmlDeviceGetMigMode", GPU],
        [0, "nvmlDeviceGetMaxMigDeviceCount", GPU],
        [0, "nvmlDeviceGetMigDeviceHandleByIndex", GPU, 0],
    )
    assert found == [44, 345, 2619, 1, 0, 0, 3, [0, 0, 0, 1], 0, [0, 0], 0, error(NOT_FOUND)]


def test_utilisation_is_the_share_of_the_last_period(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.set("utilization", FULL).set("utilization", 0, 5_000)
    gpu.set("utilization", Wave(period_ms=200, on_ms=70), 8_000).set("utilization", Failure(), 10_000)
    gpu.set("utilization", FULL, 11_000)
    asked = [0, 5_000, 5_250, 6_000, 9_500, 10_500, 11_000, 11_001]
    found = ask(script, *([at_ms, "nvmlDeviceGetUtilizationRates", GPU] for at_ms in asked))
    shares = [answer["gpu"] if isinstance(answer, dict) and "gpu" in answer else answer for answer in found]
    assert shares == [100, 100, 75, 0, 35, error(NOT_SUPPORTED), 100, 100]


def test_the_period_of_utilisation_can_be_a_sixth_of_a_second(ask: Ask) -> None:
    script, gpu = one_gpu()
    script.utilization_period_ms = 166
    gpu.set("utilization", FULL).set("utilization", 0, 5_000)
    (answer,) = ask(script, [5_083, "nvmlDeviceGetUtilizationRates", GPU])
    assert answer == {"gpu": 50, "memory": 0}


def test_the_sample_ring_hands_out_what_is_newer_and_then_nothing(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.set("utilization", FULL).set("utilization", 0, 500).act(0, power_w=90)
    start_us = WALL_START_MS * 1_000
    newest, again, newer, power, long, encoder = ask(
        script,
        [1_000, "samples", GPU, 1, 0],
        [1_000, "samples", GPU, 1, start_us + 1_000_000],
        [1_500, "samples", GPU, 1, start_us + 1_000_000],
        [1_500, "samples", GPU, 0, start_us + 1_400_000],
        [60_000, "samples", GPU, 1, 0],
        [60_000, "samples", GPU, 3, 0],
    )
    assert newest == [[start_us + k * 1_000_000 // 6, 100 if k <= 3 else 0] for k in range(1, 7)]
    assert again == error(NOT_FOUND)
    assert isinstance(newer, list)
    assert len(newer) == 3
    assert power == [[start_us + 1_500_000, 90_000]]
    assert isinstance(long, list)
    assert (len(long), long[-1][0]) == (120, start_us + 60_000_000)
    assert encoder == error(NOT_SUPPORTED)


def test_gpm_is_the_exact_mean_over_the_callers_own_interval(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.set("utilization", Wave(period_ms=300, on_ms=100)).set("sm", 250_000).set("pcie_tx_bytes", 3 << 20)
    gpu.set("tensor", Failure(NOT_SUPPORTED))
    found = ask(
        script,
        [None, "nvmlGpmQueryDeviceSupport", GPU],
        [0, "gpm_sample", GPU],
        [99, "gpm_sample", GPU],
        [450, "gpm_sample", GPU],
        [None, "gpm_metrics", 0, 2, [1, 2, 5, 10, 20]],
        [None, "gpm_metrics", 0, 1, [1]],
        [None, "gpm_metrics", 2, 2, [1]],
    )
    assert found[0] == {"version": 1, "isSupportedDevice": 1}
    assert isinstance(found[4], list)
    codes, values = zip(*found[4], strict=True)
    assert codes == (0, 0, NOT_SUPPORTED, NOT_SUPPORTED, 0)
    # 200 of the first 450 ms
    assert math.isclose(values[0], 100 * 200 / 450)
    assert math.isclose(values[1], 25)
    assert math.isclose(values[4], 3)
    assert found[5] == [[0, "nan"]]
    assert found[6] == [[0, "nan"]]


def test_a_gpu_without_gpm_says_so(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.gpm = False
    support, sample = ask(script, [None, "nvmlGpmQueryDeviceSupport", GPU], [0, "gpm_sample", GPU])
    assert support == {"version": 1, "isSupportedDevice": 0}
    assert sample == error(NOT_SUPPORTED)


def test_an_xid_reaches_a_set_registered_before_it_once(ask: Ask) -> None:
    script, gpu = one_gpu()
    gpu.xids += [(1_000, 31), (3_000, 79), (3_000, 94)]
    found = ask(
        script,
        [2_000, "nvmlDeviceGetSupportedEventTypes", GPU],
        [2_000, "watch", GPU, 0x10000],
        [2_000, "watch", GPU, 8],
        [2_000, "wait", 0],
        [3_000, "wait", 0],
        [3_000, "wait", 0],
        [3_000, "wait", 5],
    )
    nothing = error(TIMEOUT)
    assert found == [11, error(NOT_SUPPORTED), None, nothing, [UUID, 8, 79], [UUID, 8, 94], nothing]
