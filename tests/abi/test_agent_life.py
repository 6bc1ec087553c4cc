# SPDX-License-Identifier: Apache-2.0
"""The agent's hard moments before the scripted library: kill -9, real time, days, random scripts, and a wrong meter."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuledger.clock import SystemClock
from tests.abi.build import ROOT
from tests.abi.oracle import Run, expect
from tests.abi.readings import account, sealed
from tests.abi.script import FULL, GPU_IS_LOST, NOT_SUPPORTED, UNINITIALIZED, UNKNOWN, Failure, Rule, Script, Wave
from tests.abi.stage import WALL_START_MS, Stage, set_up
from tests.abi.truth import CELL_MS, Truth
from tests.fakes.shared_clock import MS_NS

pytestmark = pytest.mark.abi
PID = 4_200_001
AGENT = ["-m", "tests.abi.run_agent"]


def busy_and_free() -> Script:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=0, power_w=115, memory_gib=40).run(PID)
    gpu.act(150_000, utilization_pct=70, power_w=480)
    script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0)
    return script


def total(truth: Truth) -> Counter[str]:
    states: Counter[str] = Counter()
    for cells in truth.values():
        for cell in cells.values():
            states += cell.states_ms
    return states


@pytest.mark.parametrize(
    ("function", "at_ms", "back_ms"),
    [
        ("nvmlDeviceGetFieldValues", 123_000, 124_000),
        ("nvmlDeviceGetUtilizationRates", 299_000, 299_400),
        ("nvmlDeviceGetMemoryInfo_v2", 300_000, 300_000),
        ("nvmlDeviceGetUtilizationRates", 301_000, 318_700),
        ("nvmlDeviceGetCount_v2", 340_000, 900_000),
    ],
)
def test_kill_9_costs_the_outage_and_one_interval_and_counts_nothing_twice(
    stage: Callable[..., Stage], tmp_path: Path, function: str, at_ms: int, back_ms: int
) -> None:
    script = busy_and_free()
    mortal = Script(gpus=script.gpus, rules=[Rule(function=function, from_ms=at_ms, kill=True)])
    end_ms = back_ms + 100_000
    state_dir = str(tmp_path / "state")
    first = stage(mortal, duration_ms=end_ms)
    done = subprocess.run([sys.executable, *AGENT, state_dir], env=first.env, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert first.clock is not None
    assert first.clock.script_ms() == at_ms
    first.clock.advance_to(first.clock.boottime_ns() + (back_ms - at_ms) * MS_NS)
    (first.folder / "script.txt").write_text(script.text(), encoding="utf-8")
    first.run([*AGENT, state_dir])
    runs = [Run(start_ms=0, end_ms=at_ms), Run(start_ms=back_ms, end_ms=end_ms)]
    assert account(tmp_path / "state") == expect(script, runs, wall_start_ms=WALL_START_MS)
    spans = sorted((core["start_ms"], core["end_ms"]) for core in sealed(tmp_path / "state"))
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


# Only pairs that the agent survives: with a state that needs a holder in the place of one that has none, it stops.
@pytest.mark.parametrize(
    ("one", "other"), [("BUSY", "HELD"), ("DOWN", "UNMEASURED"), ("FREE", "DOWN"), ("FREE", "UNMEASURED")]
)
def test_two_states_swapped_in_the_agent_do_not_go_unnoticed(
    stage: Callable[..., Stage], tmp_path: Path, one: str, other: str
) -> None:
    script = busy_and_free()
    script.add_gpu().lose(30_500, 60_500)
    script.add_gpu().act(0, utilization_pct=50)
    mutant = tmp_path / "mutant" / "gpuledger_agent"
    shutil.copytree(ROOT / "agent" / "gpuledger_agent", mutant, ignore=shutil.ignore_patterns("__pycache__"))
    decision = (mutant / "decision.py").read_text(encoding="utf-8")
    swapped = decision.replace(f"State.{one})", "State.X)").replace(f"State.{other})", f"State.{one})")
    (mutant / "decision.py").write_text(swapped.replace("State.X)", f"State.{other})"), encoding="utf-8")
    assert swapped != decision
    put = stage(script, duration_ms=200_000)
    put.run([*AGENT, str(tmp_path / "honest")])
    truth = expect(script, [Run(start_ms=0, end_ms=200_000)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "honest") == truth
    put = stage(script, duration_ms=200_000)
    put.env["PYTHONPATH"] = os.pathsep.join([str(mutant.parent), put.env["PYTHONPATH"]])
    put.run([*AGENT, str(tmp_path / "wrong")])
    assert account(tmp_path / "wrong") != truth


codes = st.sampled_from([UNKNOWN, NOT_SUPPORTED, UNINITIALIZED, GPU_IS_LOST])
functions = st.sampled_from(
    [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetSamples",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmSampleAlloc",
        "nvmlGpmSampleGet",
        "nvmlGpmMetricsGet",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetRemappedRows",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetSupportedEventTypes",
        "nvmlDeviceRegisterEvents",
        "nvmlEventSetCreate",
        "nvmlEventSetWait_v2",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
        "*",
    ]
)


@st.composite
def lives(draw: st.DrawFn) -> Script:
    script = Script()
    for index in range(draw(st.integers(1, 3))):
        gpu = script.add_gpu(gpm=draw(st.booleans()))
        if draw(st.booleans()):
            gpu.set("graphics", draw(st.integers(0, FULL))).set("sm", draw(st.integers(0, FULL)), 0)
            gpu.set("graphics", draw(st.integers(0, 2 * FULL)), draw(st.integers(1, 149_999)))
        for track, high in (("utilization", FULL), ("power_mw", 700_000), ("memory_used_bytes", 2)):
            for at_ms in sorted({0, *draw(st.lists(st.integers(1, 149_999), max_size=4))}):
                value = draw(st.one_of(st.sampled_from([0, high]), st.integers(0, high)))
                wave = draw(st.booleans()) and track == "utilization"
                gpu.set(track, Wave(period_ms=1_000 + value % 977, on_ms=value % 1_000) if wave else value, at_ms)
        for pid in range(draw(st.integers(0, 2))):
            begin_ms = draw(st.integers(0, 149_999))
            gpu.run(PID + 10 * index + pid, begin_ms, begin_ms + draw(st.integers(1, 150_000)))
        if draw(st.booleans()):
            lost_ms = draw(st.integers(1_000, 140_000))
            gpu.lose(lost_ms, lost_ms + draw(st.integers(1, 40_000)), handle_fails=draw(st.booleans()))
        if draw(st.booleans()):
            gpu.set("recovery_action", 0).set("recovery_action", 1, 40_000).set("recovery_action", 0, 70_000)
        for at_ms in draw(st.lists(st.integers(1, 149_999), max_size=3)):
            gpu.xids.append((at_ms, draw(st.sampled_from([13, 31, 48, 79, 999]))))
        if draw(st.booleans()):
            gpu.set("ecc_corrected", 5).set("ecc_corrected", 9, 30_000).set("ecc_corrected", 2, 90_000)
            gpu.set("remap_failure", 0).set(
                "remap_failure", Failure(draw(st.sampled_from([NOT_SUPPORTED, UNKNOWN]))), 50_000
            )
    for _ in range(draw(st.integers(0, 3))):
        begin_ms = draw(st.integers(1_000, 140_000))
        span = {"from_ms": begin_ms, "to_ms": begin_ms + draw(st.integers(1, 70_000))}
        if draw(st.booleans()):
            script.rule(draw(functions), **span, error=draw(codes), gpu=draw(st.sampled_from([None, 0])))
        else:
            script.rule(draw(functions), **span, latency_ms=draw(st.integers(1, 3_000)))
    if draw(st.booleans()):
        script.steps_ms.append((draw(st.integers(1_500, 140_000)), draw(st.sampled_from([-4_321, 1_500, 61_000]))))
    return script


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=lives(), offset_ms=st.integers(0, CELL_MS))
def test_the_agent_and_the_oracle_agree_on_random_lives(
    library: Path, tmp_path: Path, script: Script, offset_ms: int
) -> None:
    shutil.rmtree(tmp_path / "random", ignore_errors=True)
    start_ms = WALL_START_MS + offset_ms
    put = set_up(tmp_path / "random", library, script, duration_ms=150_000, wall_start_ms=start_ms)
    put.run([*AGENT, str(tmp_path / "random" / "state")], codes=(0, 4))
    truth = expect(script, [Run(start_ms=0, end_ms=150_000)], wall_start_ms=start_ms)
    assert account(tmp_path / "random" / "state") == truth


@pytest.mark.slow
def test_a_minute_of_real_time_agrees_with_the_oracle(stage: Callable[..., Stage], tmp_path: Path) -> None:
    script = Script()
    worker = script.add_gpu().act(0, utilization_pct=0, power_w=115, memory_gib=0)
    worker.run(PID, 15_500).act(15_500, memory_gib=40).act(25_500, utilization_pct=80, power_w=600)
    worker.act(45_500, utilization_pct=2, power_w=115)
    script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0).lose(30_500, 40_500)
    clock = SystemClock()
    put = stage(script, virtual=False)
    put.env["GPULEDGER_ABI_START_NS"] = str(clock.boottime_ns())
    wall_start_ms = clock.wall_ns() // MS_NS
    put.run([*AGENT, str(tmp_path / "state"), "--for", "60"])
    found = account(tmp_path / "state")
    truth = expect(script, [Run(start_ms=0, end_ms=60_000)], wall_start_ms=wall_start_ms)
    # Start-up and a busy machine may move a few ticks; a state put in another's place would move ten seconds.
    states, expected = total(found), total(truth)
    assert states.keys() == expected.keys()
    assert all(abs(states[name] - expected[name]) <= 5_000 for name in expected)
    spans = [core["end_ms"] - core["start_ms"] for core in sealed(tmp_path / "state")]
    assert sum(states.values()) == 2 * sum(spans)
    assert sum(spans) > 50_000


@pytest.mark.slow
def test_a_day_on_the_library_is_the_oracles_truth_to_the_millisecond(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    day_ms = 86_400_000
    script = Script()
    worker = script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0)
    for hour in range(0, 24, 3):
        begin_ms = hour * 3_600_000 + 123_456
        worker.run(PID + hour, begin_ms, begin_ms + 7_000_000).act(begin_ms, memory_gib=60 + hour, power_w=118)
        worker.set("utilization", Wave(period_ms=3_000, on_ms=900 + 80 * hour), begin_ms + 600_000)
        worker.act(begin_ms + 600_000, power_w=300 + hour)
        worker.act(begin_ms + 7_000_000, utilization_pct=0, power_w=70, memory_gib=0)
    worker.lose(50_000_500, 50_063_500)
    script.rule("nvmlDeviceGetUtilizationRates", from_ms=40_000_000, to_ms=40_000_500, latency_ms=17_000)
    script.rule("*", from_ms=60_000_500, to_ms=60_300_000, error=UNINITIALIZED)
    put = stage(script, duration_ms=day_ms)
    put.run([*AGENT, str(tmp_path / "state")])
    truth = expect(script, [Run(start_ms=0, end_ms=day_ms)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "state") == truth
    assert len(truth[script.gpus[0].uuid]) == day_ms // CELL_MS
