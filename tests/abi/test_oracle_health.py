# SPDX-License-Identifier: Apache-2.0
"""The oracle's health against tables worked out by hand: it must be right before anything is held against it."""

import pytest

from tests.abi.oracle import Run, expect
from tests.abi.script import UNKNOWN, Gpu, Script
from tests.abi.stage import WALL_START_MS
from tests.abi.truth import CellTruth

FIELDS, ROWS = "nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows"


def one_gpu(percent: float = 0) -> tuple[Script, Gpu]:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=percent, power_w=70, memory_gib=0)
    return script.polled(), gpu


def cell(script: Script, end_ms: int) -> CellTruth:
    truth = expect(script, [Run(start_ms=0, end_ms=end_ms)], wall_start_ms=WALL_START_MS)
    return truth[script.gpus[0].uuid][WALL_START_MS]


def seconds(found: CellTruth) -> dict[str, float]:
    return {name: ms / 1000 for name, ms in (found.states_ms + found.uncovered_ms).items()}


def test_health_is_read_at_0_10_20_seconds_and_a_fault_is_down_from_then_on() -> None:
    script, gpu = one_gpu()
    gpu.set("recovery_action", 0).set("recovery_action", 2, 10_500).set("recovery_action", 0, 25_000)
    # the read at 20 s finds it, that at 30 s finds it gone: ticks 20 to 29 are down
    assert seconds(cell(script, 41_000)) == {"free": 30, "down": 10}


@pytest.mark.parametrize(("xid", "down_s"), [(48, 6), (79, 6), (31, 0), (63, 0)])
def test_a_fatal_xid_is_down_until_the_next_read(xid: int, down_s: int) -> None:
    script, gpu = one_gpu()
    gpu.xids.append((13_500, xid))
    found = cell(script, 41_000)
    # heard at 14 s, read clean at 20 s
    assert found.states_ms["down"] == down_s * 1_000
    assert found.xids == {xid: 1}


def test_a_fatal_xid_in_the_tick_of_a_read_waits_for_the_next_one() -> None:
    script, gpu = one_gpu()
    gpu.xids.append((19_500, 48))
    assert seconds(cell(script, 41_000)) == {"free": 30, "down": 10}


def test_a_fatal_xid_of_a_gpu_that_works_is_not_down() -> None:
    script, gpu = one_gpu(percent=50)
    gpu.run(4242).xids.append((13_500, 48))
    assert seconds(cell(script, 41_000)) == {"busy": 40}


def test_an_error_before_the_first_tick_is_not_heard_and_one_of_the_last_is_not_sealed() -> None:
    script, gpu = one_gpu()
    gpu.xids += [(0, 13), (5_000, 31)]
    truth = expect(script, [Run(start_ms=1_000, end_ms=11_000)], wall_start_ms=WALL_START_MS)
    assert truth[gpu.uuid][WALL_START_MS].xids == {31: 1}


def test_health_that_cannot_be_read_for_thirty_seconds_is_unknown() -> None:
    script, _ = one_gpu()
    script.rule(FIELDS, from_ms=500, error=UNKNOWN).rule(ROWS, from_ms=500, error=UNKNOWN)
    # known until 30 s after the read at 0 s
    assert seconds(cell(script, 41_000)) == {"free": 30, "unmeasured": 10}


def test_memory_errors_are_what_was_added_between_two_reads() -> None:
    script, gpu = one_gpu()
    gpu.set("ecc_corrected", 100).set("ecc_corrected", 103, 15_000).set("ecc_corrected", 0, 25_000)
    gpu.set("ecc_corrected", 1, 35_000)
    assert cell(script, 41_000).ecc == {"corrected": 3 + 1}


def test_a_minute_of_unknown_errors_is_the_agents_last() -> None:
    script, _ = one_gpu()
    script.rule("*", from_ms=9_500, error=UNKNOWN)
    # first met at 10 s; the tick at 70 s is the last
    assert seconds(cell(script, 200_000)) == {"free": 9, "calls_failed": 61}
