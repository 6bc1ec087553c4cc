# SPDX-License-Identifier: Apache-2.0
"""The scripted library through the real nvidia-ml-py, in a process of its own."""

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.abi.answers import MS_NS, GpuAnswers
from tests.abi.build import build
from tests.abi.script import (
    DRIVER_NOT_LOADED,
    FULL,
    FUNCTION_NOT_FOUND,
    GIB,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    LIB_RM_VERSION_MISMATCH,
    NOT_FOUND,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    TIMEOUT,
    UNINITIALIZED,
    UNKNOWN,
    Failure,
    Gpu,
    Outage,
    Process,
    Script,
    Signal,
    Wave,
)
from tests.abi.stage import WALL_START_MS, Stage, set_up

pytestmark = pytest.mark.abi
GPU = "gpu:0"
Ask = Callable[..., list[object]]
UUID = "GPU-00000000-0000-4000-8000-000000000000"
MEMORY_V2 = 0x02000028


@pytest.fixture
def ask(stage: Callable[..., Stage]) -> Ask:
    """`ask(script, request, ...)`: the answers to the requests, after nvmlInit at script time 0."""

    def answers(script: Script, *requests: list[object], **options: object) -> list[object]:
        return stage(script, **options).probe([[None, "nvmlInit"], *requests])[1:]

    return answers


def one_gpu() -> tuple[Script, Gpu]:
    script = Script()
    return script, script.add_gpu()


def error(code: int) -> dict[str, int]:
    return {"error": code}


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
    assert found == [44, 345, 2619, 1, 0, 0, 3, [0, 0, 0, 1], 0, [0, 0], 7, error(NOT_FOUND)]


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


def test_a_lost_gpu_answers_nothing_and_the_others_go_on(ask: Ask) -> None:
    script, gpu = one_gpu()
    script.add_gpu()
    gpu.lose(1_000, 2_000)
    gpu.outages.append(Outage(from_ms=3_000, to_ms=4_000, code=RESET_REQUIRED, handle_fails=True))
    power = "nvmlDeviceGetPowerUsage"
    found = ask(
        script,
        [999, power, GPU],
        [1_000, power, GPU],
        [1_000, "nvmlDeviceGetUUID", GPU],
        [1_000, "nvmlDeviceGetHandleByIndex", 0],
        [1_000, "nvmlDeviceGetCount"],
        [1_000, power, "gpu:1"],
        [2_000, power, GPU],
        [3_000, power, GPU],
        [3_000, "nvmlDeviceGetHandleByIndex", 0],
    )
    lost, reset = error(GPU_IS_LOST), error(RESET_REQUIRED)
    assert found == [70_000, lost, lost, True, 2, 70_000, 70_000, reset, reset]


def test_rules_pick_function_gpu_time_and_the_kth_of_n_calls(ask: Ask) -> None:
    script, _ = one_gpu()
    script.add_gpu()
    script.rule("nvmlDeviceGetPowerUsage", gpu=1, from_ms=1_000, to_ms=2_000, error=UNKNOWN)
    script.rule("nvmlDeviceGetName", fail=(1, 3, UNKNOWN))
    power, name = "nvmlDeviceGetPowerUsage", [None, "nvmlDeviceGetName", GPU]
    others = [[1_000, power, GPU], [1_000, power, "gpu:1"], [2_000, power, "gpu:1"]]
    assert ask(script, *others) == [70_000, error(UNKNOWN), 70_000]
    names = ask(script, *([name] * 6))
    assert [answer == error(UNKNOWN) for answer in names] == [False, True, False, False, True, False]


def test_a_driver_that_is_not_there_yet_fails_init_until_it_is(stage: Callable[..., Stage]) -> None:
    script, _ = one_gpu()
    script.rule("nvmlInitWithFlags", to_ms=5_000, error=DRIVER_NOT_LOADED)
    script.rule("nvmlInitWithFlags", from_ms=5_000, to_ms=6_000, error=LIB_RM_VERSION_MISMATCH)
    requests = [
        [0, "nvmlInit"],
        [0, "nvmlDeviceGetCount"],
        [5_000, "nvmlInit"],
        [6_000, "nvmlInit"],
        [None, "nvmlDeviceGetCount"],
        [None, "nvmlShutdown"],
        [None, "nvmlDeviceGetCount"],
        [None, "nvmlShutdown"],
    ]
    codes = [error(DRIVER_NOT_LOADED), error(UNINITIALIZED), error(LIB_RM_VERSION_MISMATCH)]
    assert stage(script).probe(requests) == [*codes, None, 1, None, error(UNINITIALIZED), error(UNINITIALIZED)]


def test_a_calls_latency_moves_the_shared_time(ask: Ask) -> None:
    script, _ = one_gpu()
    script.rule("nvmlDeviceGetTotalEnergyConsumption", from_ms=1_000, to_ms=2_000, latency_ms=400)
    energy, now = [None, "nvmlDeviceGetTotalEnergyConsumption", GPU], [None, "now_ms"]
    found = ask(script, [1_000, "now_ms"], energy, now, energy, now, energy, now, energy, now)
    # the answer is of the moment the call returns; from 2,000 ms on calls are quick again
    assert found == [1_000, 98_000, 1_400, 126_000, 1_800, 154_000, 2_200, 154_000, 2_200]


def test_the_wall_clock_steps_where_the_script_says(ask: Ask) -> None:
    script, _ = one_gpu()
    script.steps_ms.append((2_000, 3_600_000))
    before, after = ask(script, [1_999, "fields", GPU, [186]], [2_000, "fields", GPU, [186]])
    assert before == [[0, 70_000, (WALL_START_MS + 1_999) * 1_000]]
    assert after == [[0, 70_000, (WALL_START_MS + 2_000 + 3_600_000) * 1_000]]


def test_calls_are_counted_and_traced_with_their_times(stage: Callable[..., Stage]) -> None:
    script, _ = one_gpu()
    script.rule("nvmlDeviceGetName", latency_ms=5, from_ms=1_000).rule("nvmlDeviceGetName", gpu=0, error=UNKNOWN)
    put = stage(script, trace=True)
    put.probe([[None, "nvmlInit"], [1_000, "nvmlDeviceGetName", GPU], [None, "nvmlDeviceGetCount"]])
    counts = {"nvmlInitWithFlags": 1, "nvmlDeviceGetHandleByIndex_v2": 1, "nvmlDeviceGetName": 1}
    assert put.calls() == counts | {"nvmlDeviceGetCount_v2": 1}
    second_ns = 1_000 * MS_NS
    assert put.trace()[1:] == [
        (second_ns, second_ns, "nvmlDeviceGetHandleByIndex_v2", 0, 0),
        (second_ns, second_ns + 5 * MS_NS, "nvmlDeviceGetName", 0, UNKNOWN),
        (second_ns + 5 * MS_NS, second_ns + 5 * MS_NS, "nvmlDeviceGetCount_v2", -1, 0),
    ]


def test_without_a_shared_clock_the_library_keeps_real_time(stage: Callable[..., Stage]) -> None:
    script, gpu = one_gpu()
    gpu.act(0, power_w=1_000)
    script.rule("nvmlDeviceGetName", latency_ms=20)
    energy = [None, "nvmlDeviceGetTotalEnergyConsumption", GPU]
    found = stage(script, virtual=False).probe([[None, "nvmlInit"], energy, [None, "nvmlDeviceGetName", GPU], energy])
    _, before, _, after = found
    assert isinstance(before, int)
    assert isinstance(after, int)
    # a kilowatt for the 20 ms that the call took at the least
    assert after - before >= 20_000


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("track 0 utilisation 0 const 1", "line 6: unknown track 'utilisation'"),
        ("track 0 power_mw 5 const 1", "line 6: a track starts at 0 and its moments rise"),
        ("rule nvmlDeviceGetFanSpeed * 0 end error 3", "line 6: no function 'nvmlDeviceGetFanSpeed' in this library"),
        ("lost 3 0 end", "line 6: no such GPU"),
        ("lost 0 0", "line 6: a field is missing"),
        ("lost 0 0 end handle more", "line 6: 'more' is left over"),
        ("rule * * 0 end latency soon", "line 6: 'soon' is not a whole number"),
    ],
)
def test_a_mistake_in_a_script_ends_the_program_with_one_sentence(
    stage: Callable[..., Stage], line: str, complaint: str
) -> None:
    put = stage(Script())
    text = f"{Script().text()}gpu 0\n{line}\n"
    (put.folder / "script.txt").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=complaint.replace("(", r"\(")) as caught:
        put.probe([[None, "nvmlInit"]])
    assert "ended with 97" in str(caught.value)


signals = st.one_of(
    st.integers(0, FULL),
    st.builds(Failure, st.sampled_from([NOT_SUPPORTED, UNKNOWN])),
    st.integers(1, 5_000).flatmap(
        lambda period_ms: st.builds(
            Wave,
            period_ms=st.just(period_ms),
            on_ms=st.integers(0, period_ms),
            phase_ms=st.integers(-10_000, 10_000),
            high=st.integers(0, FULL),
            low=st.integers(0, FULL),
        )
    ),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_library_and_oracle_read_every_script_alike(library: Path, tmp_path: Path, data: st.DataObject) -> None:
    script, gpu = one_gpu()
    for track in ("utilization", "memory_utilization", "power_mw", "memory_used_bytes"):
        moments = sorted(data.draw(st.sets(st.integers(1, 60_000), max_size=5)))
        spans: list[Signal | int] = data.draw(st.lists(signals, min_size=len(moments) + 1, max_size=len(moments) + 1))
        for at_ms, signal in zip([0, *moments], spans, strict=True):
            gpu.set(track, signal, at_ms)
    asked = sorted(data.draw(st.lists(st.integers(0, 70_000), min_size=1, max_size=40)))
    requests: list[object] = [[None, "nvmlInit"]]
    expected: list[object] = []
    answers = GpuAnswers(script, 0)
    for at_ms in asked:
        at_ns = at_ms * MS_NS
        requests += [[at_ms, "nvmlDeviceGetUtilizationRates", GPU], [None, "nvmlDeviceGetTotalEnergyConsumption", GPU]]
        requests += [[None, "nvmlDeviceGetMemoryInfo", GPU, MEMORY_V2]]
        values = [answers.utilization_pct(at_ns), answers.energy_mj(at_ns)]
        values.append(answers.track("memory_used_bytes").value(at_ns))
        expected += [error(value.code) if isinstance(value, Failure) else value for value in values]
    found = set_up(tmp_path / "stage", library, script).probe(requests)[1:]
    keys = ["gpu", None, "used"] * len(asked)
    plain = [
        answer.get(key, answer) if isinstance(answer, dict) else answer for key, answer in zip(keys, found, strict=True)
    ]
    assert plain == expected


def test_the_library_is_built_once_per_state_of_its_sources(library: Path) -> None:
    before = (library / "libnvidia-ml.so.1").stat().st_mtime_ns
    assert build() == library
    assert (library / "libnvidia-ml.so.1").stat().st_mtime_ns == before


def test_the_library_exports_nvml_functions_and_one_helper_only(library: Path) -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(library / "libnvidia-ml.so.1")], capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("nm is missing: install binutils")
    names = {line.split()[-1] for line in listing.stdout.splitlines()}
    assert {name for name in names if not name.startswith("nvml")} == {"gpuledger_abi_calls"}
    assert "nvmlDeviceGetUtilizationRates" in names
