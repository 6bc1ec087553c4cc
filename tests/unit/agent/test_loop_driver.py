# SPDX-License-Identifier: Apache-2.0
"""The loop and the driver: why it cannot be used, said once, tried again, and what that covers."""

from __future__ import annotations

import gc
import itertools
import logging
from pathlib import Path
from types import TracebackType

import pytest

from gpuledger.states import State, Uncovered
from tests.fakes.agents import Rig
from tests.fakes.nvml import (
    LIBRARY_NOT_FOUND,
    LOST,
    NO_PERMISSION,
    NOT_LOADED,
    RESET_REQUIRED,
    UNINITIALIZED,
    UNKNOWN,
    VERSION_MISMATCH,
    gpus,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, gpus(2))


def results(rig: Rig) -> dict[str, State | Uncovered]:
    return {gpu.identity.uuid[-36:-28][-1]: gpu.result for gpu in rig.agent.view.gpus}


@pytest.mark.parametrize(
    ("code", "reason", "uncovered"),
    [
        (LIBRARY_NOT_FOUND, "library_not_found", Uncovered.LIBRARY),
        (NOT_LOADED, "driver_not_loaded", Uncovered.LIBRARY),
        (VERSION_MISMATCH, "lib_rm_version_mismatch", Uncovered.LIBRARY),
        (NO_PERMISSION, "no_permission", Uncovered.PERMISSION),
        (UNINITIALIZED, "uninitialized", Uncovered.LIBRARY),
        (UNKNOWN, "unknown", Uncovered.LIBRARY),
        (LOST, "gpu_is_lost", Uncovered.LIBRARY),
        (RESET_REQUIRED, "reset_required", Uncovered.LIBRARY),
        (3, "not_supported", Uncovered.LIBRARY),
        (77, "error_77", Uncovered.LIBRARY),
    ],
)
def test_a_driver_that_does_not_start_is_said_once_counted_and_covers_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture, code: int, reason: str, uncovered: Uncovered
) -> None:
    rig.tick(3)
    rig.nvml.fails = {"nvmlInit": code}
    for gpu in rig.nvml.gpus:
        gpu.fails["*"] = NOT_LOADED
    with caplog.at_level(logging.WARNING):
        rig.tick(121)
    said = 1 if code == NOT_LOADED else 2  # the loss, and why it does not start again where that is another reason
    changed = ["driver_changed"] if code == VERSION_MISMATCH else []  # see test_driver.py
    assert caplog.messages == ["driver_unavailable"] * said + changed
    view = rig.agent.view
    assert view.driver_failures[reason] >= 5
    assert (view.is_attached, view.driver_version) == (False, None)
    assert set(results(rig).values()) == {uncovered}
    rig.tick(200)
    (reading,) = rig.readings()
    assert reading.gpus[0].uncovered_slice_ms[uncovered] > 7 * 250_000


def test_a_driver_that_never_started_leaves_a_node_that_says_it_is_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.nvml.fails["nvmlInit"] = LIBRARY_NOT_FOUND
    rig.agent.tick()
    rig.tick(300)
    (reading,) = rig.readings()
    assert reading.gpus == ()
    assert rig.agent.view.gpus == ()


def test_a_driver_is_tried_again_after_one_second_then_twice_as_long_up_to_a_minute(rig: Rig) -> None:
    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    attempts = []
    for second in range(400):
        before = rig.nvml.calls["nvmlInit"]
        rig.tick()
        if rig.nvml.calls["nvmlInit"] > before:
            attempts.append(second)
    pauses = [after - before for before, after in itertools.pairwise(attempts)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 32]
    assert set(pauses[6:]) == {60}
    del rig.nvml.fails["nvmlInit"]
    rig.tick(60)
    assert results(rig) == {"0": State.FREE, "1": State.FREE}
    assert rig.agent.view.driver_version == "570.124.06"


def test_a_driver_that_starts_and_then_fails_is_not_started_every_second(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.nvml.fails["nvmlDeviceGetCount"] = UNINITIALIZED
    with caplog.at_level(logging.INFO):
        rig.tick(200)
    assert rig.nvml.calls["nvmlInit"] < 12
    assert [message for message in caplog.messages if "driver" in message] == ["driver_unavailable"]
    assert rig.nvml.attached == 0


def test_waiting_for_a_driver_for_days_keeps_nothing_of_each_tick(rig: Rig) -> None:
    def tracebacks() -> int:
        gc.collect()
        return sum(isinstance(thing, TracebackType) for thing in gc.get_objects())

    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    rig.tick(10)
    before = tracebacks()
    rig.tick(400)
    assert tracebacks() - before < 50


def test_a_library_lost_in_the_middle_of_a_run_covers_nothing_until_it_is_back(rig: Rig) -> None:
    rig.agent.tick()
    rig.tick(100)
    for gpu in rig.nvml.gpus:
        gpu.fails["nvmlDeviceGetUtilizationRates"] = NOT_LOADED
    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    rig.tick(50)
    assert set(results(rig).values()) == {Uncovered.LIBRARY}
    rig.nvml.fails.clear()
    for gpu in rig.nvml.gpus:
        gpu.fails.clear()
    rig.tick(150)
    (reading,) = rig.readings()
    for gpu_time in reading.gpus:
        assert set(gpu_time.uncovered_slice_ms) == {Uncovered.LIBRARY, Uncovered.FIRST_TICK}
        assert gpu_time.uncovered_slice_ms[Uncovered.FIRST_TICK] == 7 * 1_000
        assert set(gpu_time.state_slice_ms) == {State.FREE}


def test_handles_are_not_used_beyond_the_attachment_that_gave_them(rig: Rig) -> None:
    """The fake asserts it at every call: a real driver would crash the agent."""
    rig.tick(3)
    rig.gpu.fails["nvmlDeviceGetUtilizationRates"] = UNINITIALIZED
    rig.tick()
    rig.gpu.fails = {"nvmlDeviceGetHandleByIndex": UNKNOWN}
    rig.tick(5)
    assert results(rig) == {"0": Uncovered.CALLS_FAILED, "1": State.FREE}
    rig.gpu.fails.clear()
    rig.tick(2)
    assert results(rig) == {"0": State.FREE, "1": State.FREE}


def test_gpus_that_cannot_be_counted_after_a_restart_of_the_driver_are_the_librarys(rig: Rig) -> None:
    rig.tick(3)
    rig.gpu.fails["nvmlDeviceGetUtilizationRates"] = UNINITIALIZED
    rig.tick()
    rig.gpu.fails.clear()
    rig.nvml.fails["nvmlDeviceGetCount"] = UNKNOWN
    rig.tick(5)
    assert set(results(rig).values()) == {Uncovered.LIBRARY}


@pytest.mark.parametrize("code", [UNKNOWN, LOST, RESET_REQUIRED, NO_PERMISSION, 3])
@pytest.mark.parametrize("function", ["nvmlSystemGetDriverVersion", "nvmlDeviceGetCount", "nvmlShutdown"])
def test_no_failure_of_a_call_about_the_whole_node_ends_the_agent(rig: Rig, function: str, code: int) -> None:
    rig.tick(3)
    rig.nvml.fails[function] = code
    rig.tick(30)
    rig.agent.close()
