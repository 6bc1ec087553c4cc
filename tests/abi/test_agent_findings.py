# SPDX-License-Identifier: Apache-2.0
"""Where the agent and the accounting rules still differ: each is expected to fail until the agent is changed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.oracle import Run, expect
from tests.abi.readings import account
from tests.abi.script import UNKNOWN, Gpu, Script
from tests.abi.stage import WALL_START_MS, Stage

PID = 4_200_001
END_MS = 60_000

FORWARD_FILL = "a GPU lost at an enumeration is down until the next one, ten seconds on, without being asked"
ONE_CALL = "one failed call of an enumeration uncovers the GPU for ten seconds, as if it were no longer listed"
CALLS_FAILED = "a GPU of which no call answers is unmeasured (and so counts as delivered), not uncovered"
CRASH = "an unknown error of a call about the whole node ends the agent with a traceback"
FORGOTTEN = "a failed health read makes the other one's clean answer overrule a known fault"


def lost_at_an_enumeration(script: Script, gpu: Gpu) -> None:
    del script
    gpu.lose(19_500, 21_500)


def lost_with_its_handle(script: Script, gpu: Gpu) -> None:
    del script
    gpu.lose(19_500, 21_500, handle_fails=True)


def uuid_fails_once(script: Script, gpu: Gpu) -> None:
    del gpu
    script.rule("nvmlDeviceGetUUID", gpu=1, from_ms=19_500, to_ms=20_500, error=UNKNOWN)


def no_call_answers(script: Script, gpu: Gpu) -> None:
    del gpu
    script.rule("*", gpu=1, from_ms=13_500, to_ms=16_500, error=UNKNOWN)


def count_fails(script: Script, gpu: Gpu) -> None:
    del gpu
    script.rule("nvmlDeviceGetCount_v2", from_ms=19_500, to_ms=21_500, error=UNKNOWN)


def driver_version_fails(script: Script, gpu: Gpu) -> None:
    del gpu
    script.rule("nvmlSystemGetDriverVersion", error=UNKNOWN)


def recovery_action_becomes_unreadable(script: Script, gpu: Gpu) -> None:
    gpu.set("recovery_action", 1)
    script.rule("nvmlDeviceGetFieldValues", from_ms=5_000, to_ms=25_000, error=UNKNOWN)


def row_remap_failure_becomes_unreadable(script: Script, gpu: Gpu) -> None:
    gpu.set("remap_failure", 1)
    script.rule("nvmlDeviceGetRemappedRows", from_ms=5_000, to_ms=25_000, error=UNKNOWN)


def finding(wrong: Callable[[Script, Gpu], None], why: str) -> object:
    return pytest.param(wrong, id=wrong.__name__, marks=pytest.mark.xfail(strict=True, reason=why))


@pytest.mark.abi
@pytest.mark.parametrize(
    "wrong",
    [
        finding(lost_at_an_enumeration, FORWARD_FILL),
        finding(lost_with_its_handle, FORWARD_FILL),
        finding(uuid_fails_once, ONE_CALL),
        finding(no_call_answers, CALLS_FAILED),
        finding(count_fails, CRASH),
        finding(driver_version_fails, CRASH),
        finding(recovery_action_becomes_unreadable, FORGOTTEN),
        finding(row_remap_failure_becomes_unreadable, FORGOTTEN),
    ],
)
def test_a_known_difference_between_agent_and_rules(
    stage: Callable[..., Stage], tmp_path: Path, wrong: Callable[[Script, Gpu], None]
) -> None:
    script = Script()
    script.add_gpu().act(0, utilization_pct=90, power_w=500, memory_gib=60).run(PID)
    wrong(script, script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0))
    stage(script, duration_ms=END_MS).run(["-m", "tests.abi.run_agent", str(tmp_path / "state")])
    truth = expect(script, [Run(start_ms=0, end_ms=END_MS)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "state") == truth
