# SPDX-License-Identifier: Apache-2.0
"""The scripted library's failures, rules, time and making, through the real nvidia-ml-py."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.abi.answers import MS_NS, GpuAnswers
from tests.abi.asking import GPU, MEMORY_V2, Ask, error, one_gpu
from tests.abi.build import build
from tests.abi.script import (
    DRIVER_NOT_LOADED,
    FULL,
    GPU_IS_LOST,
    LIB_RM_VERSION_MISMATCH,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    UNINITIALIZED,
    UNKNOWN,
    Failure,
    Outage,
    Script,
    Signal,
    Wave,
)
from tests.abi.stage import WALL_START_MS, Stage, set_up

SHT_DYNSYM, SHN_UNDEF, STB_LOCAL = 11, 0, 0

pytestmark = pytest.mark.abi


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
        ("instance 0/1 1 3 1 0 end 3g.40gb", "line 6: instances of a GPU are declared as GPU/0, GPU/1"),
        ("device 0/0 0 0 MIG-x 0 end", "line 6: no such instance"),
        ("device 0 0 0 MIG-x 0 end", "line 6: a MIG device is of an instance"),
        ("track 0/2 sm 0 const 1", "line 6: no such instance"),
        ("rule nvmlDeviceGetUUID 0/0 0 end error 3", "line 6: no such instance"),
        ("mig 0 0", "line 6: a field is missing"),
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


def exported_symbols(library: Path) -> set[str]:
    """Return the symbols that a 64-bit little-endian ELF library defines for others (System V ABI, .dynsym)."""
    data = library.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + index * size) for index in range(count)]
    names: set[str] = set()
    for section in sections:
        if section[1] != SHT_DYNSYM:
            continue
        strings = sections[section[6]][4]
        for offset in range(section[4], section[4] + section[5], section[9]):
            name, info, _, home, _, _ = struct.unpack_from("<IBBHQQ", data, offset)
            if home != SHN_UNDEF and info >> 4 != STB_LOCAL:
                start = strings + name
                names.add(data[start : data.index(b"\0", start)].decode("ascii"))
    return names


def test_the_library_exports_nvml_functions_and_one_helper_only(library: Path) -> None:
    names = exported_symbols(library / "libnvidia-ml.so.1")
    assert {name for name in names if not name.startswith("nvml")} == {"gpuledger_abi_calls"}
    assert "nvmlDeviceGetUtilizationRates" in names
