# SPDX-License-Identifier: Apache-2.0
"""A node's restless life as a script: processes come and go, GPUs are lost, the driver is reloaded, calls fail."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from random import Random

from tests.abi.script import GPU_IS_LOST, RESET_REQUIRED, UNINITIALIZED, UNKNOWN, Outage, Script

GPUS = 3


def restless(duration_ms: int, pids: Sequence[int], life_ms: tuple[int, int], chance: Random) -> Script:
    """Return so much of life: each of the pids holds some GPU once, for so long, many of them together."""
    script = Script()
    gpus = [script.add_gpu(gpm=number != 1) for number in range(GPUS)]
    for gpu in gpus:
        gpu.act(0, utilization_pct=0, power_w=70, memory_gib=0)
    step_ms = max(1, duration_ms // (len(pids) + 1))
    for number, pid in enumerate(pids):
        begin_ms = number * step_ms + chance.randrange(step_ms)
        gpu = gpus[number % GPUS]
        gpu.run(pid, begin_ms, begin_ms + chance.randrange(*life_ms))
    for gpu in gpus:
        at_ms = 0
        while (at_ms := at_ms + chance.randrange(5_000, 60_000)) < duration_ms:
            busy_pct = chance.choice([0, 0, 3, 40, 97])
            gpu.act(at_ms, utilization_pct=busy_pct, power_w=70 + 6 * busy_pct, memory_gib=chance.randrange(70))
    _trouble(script, duration_ms, chance)
    _divide(script, duration_ms, max(pids) + 1, chance)
    return script


def _trouble(script: Script, duration_ms: int, chance: Random) -> None:
    """Every tenth of the time something happens that needs a way back: none of it may leave anything behind."""
    tenth_ms = duration_ms // 10
    for number in range(1, 10):
        begin_ms = number * tenth_ms + chance.randrange(tenth_ms // 4)
        end_ms = begin_ms + chance.randrange(tenth_ms // 20, tenth_ms // 4)
        gpu = script.gpus[number % GPUS]
        match number % 5:
            case 0:
                gpu.outages.append(Outage(from_ms=begin_ms, to_ms=end_ms, code=GPU_IS_LOST, handle_fails=True))
            case 1:
                # The driver is unloaded and loaded again: everything is let go of and attached anew.
                script.rule("*", from_ms=begin_ms, to_ms=end_ms, error=UNINITIALIZED)
            case 2:
                gpu.outages.append(Outage(from_ms=begin_ms, to_ms=end_ms, code=RESET_REQUIRED))
            case 3:
                script.rule("nvmlDeviceGetComputeRunningProcesses_v3", from_ms=begin_ms, to_ms=end_ms, error=UNKNOWN)
            case _:
                gpu.xids.append((begin_ms, 79))
                script.rule("nvmlDeviceGetTotalEnergyConsumption", from_ms=begin_ms, to_ms=end_ms, error=UNKNOWN)
                script.rule("nvmlDeviceGetFieldValues", from_ms=begin_ms, to_ms=end_ms, field=(83, UNKNOWN))


def _divide(script: Script, duration_ms: int, pid: int, chance: Random) -> None:
    """Add a GPU whose instances are made and destroyed again and again, if the agent meters GPU instances."""
    if importlib.util.find_spec("gpuledger_agent.mig") is None:
        return
    gpu = script.add_gpu().act(0, power_w=200, memory_gib=0).divide()
    stays = gpu.add_instance("3g.40gb").act(0, utilization_pct=60, memory_gib=20)
    stays.run(pid)
    step_ms = max(40_000, duration_ms // 200)
    for begin_ms in range(10_000, duration_ms - step_ms, step_ms):
        end_ms = begin_ms + chance.randrange(step_ms // 2, step_ms - 10_000)
        made = gpu.add_instance("2g.20gb", begin_ms, end_ms, instance_id=2, slot=1)
        made.act(0, utilization_pct=chance.choice([0, 30]), memory_gib=1).run(pid + 1, begin_ms, end_ms)
