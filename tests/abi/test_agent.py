# SPDX-License-Identifier: Apache-2.0
"""The real agent on the real nvidia-ml-py before the scripted library, held against the oracle to the millisecond."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.oracle import Run, expect
from tests.abi.readings import account
from tests.abi.script import (
    DRIVER_NOT_LOADED,
    FULL,
    LIB_RM_VERSION_MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    UNINITIALIZED,
    UNKNOWN,
    Failure,
    Gpu,
    Outage,
    Script,
    Wave,
)
from tests.abi.stage import WALL_START_MS, Stage
from tests.abi.truth import CELL_MS, Truth

pytestmark = pytest.mark.abi
# Above any pid the kernel hands out, so that no process of this machine is ever meant.
PID = 4_200_001
COMPUTE = "nvmlDeviceGetComputeRunningProcesses_v3"
GRAPHICS = "nvmlDeviceGetGraphicsRunningProcesses_v3"
UTILIZATION = "nvmlDeviceGetUtilizationRates"
SAMPLES = "nvmlDeviceGetSamples"
GPM_TAKE, GPM_METRICS = "nvmlGpmSampleGet", "nvmlGpmMetricsGet"
MEMORY = "nvmlDeviceGetMemoryInfo_v2"
FIELDS = "nvmlDeviceGetFieldValues"
ROWS = "nvmlDeviceGetRemappedRows"

Play = Callable[..., tuple[Truth, Truth]]


@pytest.fixture
def play(stage: Callable[..., Stage], tmp_path: Path) -> Play:
    """`play(script, end_ms, ...)`: what the agent sealed, and what the oracle says it should have."""

    def both(
        script: Script, end_ms: int, *, start_ms: int = WALL_START_MS, interval_ms: int = 1_000
    ) -> tuple[Truth, Truth]:
        put = stage(script, duration_ms=end_ms, wall_start_ms=start_ms)
        put.run(["-m", "tests.abi.run_agent", str(tmp_path / "state"), "--interval", str(interval_ms / 1_000)])
        runs = [Run(start_ms=0, end_ms=end_ms)]
        return account(tmp_path / "state"), expect(script, runs, wall_start_ms=start_ms, interval_ms=interval_ms)

    return both


def idle(script: Script) -> Gpu:
    return script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0)


def working(script: Script, *, utilization_pct: float = 90, power_w: float = 500) -> Gpu:
    gpu = script.add_gpu().act(0, utilization_pct=utilization_pct, power_w=power_w, memory_gib=60)
    return gpu.run(PID + len(script.gpus))


def a_days_life() -> Script:
    """Free, then a job that starts, idles and ends, with a lost GPU and a broken one beside it."""
    script = Script()
    idle(script)
    worker = idle(script)
    worker.run(PID, 60_500, 700_000).act(60_500, memory_gib=70, power_w=115)
    worker.set("utilization", Wave(period_ms=250, on_ms=200), 90_250).act(90_250, power_w=612.345)
    worker.set("utilization", 0, 400_100).act(400_100, power_w=115)
    worker.act(700_000, memory_gib=0, power_w=70)
    idle(script).lose(123_400, 129_500)
    broken = idle(script)
    broken.set("recovery_action", 0).set("recovery_action", 1, 500_000).set("recovery_action", 0, 620_000)
    spinning = working(script, utilization_pct=100, power_w=115)
    spinning.tracks["utilization"] = []
    spinning.act(0, utilization_pct=0).act(300_500, utilization_pct=100)
    duty = working(script)
    duty.tracks["utilization"] = [(0, Wave(period_ms=1_000, on_ms=47, high=FULL))]
    return script


def test_a_node_with_every_kind_of_life_is_accounted_for_to_the_millisecond(play: Play) -> None:
    found, truth = play(a_days_life(), 900_000 + 4_000)
    assert found == truth
    states: set[str] = set()
    for cells in truth.values():
        for cell in cells.values():
            states |= set(cell.slice_ms())
    assert states == {"free", "held", "busy", "down", "unmeasured"}


def test_a_session_that_starts_anywhere_in_a_second_ticks_on_the_grid(play: Play) -> None:
    script = Script()
    working(script).act(20_333, power_w=200)
    found, truth = play(script, 60_000, start_ms=WALL_START_MS - 31_337)
    assert found == truth
    assert len(truth[script.gpus[0].uuid]) == 2


@pytest.mark.parametrize("interval_ms", [500, 2_000, 7_000])
def test_another_interval_is_metered_alike(play: Play, interval_ms: int) -> None:
    script = Script()
    working(script).act(200_000, utilization_pct=3, power_w=115)
    found, truth = play(script, 400_000, interval_ms=interval_ms)
    assert found == truth


def rule(function: str, from_ms: int, to_ms: int, **effect: object) -> Callable[[Script], object]:
    return lambda script: script.rule(function, from_ms=from_ms, to_ms=to_ms, **effect)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(rule(UTILIZATION, 20_500, 40_500, error=UNKNOWN), id="utilisation fails"),
        pytest.param(rule(UTILIZATION, 0, 200_000, error=NOT_SUPPORTED), id="utilisation is not supported"),
        pytest.param(rule(UTILIZATION, 20_500, 40_500, error=NO_PERMISSION), id="utilisation is not permitted"),
        pytest.param(rule(GPM_TAKE, 20_500, 40_500, error=UNKNOWN), id="GPM fails"),
        pytest.param(rule(GPM_METRICS, 0, 200_000, fail=(2, 5, UNKNOWN)), id="every fifth GPM fails"),
        pytest.param(rule(GPM_TAKE, 30_000, 31_000, latency_ms=8_300), id="GPM hangs for seconds"),
        pytest.param(rule(GPM_TAKE, 20_000, 90_000, latency_ms=950), id="GPM is slow"),
        pytest.param(rule(SAMPLES, 20_000, 90_000, latency_ms=300), id="samples are slow"),
        pytest.param(rule(SAMPLES, 20_500, 40_500, error=UNKNOWN), id="samples fail"),
        pytest.param(rule(FIELDS, 20_500, 40_500, field=(83, UNKNOWN)), id="energy fails as a field"),
        pytest.param(rule(FIELDS, 0, 200_000, field=(83, NOT_SUPPORTED)), id="energy is no field"),
        pytest.param(rule(FIELDS, 0, 200_000, error=NOT_SUPPORTED), id="there are no fields"),
        pytest.param(rule(FIELDS, 0, 200_000, field=(3, NOT_SUPPORTED)), id="memory errors are no field"),
        pytest.param(rule(MEMORY, 20_500, 40_500, error=UNKNOWN), id="memory fails"),
        pytest.param(rule(COMPUTE, 20_500, 45_500, error=UNKNOWN), id="the process list fails for a while"),
        pytest.param(rule(COMPUTE, 20_500, 150_500, error=UNKNOWN), id="the process list fails for long"),
        pytest.param(rule(GRAPHICS, 0, 200_000, error=NOT_SUPPORTED), id="a kind of process list is not supported"),
        pytest.param(rule(COMPUTE, 0, 200_000, fail=(3, 7, UNKNOWN)), id="every seventh process list fails"),
        pytest.param(rule(UTILIZATION, 0, 200_000, fail=(2, 5, UNKNOWN)), id="every fifth utilisation fails"),
        pytest.param(rule(ROWS, 0, 200_000, error=NOT_SUPPORTED), id="remapped rows are not supported"),
        pytest.param(rule(FIELDS, 0, 200_000, field=(230, NOT_SUPPORTED)), id="recovery action is not supported"),
        pytest.param(rule(FIELDS, 20_500, 120_500, error=UNKNOWN), id="fields fail"),
        pytest.param(rule("*", 20_500, 33_500, error=UNINITIALIZED), id="the library is gone for a while"),
        pytest.param(rule(UTILIZATION, 30_000, 31_000, latency_ms=1_300), id="a call takes longer than the interval"),
        pytest.param(rule(UTILIZATION, 30_000, 31_000, latency_ms=8_300), id="a call hangs for seconds"),
        pytest.param(rule(UTILIZATION, 30_000, 31_000, latency_ms=45_300), id="a call hangs for longer than a gap"),
        pytest.param(rule(UTILIZATION, 20_000, 90_000, latency_ms=700), id="every call is slow"),
        pytest.param(rule(FIELDS, 20_000, 90_000, latency_ms=30), id="the energy counter is slow"),
        pytest.param(rule(COMPUTE, 20_000, 90_000, latency_ms=450), id="the process list is slow"),
        pytest.param(rule("nvmlDeviceGetCount_v2", 20_000, 90_000, latency_ms=1_250), id="enumeration is slow"),
    ],
)
def test_what_goes_wrong_with_a_call_costs_what_the_oracle_says(play: Play, wrong: Callable[[Script], object]) -> None:
    script = Script()
    working(script).act(100_250, utilization_pct=40, power_w=333.3)
    idle(script).run(PID, 50_500, 120_500).act(50_500, memory_gib=5).act(120_500, memory_gib=0)
    wrong(script)
    if any(rule.function == UTILIZATION for rule in script.rules):
        script.polled()
    elif any(rule.function == SAMPLES for rule in script.rules):
        script.gpus[0].gpm = script.gpus[1].gpm = False
    found, truth = play(script, 200_000, start_ms=WALL_START_MS + CELL_MS - 35_000)
    assert found == truth


def test_a_driver_that_comes_late_is_waited_for(play: Play) -> None:
    script = Script()
    working(script)
    script.rule("nvmlInitWithFlags", to_ms=100_000, error=DRIVER_NOT_LOADED)
    script.rule("nvmlInitWithFlags", from_ms=100_000, to_ms=110_000, error=LIB_RM_VERSION_MISMATCH)
    found, truth = play(script, 700_000)
    assert found == truth


def test_lost_and_reset_gpus_are_down_and_the_others_go_on(play: Play) -> None:
    script = Script()
    working(script).lose(30_500, 37_500)
    waiting = idle(script)
    waiting.outages.append(Outage(from_ms=41_500, to_ms=48_500, code=RESET_REQUIRED))
    working(script)
    idle(script).lose(55_500)
    found, truth = play(script, 120_000)
    assert found == truth


def test_an_odometer_that_starts_again_counts_an_epoch(play: Play) -> None:
    script = Script()
    gpu = working(script)
    gpu.energy_base_mj = 10**12
    gpu.energy_resets += [(20_500, 0), (299_500, 0)]
    found, truth = play(script, 310_000)
    assert found == truth
    assert [cell.energy_epochs for cell in truth[gpu.uuid].values()] == [2, 0]


def test_a_hang_is_suspected_at_the_learnt_floor_only(play: Play) -> None:
    script = Script()
    parked = working(script, utilization_pct=0, power_w=115)
    parked.act(90_500, utilization_pct=100).act(130_500, power_w=300).act(140_500, power_w=118)
    bare = idle(script).run(PID, 90_500).act(90_500, utilization_pct=100, memory_gib=40)
    bare.act(120_500, power_w=130)
    new = working(script, utilization_pct=100, power_w=70)
    new.act(100_000, utilization_pct=99)
    found, truth = play(script, 160_000)
    assert found == truth
    assert truth[new.uuid][WALL_START_MS].slice_ms().keys() == {"busy"}


@pytest.mark.parametrize("step_ms", [60_000, -5_000, 2_500, -1_700, 900_000])
def test_a_step_of_the_wall_clock_counts_nothing_twice(play: Play, step_ms: int) -> None:
    script = Script()
    working(script).act(200_000, power_w=200)
    script.steps_ms.append((123_456, step_ms))
    found, truth = play(script, 400_000)
    assert found == truth


def test_values_out_of_range_and_failing_quantities_are_unknown(play: Play) -> None:
    script = Script()
    wild = working(script)
    wild.act(30_500, utilization_pct=250).act(60_500, utilization_pct=50)
    blind = working(script)
    blind.tracks["utilization"] = [(0, Failure(NOT_SUPPORTED))]
    script.polled()
    found, truth = play(script, 90_000)
    assert found == truth
    assert truth[blind.uuid][WALL_START_MS].slice_ms().keys() == {"unmeasured"}
