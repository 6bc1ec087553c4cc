# SPDX-License-Identifier: Apache-2.0
"""Health before the scripted library: Xid errors, the batch of fields, counters; held against the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.oracle import Run, expect
from tests.abi.readings import account, sealed
from tests.abi.script import FULL, NOT_SUPPORTED, UNKNOWN, Gpu, Script
from tests.abi.stage import WALL_START_MS, Stage
from tests.abi.truth import Truth

pytestmark = pytest.mark.abi
PID = 4_200_001
AGENT = ["-m", "tests.abi.run_agent"]
FIELDS, WAIT = "nvmlDeviceGetFieldValues", "nvmlEventSetWait_v2"
END_MS = 301_000

Play = Callable[[Script], tuple[Truth, Truth]]


@pytest.fixture
def play(stage: Callable[..., Stage], tmp_path: Path) -> Play:
    """`play(script)`: what the agent sealed, and what the oracle says it should have."""

    def both(script: Script) -> tuple[Truth, Truth]:
        stage(script, duration_ms=END_MS).run([*AGENT, str(tmp_path / "state")])
        truth = expect(script, [Run(start_ms=0, end_ms=END_MS)], wall_start_ms=WALL_START_MS)
        return account(tmp_path / "state"), truth

    return both


def idle(script: Script) -> Gpu:
    return script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0)


def working(script: Script, percent: int = 90) -> Gpu:
    return script.add_gpu().act(0, utilization_pct=percent, power_w=500, memory_gib=60).run(PID + len(script.gpus))


def first_cell(truth: Truth, gpu: Gpu) -> Counter[str]:
    return truth[gpu.uuid][WALL_START_MS].states_ms


# ---------------------------------------------------------------------------------------------- Xid errors


def test_fatal_xids_open_down_until_the_next_health_read_and_others_are_counted(play: Play) -> None:
    script = Script()
    fatal, application, working_on = idle(script), idle(script), working(script)
    fatal.xids += [(103_500, 48), (103_500, 48), (200_000, 63)]
    application.xids += [(50_000, 31), (50_001, 13), (120_000, 43)]
    working_on.xids += [(103_500, 62)]
    found, truth = play(script)
    assert found == truth
    assert first_cell(truth, fatal) == {"down": 6_000, "free": 294_000}, "seen at 104 s, read clean at 110 s"
    assert first_cell(truth, application) == {"free": 300_000}
    assert first_cell(truth, working_on) == {"busy": 300_000}
    assert truth[fatal.uuid][WALL_START_MS].xids == {48: 2, 63: 1}


def test_a_fatal_xid_stands_while_nothing_says_that_health_is_clean(play: Play) -> None:
    script = Script()
    gpu = idle(script)
    gpu.xids.append((53_500, 95))
    gpu.set("recovery_action", 0).set("recovery_action", 1, 58_000).set("recovery_action", 0, 95_000)
    script.rule(FIELDS, from_ms=105_000, to_ms=185_000, error=UNKNOWN)
    script.rule("nvmlDeviceGetRemappedRows", from_ms=105_000, to_ms=185_000, error=UNKNOWN)
    other = idle(script)
    other.xids.append((110_500, 79))
    found, truth = play(script)
    assert found == truth
    assert first_cell(truth, gpu)["down"] == 46_000
    assert first_cell(truth, other)["down"] == 79_000


def test_an_xid_of_a_gpu_instance_is_sealed_with_its_gpu(play: Play) -> None:
    script = Script()
    idle(script).xids += [(20_000, 31, 3), (20_000, 13, 4)]
    found, truth = play(script)
    assert found == truth
    assert next(iter(truth.values()))[WALL_START_MS].xids == {31: 1, 13: 1}


def test_a_fatal_xid_of_a_gpu_instance_makes_its_slices_down_and_no_others(play: Play) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, power_w=90, memory_gib=0).divide()
    names = {}
    for slot, (profile, number) in enumerate((("3g.40gb", 1), ("2g.20gb", 3), ("1g.10gb", 9))):
        made = gpu.add_instance(profile, instance_id=number, slot=slot).act(0, utilization_pct=0, memory_gib=0)
        names[number] = made.devices[0].uuid
    gpu.xids += [(103_500, 48, 3), (153_500, 95), (203_500, 62, 5)]
    found, truth = play(script)
    assert found == truth
    down = {
        number: truth[gpu.uuid][WALL_START_MS].instances[uuid].states_slice_ms["down"] for number, uuid in names.items()
    }
    # Heard at 104 s and read clean at 110 s; of the whole board at 154 s and until 160 s; the last is of nobody there.
    assert down == {1: 3 * 6_000, 3: 2 * 12_000, 9: 6_000}
    assert 7 * first_cell(truth, gpu)["down"] == 7 * 6_000 + 2 * 6_000


def test_an_instance_that_takes_the_id_of_one_with_a_fatal_xid_is_not_down(play: Play) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, power_w=90, memory_gib=0).divide()
    gpu.add_instance("2g.20gb", 0, 105_500, instance_id=3, slot=0).act(0, utilization_pct=0, memory_gib=0)
    gpu.add_instance("2g.20gb", 105_500, instance_id=3, slot=0).act(0, utilization_pct=0, memory_gib=0)
    gpu.xids += [(103_500, 48, 3)]
    found, truth = play(script)
    assert found == truth
    assert 7 * first_cell(truth, gpu)["down"] == 2 * 2_000, "from 104 s, when it is heard, to 106 s, when it is gone"


def test_a_fatal_xid_of_an_instance_of_a_gpu_that_is_not_divided_is_the_gpus(play: Play) -> None:
    script = Script()
    gpu = idle(script)
    gpu.xids += [(103_500, 48, 3)]
    found, truth = play(script)
    assert found == truth
    assert first_cell(truth, gpu)["down"] == 6_000


def test_a_lost_gpu_takes_no_errors_from_those_that_shared_its_set(play: Play) -> None:
    script = Script()
    lost, well = idle(script), idle(script)
    lost.lose(50_500, 170_500)
    lost.xids += [(50_500, 79), (60_500, 45), (190_000, 31)]
    well.xids += [(at_ms, 31) for at_ms in range(10_250, 290_000, 10_000)]
    found, truth = play(script)
    assert found == truth
    assert truth[well.uuid][WALL_START_MS].xids == {31: 28}
    assert truth[lost.uuid][WALL_START_MS].xids == {79: 1, 45: 1, 31: 1}


def test_a_wait_that_fails_at_once_for_ever_is_made_ever_more_rarely(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script = Script()
    idle(script).lose(50_500)
    idle(script)
    put = stage(script, duration_ms=END_MS, trace=True)
    put.run([*AGENT, str(tmp_path / "state")])
    waits = [begin_ns // 10**9 for begin_ns, _, name, gpu, _ in put.trace() if (name, gpu) == (WAIT, -1)]
    # The shared set's, and from 51 s on the lost GPU's, which cannot be registered anywhere else.
    assert waits == [*range(1, 52), 51, 52, 54, 58, 66, 82, 114, 174, 234, 294]
    others = [begin_ns // 10**9 for begin_ns, _, name, gpu, _ in put.trace() if (name, gpu) == (WAIT, 1)]
    assert others == [*range(51, 301)], "the other has a set of its own, then a shared one again"
    assert account(tmp_path / "state") == expect(script, [Run(start_ms=0, end_ms=END_MS)], wall_start_ms=WALL_START_MS)


@pytest.mark.parametrize("function", ["nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents", WAIT])
def test_events_that_are_not_offered_are_asked_for_once(
    stage: Callable[..., Stage], tmp_path: Path, function: str
) -> None:
    script = Script().rule(function, error=NOT_SUPPORTED)
    idle(script).xids.append((20_000, 79))
    put = stage(script, duration_ms=END_MS)
    put.run([*AGENT, str(tmp_path / "state")])
    assert put.calls()[function] == 1
    truth = expect(script, [Run(start_ms=0, end_ms=END_MS)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "state") == truth
    assert not truth[script.gpus[0].uuid][WALL_START_MS].xids


# ---------------------------------------------------------------------------------------------- fields and counters


def test_there_is_room_for_the_one_entry_more_that_nvml_touches(stage: Callable[..., Stage], tmp_path: Path) -> None:
    script = Script(fields_touched=True)
    idle(script)
    put = stage(script, duration_ms=20_000)
    put.env["PYTHONMALLOC"] = "malloc"
    put.run([*AGENT, str(tmp_path / "state")])
    assert put.calls()[FIELDS] == 20


def test_the_bindings_own_call_would_leave_no_such_room(stage: Callable[..., Stage]) -> None:
    """What makes the test above one that can fail."""
    script = Script(fields_touched=True)
    idle(script)
    put = stage(script)
    put.env["PYTHONMALLOC"] = "malloc"
    with pytest.raises(AssertionError, match="no room after the last of 9 entries"):
        put.probe([[None, "nvmlInit"], [None, "fields", "gpu:0", [74, 269, 270, 271, 142, 143, 144, 145, 230]]])


@pytest.mark.parametrize("field", [74, 142, 144, 145, 230])
@pytest.mark.parametrize("code", [UNKNOWN, NOT_SUPPORTED])
def test_one_field_that_fails_costs_only_what_it_says(play: Play, field: int, code: int) -> None:
    script = Script()
    gpu = idle(script)
    gpu.set("recovery_action", 0).set("recovery_action", 4, 100_500).set("recovery_action", 0, 150_500)
    gpu.set("remap_failure", 0).set("remap_failure", 1, 200_500)
    script.rule(FIELDS, field=(field, code))
    found, truth = play(script)
    assert found == truth
    # The action from the read at 110 s to that at 160 s, the rows from 210 s on: from a call of their own where the
    # field is not offered.
    by_action, by_rows = 50_000, 91_000
    expected = {(230, UNKNOWN): by_rows, (230, NOT_SUPPORTED): by_rows, (145, UNKNOWN): by_action}
    assert first_cell(truth, gpu)["down"] == expected.get((field, code), by_action + by_rows)


def test_throttled_time_is_sealed_by_reason_and_cell(stage: Callable[..., Stage], tmp_path: Path) -> None:
    script = Script()
    gpu = working(script)
    gpu.set("throttle_power", FULL)
    gpu.set("throttle_thermal", 0).set("throttle_thermal", 250_000, 100_000).set("throttle_thermal", 0, 140_000)
    gpu.set("throttle_brake", 0).set("throttle_brake", FULL, 299_000)
    put = stage(script, duration_ms=601_000)
    put.run([*AGENT, str(tmp_path / "state")])
    first, second = (core["gpus"][0].get("throttle_ms", {}) for core in sealed(tmp_path / "state"))
    assert first == {"sw_power_cap": 300_000, "sw_thermal": 10_000, "hw_power_brake": 1_000}
    assert second == {"sw_power_cap": 300_000, "hw_power_brake": 300_000}


def test_a_slow_first_tick_of_a_cell_divides_what_was_throttled_before_it(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script = Script()
    working(script).set("throttle_power", FULL)
    script.rule("nvmlDeviceGetMemoryInfo_v2", from_ms=299_000, to_ms=299_500, latency_ms=1_500)
    put = stage(script, duration_ms=601_000)
    put.run([*AGENT, str(tmp_path / "state")])
    for core in sealed(tmp_path / "state"):
        assert core["gpus"][0]["throttle_ms"] == {"sw_power_cap": core["end_ms"] - core["start_ms"]}


def test_memory_errors_are_counted_from_the_last_read_and_a_fall_counts_nothing(play: Play) -> None:
    script = Script()
    gpu = idle(script)
    gpu.set("ecc_corrected", 7).set("ecc_corrected", 9, 15_000).set("ecc_corrected", 1, 55_000)
    gpu.set("ecc_corrected", 5, 95_000)
    gpu.set("ecc_uncorrected", 0).set("ecc_uncorrected", 1, 150_000)
    found, truth = play(script)
    assert found == truth
    assert truth[gpu.uuid][WALL_START_MS].ecc == {"corrected": 2 + 4, "uncorrected": 1}
