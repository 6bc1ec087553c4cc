# SPDX-License-Identifier: Apache-2.0
"""Random lives of divided GPUs, with whatever can go wrong: the agent and the oracle must agree on all of them."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.abi.oracle import Run, expect
from tests.abi.readings import account
from tests.abi.script import (
    BOARD,
    FULL,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_SUPPORTED,
    UNINITIALIZED,
    UNKNOWN,
    Gpu,
    Instance,
    MigDevice,
    Script,
    Wave,
)
from tests.abi.stage import WALL_START_MS, set_up
from tests.abi.truth import CELL_MS

pytestmark = pytest.mark.abi
PID = 4_200_001
END_MS = 100_000
PARTITIONS = ((7,), (3, 3), (4, 2, 1), (1,) * 7, (2, 3, 1), (3, 2, 2))
codes = st.sampled_from([UNKNOWN, NOT_SUPPORTED, NO_PERMISSION, INVALID_ARGUMENT, UNINITIALIZED, GPU_IS_LOST])
functions = st.sampled_from(
    [
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetGpuInstanceId",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetAttributes_v2",
        "nvmlGpmMigSampleGet",
        "nvmlGpmMetricsGet",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmSampleAlloc",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetFieldValues",
        "*",
    ]
)


def moments(draw: st.DrawFn, most: int) -> list[int]:
    return sorted(draw(st.sets(st.integers(1, END_MS - 1), max_size=most)))


def act(draw: st.DrawFn, one: Gpu | Instance, pid: int) -> None:
    """Give it work over time, and processes."""
    for at_ms in (0, *moments(draw, 3)):
        value = draw(st.one_of(st.sampled_from([0, 50_000, FULL]), st.integers(0, FULL)))
        wave = Wave(period_ms=1_000 + value % 977, on_ms=value % 1_000)
        one.set("graphics", wave if draw(st.booleans()) else value, at_ms)
    one.set("sm", draw(st.integers(0, 2 * FULL)))
    for at_ms in (0, *moments(draw, 2)):
        one.set("memory_used_bytes", draw(st.integers(0, 2)), at_ms)
    for number in range(draw(st.integers(0, 2))):
        begin_ms = draw(st.integers(0, END_MS - 1))
        kind = draw(st.sampled_from(["compute", "compute", "graphics", "mps"]))
        one.run(pid + number, begin_ms, begin_ms + draw(st.integers(1, END_MS)), kind=kind, compute=number)


def divide(draw: st.DrawFn, gpu: Gpu, base_pid: int) -> None:
    """Let instances live in the slots of a partition, one after the other in each, with ids that come again."""
    on = draw(st.booleans())
    gpu.divide(0, on=on)
    for at_ms in moments(draw, 2):
        on = not on
        gpu.divide(at_ms, on=on)
    for slot, slices in enumerate(draw(st.sampled_from(PARTITIONS))):
        edges = [0, *moments(draw, 2), END_MS]
        for begin_ms, end_ms in pairwise(edges):
            if draw(st.booleans()):
                continue
            size = draw(st.integers(1, slices))
            one = gpu.add_instance(f"{size}g.{10 * size}gb", begin_ms, end_ms, instance_id=slot + 1, slot=slot)
            if draw(st.booleans()):
                uuid = f"{one.devices[0].uuid}-second"
                second = MigDevice(uuid=uuid, slot=6 - slot, compute=1, from_ms=begin_ms, to_ms=end_ms)
                one.devices += [second] * (6 - slot > slot and slices == 7)
            act(draw, one, base_pid + 10 * len(gpu.instances))


@st.composite
def lives(draw: st.DrawFn) -> Script:
    script = Script(mig_parent_gpm=draw(st.booleans()))
    for index in range(draw(st.integers(1, 2))):
        gpu = script.add_gpu(gpm=draw(st.sampled_from([True, True, True, False])))
        act(draw, gpu, PID + 1_000 * index)
        gpu.set("utilization", draw(st.integers(0, FULL))).set("power_mw", draw(st.integers(0, 700_000)))
        divide(draw, gpu, PID + 1_000 * index + 100)
        if draw(st.booleans()):
            lost_ms = draw(st.integers(1_000, END_MS - 1))
            gpu.lose(lost_ms, lost_ms + draw(st.integers(1, 20_000)), handle_fails=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 3))):
        begin_ms = draw(st.integers(1_000, END_MS - 1))
        span = {"from_ms": begin_ms, "to_ms": begin_ms + draw(st.integers(1, 50_000))}
        places = [(None, None), (0, None), (0, BOARD)] + [(0, 0)] * (len(script.gpus[0].instances) > 0)
        gpu_index, instance = draw(st.sampled_from(places))
        where = {"gpu": gpu_index, "instance": instance, **span}
        if draw(st.integers(0, 3)) > 0:
            script.rule(draw(functions), **where, error=draw(codes))
        else:
            script.rule(draw(functions), **where, latency_ms=draw(st.integers(1, 300)))
    if draw(st.booleans()):
        script.steps_ms.append((draw(st.integers(1_500, END_MS - 1)), draw(st.sampled_from([-4_321, 1_500, 61_000]))))
    return script


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=lives(), offset_ms=st.integers(0, CELL_MS))
def test_the_agent_and_the_oracle_agree_on_random_lives_of_instances(
    library: Path, tmp_path: Path, script: Script, offset_ms: int
) -> None:
    shutil.rmtree(tmp_path / "random", ignore_errors=True)
    start_ms = WALL_START_MS + offset_ms
    put = set_up(tmp_path / "random", library, script, duration_ms=END_MS, wall_start_ms=start_ms)
    put.run(["-m", "tests.abi.run_agent", str(tmp_path / "random" / "state")])
    found = account(tmp_path / "random" / "state")
    assert found == expect(script, [Run(start_ms=0, end_ms=END_MS)], wall_start_ms=start_ms)
