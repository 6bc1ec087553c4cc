# SPDX-License-Identifier: Apache-2.0
"""Calls into the driver that hang: what that costs, and whom."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger.states import State, Uncovered
from gpuledger_agent.driver import ATTACH_PATIENCE_MS
from tests.fakes.agents import Rig, spans
from tests.fakes.clock import NOON_MS
from tests.fakes.hangs import come_back, hang, let_all_go, results, until
from tests.fakes.nvml import NOT_LOADED, UNINITIALIZED, gpus

FIELDS, RATES, COUNT = "nvmlDeviceGetFieldValues", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetCount"

WAIT = "nvmlEventSetWait_v2"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, gpus(4))
    rig.agent.tick()
    yield rig
    let_all_go(rig)


@pytest.mark.parametrize(
    "function",
    [FIELDS, RATES, "nvmlDeviceGetMemoryInfo"],
)
def test_a_call_that_hangs_costs_its_gpu_and_the_tick_of_those_behind_it(
    rig: Rig, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    rig.tick(9)
    hang(rig, 1, function)
    with caplog.at_level(logging.INFO):
        rig.tick()
    failed = Uncovered.CALLS_FAILED
    assert results(rig) == {"0": State.FREE, "1": failed, "2": failed, "3": failed}
    rig.tick(2)
    assert results(rig) == {"0": State.FREE, "1": failed, "2": State.FREE, "3": State.FREE}
    view = rig.agent.view
    assert (view.stuck_calls, view.hung_gpus, view.hung_calls) == (1, 1, {function: 1})
    assert view.is_attached
    rig.tick(300)
    come_back(rig, 1, function)
    with caplog.at_level(logging.INFO):
        rig.tick(2)
    assert results(rig)["1"] is State.FREE
    assert (rig.agent.view.stuck_calls, rig.agent.view.hung_gpus) == (0, 0)
    hung = [record.message for record in caplog.records if "gpu_" in record.message]
    assert hung == ["gpu_hung", "gpu_answers_again"]


def test_a_wait_for_events_that_hangs_costs_a_tick_and_then_only_the_gpu_that_it_hangs_for(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.tick(9)
    hang(rig, 1, WAIT)
    failed = Uncovered.CALLS_FAILED
    with caplog.at_level(logging.INFO):
        rig.tick()
        assert set(results(rig).values()) == {failed}
        assert (rig.agent.view.stuck_calls, rig.agent.view.hung_gpus) == (1, 0)
        # Each has a set of its own now: it is the second GPU's that hangs.
        rig.tick(3)
    assert results(rig) == {"0": State.FREE, "1": failed, "2": State.FREE, "3": State.FREE}
    assert (rig.agent.view.stuck_calls, rig.agent.view.hung_gpus) == (2, 1)
    rig.nvml.gpus[2].xids.append((31, None))
    rig.tick()
    assert rig.agent.view.gpus[2].seen.xids == ((31, None),)
    with caplog.at_level(logging.INFO):
        come_back(rig, 1, WAIT)
        rig.tick(2)
    assert set(results(rig).values()) == {State.FREE}
    said = [record.message for record in caplog.records if record.message.startswith(("gpu_", "events_"))]
    assert sorted(said) == ["events_answer_again", "events_hung", "gpu_answers_again", "gpu_hung", "gpu_xid"]
    rig.tick(120)
    assert [len(one.handles) for one in rig.nvml.event_sets] == [4], "they share one again, and no other is left"


def test_all_time_with_a_hung_gpu_adds_up_and_nothing_of_it_is_a_state(rig: Rig) -> None:
    rig.tick(100)
    hang(rig, 1, RATES)
    rig.tick(101)
    come_back(rig, 1, RATES)
    rig.tick(99)
    first, hung, behind, _ = rig.readings()[0].gpus
    assert first.state_slice_ms == {State.FREE: 7 * 300_000}
    assert hung.uncovered_slice_ms == {Uncovered.CALLS_FAILED: 7 * 101_000, Uncovered.FIRST_TICK: 7 * 1_000}
    assert behind.uncovered_slice_ms == {Uncovered.CALLS_FAILED: 7 * 1_000, Uncovered.FIRST_TICK: 7 * 1_000}
    assert behind.state_slice_ms == {State.FREE: 7 * 298_000}


def test_nothing_is_asked_about_a_gpu_while_a_call_about_it_hangs(rig: Rig) -> None:
    hang(rig, 1, "nvmlDeviceGetUUID")
    rig.tick(60)
    assert results(rig)["1"] is Uncovered.CALLS_FAILED
    before = rig.nvml.calls["nvmlDeviceGetUUID"]
    rig.tick(50)
    assert rig.nvml.calls["nvmlDeviceGetUUID"] == before + 3 * 5, "the other three, every ten seconds"
    assert rig.agent.view.hung_calls == {"nvmlDeviceGetUUID": 1}


def test_a_gpu_that_hangs_before_it_is_known_is_counted_and_the_others_are_found(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(3))
    let_go = hang(rig, 0, "nvmlDeviceGetUUID")
    rig.tick(3)
    assert results(rig) == {"1": State.FREE, "2": State.FREE}
    assert rig.agent.view.unidentified == 1
    rig.gpu.hangs.clear()
    let_go.set()
    until(lambda: rig.agent.stuck_calls == 0)
    rig.tick(13)
    assert results(rig) == {"0": State.FREE, "1": State.FREE, "2": State.FREE}


def test_a_structure_that_a_hung_call_may_write_to_is_used_by_no_other(tmp_path: Path) -> None:
    """The fake asserts it."""
    rig = Rig(tmp_path, gpus(3))
    for gpu in rig.nvml.gpus:
        gpu.gpm = {1: (0, 60.0)}
        gpu.work(60, 4100)
    rig.tick(5)
    hang(rig, 0, "nvmlGpmMetricsGet")
    rig.tick(5)
    assert results(rig) == {"0": Uncovered.CALLS_FAILED, "1": State.BUSY, "2": State.BUSY}
    come_back(rig, 0, "nvmlGpmMetricsGet")
    rig.tick(5)
    assert results(rig)["0"] is State.BUSY


def test_samples_of_a_hung_gpu_are_neither_used_nor_freed_until_its_call_comes_back(tmp_path: Path) -> None:
    """The fake asserts that nobody takes a sample that was freed; here, that none is lost for ever."""
    rig = Rig(tmp_path, gpus(4))
    for gpu in rig.nvml.gpus:
        gpu.gpm = {1: (0, 60.0)}
        gpu.work(60, 4100)
    rig.tick(5)
    assert len(rig.nvml.gpm_samples) == 8
    hang(rig, 1, "nvmlGpmSampleGet")
    rig.tick(5)
    assert len(rig.nvml.gpm_samples) == 8
    assert results(rig)["2"] is State.BUSY
    come_back(rig, 1, "nvmlGpmSampleGet")
    rig.tick(5)
    assert len(rig.nvml.gpm_samples) == 8, "two of each GPU: the old two are freed, two new ones taken"
    assert results(rig)["1"] is State.BUSY
    assert len(rig.nvml.event_sets) == 1


def test_a_library_of_which_every_thread_hangs_is_hung_until_a_call_comes_back(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.tick(5)
    for index in range(4):
        hang(rig, index, WAIT)
        hang(rig, index, "nvmlDeviceGetSupportedEventTypes")
    with caplog.at_level(logging.INFO):
        rig.tick(20)
    view = rig.agent.view
    assert set(results(rig).values()) == {Uncovered.LIBRARY}
    assert (view.is_attached, view.driver_failures, view.stuck_calls) == (False, {"hung": 1}, 3)
    for gpu in rig.nvml.gpus:
        for function in list(gpu.hangs):
            gpu.hangs.pop(function).set()
    until(lambda: rig.agent.stuck_calls == 0)
    with caplog.at_level(logging.INFO):
        rig.tick(3)
    assert set(results(rig).values()) == {State.FREE}
    assert rig.agent.view.is_attached
    said = [record.message for record in caplog.records if record.message.startswith("driver")]
    assert said == ["driver_unavailable", "driver_attached"]


def test_a_hung_call_about_the_node_hangs_the_library(rig: Rig) -> None:
    rig.tick(5)
    let_go = rig.nvml.hangs[COUNT] = threading.Event()
    rig.tick(10)
    assert set(results(rig).values()) == {Uncovered.LIBRARY}
    assert rig.agent.view.hung_calls == {COUNT: 1}
    rig.nvml.hangs.clear()
    let_go.set()
    until(lambda: rig.agent.stuck_calls == 0)
    rig.tick(2)
    assert set(results(rig).values()) == {State.FREE}


def test_a_driver_that_takes_long_to_start_is_waited_for_and_started_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, gpus(1))
    let_go = rig.nvml.hangs["nvmlInit"] = threading.Event()
    with caplog.at_level(logging.WARNING):
        rig.tick(ATTACH_PATIENCE_MS // 1_000)
    assert caplog.messages == [], "starting for a minute is no reason to complain"
    with caplog.at_level(logging.WARNING):
        rig.tick(60)
    assert caplog.messages == ["driver_unavailable"]
    rig.nvml.hangs.clear()
    let_go.set()
    until(lambda: rig.agent.stuck_calls == 0)
    rig.tick(2)
    assert results(rig) == {"0": State.FREE}
    assert (rig.nvml.calls["nvmlInit"], rig.nvml.attached) == (1, 1)
    rig.agent.close()
    assert rig.nvml.attached == 0, "each start has its end, the late one too"


def test_a_start_that_failed_late_is_tried_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    let_go = rig.nvml.hangs["nvmlInit"] = threading.Event()
    rig.tick(3)
    rig.nvml.hangs.clear()
    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    let_go.set()
    until(lambda: rig.agent.stuck_calls == 0)
    rig.tick(5)
    rig.nvml.fails.clear()
    rig.tick(60)
    assert results(rig) == {"0": State.FREE}
    assert rig.nvml.attached == 1


def test_an_agent_that_is_told_to_stop_while_a_call_hangs_seals_and_does_not_wait(rig: Rig) -> None:
    rig.tick(10)
    hang(rig, 1, FIELDS)
    rig.tick(10)
    shutdowns = rig.nvml.calls["nvmlShutdown"]
    rig.agent.close()
    assert spans(rig.readings()) == [(NOON_MS, NOON_MS + 20_000)]
    assert rig.nvml.calls["nvmlShutdown"] == shutdowns, "a library with a call in it is not shut down"
    assert rig.agent.stuck_calls == 1


def test_an_agent_whose_shutdown_hangs_seals_and_does_not_wait(rig: Rig) -> None:
    rig.tick(10)
    let_go = rig.nvml.hangs["nvmlShutdown"] = threading.Event()
    rig.agent.close()
    assert spans(rig.readings()) == [(NOON_MS, NOON_MS + 10_000)]
    assert rig.agent.stuck_calls == 1
    let_go.set()


def test_a_library_that_is_lost_while_a_call_hangs_in_it_is_not_shut_down_under_it(rig: Rig) -> None:
    rig.tick(5)
    hang(rig, 1, FIELDS)
    rig.tick(2)
    rig.nvml.gpus[2].fails[FIELDS] = UNINITIALIZED
    rig.tick(2)
    assert rig.nvml.calls["nvmlShutdown"] == 0
    assert set(results(rig).values()) == {Uncovered.LIBRARY}
    rig.nvml.gpus[2].fails.clear()
    rig.tick(70)
    assert results(rig)["2"] is State.FREE
    come_back(rig, 1, FIELDS)
    rig.tick(3)
    assert set(results(rig).values()) == {State.FREE}
    assert (rig.nvml.calls["nvmlInit"], rig.nvml.attached) == (1, 1)
