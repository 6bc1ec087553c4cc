# SPDX-License-Identifier: Apache-2.0
"""Faults that an agent once answered wrongly: about the whole node, at an enumeration, in a health read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.oracle import Run, expect
from tests.abi.readings import account
from tests.abi.script import NOT_SUPPORTED, UNKNOWN, Gpu, Script
from tests.abi.stage import WALL_START_MS, Stage

PID = 4_200_001
END_MS = 60_000


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


def uuid_is_not_supported_once(script: Script, gpu: Gpu) -> None:
    del gpu
    script.rule("nvmlDeviceGetUUID", gpu=1, from_ms=19_500, to_ms=20_500, error=NOT_SUPPORTED)


def handle_is_not_supported_once(script: Script, gpu: Gpu) -> None:
    del gpu
    script.rule("nvmlDeviceGetHandleByIndex_v2", gpu=1, from_ms=19_500, to_ms=20_500, error=NOT_SUPPORTED)


def count_is_not_supported_once(script: Script, gpu: Gpu) -> None:
    del gpu
    script.rule("nvmlDeviceGetCount_v2", from_ms=19_500, to_ms=20_500, error=NOT_SUPPORTED)


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


@pytest.mark.abi
@pytest.mark.parametrize(
    "wrong",
    [
        # Down while it was lost, not until the next enumeration.
        lost_at_an_enumeration,
        lost_with_its_handle,
        # One call of an enumeration that fails does not make the GPU one that is no longer listed.
        uuid_fails_once,
        # Nothing answers: not covered, rather than unmeasured, which would count as delivered.
        no_call_answers,
        # An unknown error about the whole node does not end the agent.
        count_fails,
        driver_version_fails,
        # Nor does one that says NOT_SUPPORTED.
        uuid_is_not_supported_once,
        handle_is_not_supported_once,
        count_is_not_supported_once,
        # A clean answer about one thing does not clear a fault that another call reported.
        recovery_action_becomes_unreadable,
        row_remap_failure_becomes_unreadable,
    ],
)
def test_a_fault_costs_what_the_rules_say(
    stage: Callable[..., Stage], tmp_path: Path, wrong: Callable[[Script, Gpu], None]
) -> None:
    script = Script()
    script.add_gpu().act(0, utilization_pct=90, power_w=500, memory_gib=60).run(PID)
    wrong(script, script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0))
    stage(script, duration_ms=END_MS).run(["-m", "tests.abi.run_agent", str(tmp_path / "state")])
    truth = expect(script, [Run(start_ms=0, end_ms=END_MS)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "state") == truth
