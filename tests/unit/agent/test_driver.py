# SPDX-License-Identifier: Apache-2.0
"""Drivers that come back in another version, and devices that are taken away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger.states import Uncovered
from gpuledger_agent.driver import Ending
from tests.fakes.agents import Rig, spans
from tests.fakes.clock import NOON_MS
from tests.fakes.hangs import hang, let_all_go
from tests.fakes.nvml import UNINITIALIZED, UNKNOWN, VERSION_MISMATCH, gpus

FIELDS, RATES, COUNT = "nvmlDeviceGetFieldValues", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetCount"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, gpus(4))
    rig.agent.tick()
    yield rig
    let_all_go(rig)


def test_a_driver_that_comes_back_in_another_version_wants_a_new_process(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.tick(5)
    rig.nvml.gpus[0].fails[FIELDS] = UNINITIALIZED
    rig.tick()
    rig.nvml.gpus[0].fails.clear()
    rig.nvml.version = "580.65.06"
    rig.clock.stop_after_waits = 100
    with caplog.at_level(logging.WARNING):
        assert rig.agent.run(threading.Event()) is Ending.DRIVER_CHANGED
    assert "driver_changed" in caplog.messages
    assert rig.nvml.attached == 0
    assert spans(rig.readings())[-1][1] == rig.clock.wall_ms, "what was open is sealed"


def test_a_kernel_module_that_was_exchanged_wants_a_new_process_once_there_was_a_driver(rig: Rig) -> None:
    rig.tick(5)
    rig.nvml.gpus[0].fails[FIELDS] = UNINITIALIZED
    rig.nvml.fails["nvmlInit"] = VERSION_MISMATCH
    rig.clock.stop_after_waits = 100
    assert rig.agent.run(threading.Event()) is Ending.DRIVER_CHANGED


def test_a_mismatch_at_the_start_is_no_reason_to_start_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.nvml.fails["nvmlInit"] = VERSION_MISMATCH
    rig.clock.stop_after_waits = 300
    assert rig.agent.run(threading.Event()) is Ending.STOPPED
    assert rig.agent.view.driver_failures["lib_rm_version_mismatch"] < 12


def test_the_same_version_again_is_the_same_driver(rig: Rig) -> None:
    rig.nvml.gpus[0].fails[FIELDS] = UNINITIALIZED
    rig.tick()
    rig.nvml.gpus[0].fails.clear()
    rig.nvml.fails["nvmlSystemGetDriverVersion"] = UNKNOWN
    rig.tick(5)
    del rig.nvml.fails["nvmlSystemGetDriverVersion"]
    rig.clock.stop_after_waits = 50
    assert rig.agent.run(threading.Event()) is Ending.STOPPED


def test_a_new_program_waits_for_the_call_that_hangs_in_the_old_one(rig: Rig) -> None:
    rig.tick(5)
    hang(rig, 1, FIELDS)
    rig.tick(2)
    rig.nvml.gpus[2].fails[FIELDS] = VERSION_MISMATCH
    rig.clock.stop_after_waits = 20
    assert rig.agent.run(threading.Event()) is Ending.STOPPED


def test_a_minute_of_unknown_errors_of_every_gpu_ends_the_agent_for_a_restart(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.tick(5)
    for gpu in rig.nvml.gpus:
        gpu.fails["*"] = UNKNOWN
    rig.clock.stop_after_waits = 1_000
    with caplog.at_level(logging.ERROR):
        assert rig.agent.run(threading.Event()) is Ending.DEVICES_GONE
    assert caplog.messages == ["devices_gone"]
    assert rig.clock.wall_ms == NOON_MS + 5_000 + 61_000
    assert rig.readings()[-1].gpus[0].uncovered_slice_ms[Uncovered.CALLS_FAILED] == 7 * 61_000


@pytest.mark.parametrize("code", [UNKNOWN, 20])
def test_one_gpu_that_answers_or_another_error_is_no_reason_to_end(rig: Rig, code: int) -> None:
    for gpu in rig.nvml.gpus[code == UNKNOWN :]:
        gpu.fails["*"] = code
    rig.clock.stop_after_waits = 300
    assert rig.agent.run(threading.Event()) is Ending.STOPPED


def test_a_minute_that_a_clock_step_made_is_none(rig: Rig) -> None:
    for gpu in rig.nvml.gpus:
        gpu.fails["*"] = UNKNOWN
    rig.tick(5)
    rig.clock.step_ms(3_600_000)
    rig.clock.stop_after_waits = 30
    assert rig.agent.run(threading.Event()) is Ending.STOPPED


def test_gpus_that_nobody_ever_knew_are_no_reason_to_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(2))
    for gpu in rig.nvml.gpus:
        gpu.fails["nvmlDeviceGetUUID"] = UNKNOWN
    rig.clock.stop_after_waits = 300
    assert rig.agent.run(threading.Event()) is Ending.STOPPED
