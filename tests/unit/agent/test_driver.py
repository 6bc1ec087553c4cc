# SPDX-License-Identifier: Apache-2.0
"""The driver's life on virtual time: calls that hang, versions that change, devices that go, releases that end."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuledger.states import State, Uncovered
from gpuledger_agent.driver import ATTACH_PATIENCE_MS, Ending
from gpuledger_agent.release import RELEASE_SECONDS
from tests.fakes.agents import Rig, spans
from tests.fakes.clock import NOON_MS
from tests.fakes.nvml import LOST, NOT_LOADED, UNINITIALIZED, UNKNOWN, VERSION_MISMATCH, gpus

ENERGY, RATES, COUNT = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetCount"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, gpus(4))
    rig.agent.tick()
    yield rig
    for gpu in rig.nvml.gpus:
        for hang in gpu.hangs.values():
            hang.set()
    for hang in rig.nvml.hangs.values():
        hang.set()


def results(rig: Rig) -> dict[str, State | Uncovered]:
    return {gpu.identity.uuid[11]: gpu.result for gpu in rig.agent.view.gpus}


def hang(rig: Rig, index: int, function: str) -> threading.Event:
    """Let the next call of `function` about a GPU hang; returns what lets it come back."""
    let_go = rig.nvml.gpus[index].hangs[function] = threading.Event()
    return let_go


def until(is_so: Callable[[], bool]) -> None:
    turn = threading.Event()
    for _ in range(6_000):
        if is_so():
            return
        turn.wait(0.01)
    raise AssertionError("waited in vain")


def come_back(rig: Rig, index: int, function: str) -> None:
    """Let the call that hangs, and all after it, come back."""
    rig.nvml.gpus[index].hangs.pop(function).set()
    until(lambda: rig.agent.stuck_calls == 0)


# ---------------------------------------------------------------------------------------------- hung


@pytest.mark.parametrize(
    "function",
    [ENERGY, RATES, "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetFieldValues", "nvmlEventSetWait_v2"],
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
    rig.tick(11)
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
    assert len(rig.nvml.event_sets) == 4


def test_a_library_of_which_every_thread_hangs_is_hung_until_a_call_comes_back(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.tick(5)
    for index in range(4):
        hang(rig, index, "*")
        hang(rig, index, "nvmlEventSetWait_v2")
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
    hang(rig, 1, ENERGY)
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
    hang(rig, 1, ENERGY)
    rig.tick(2)
    rig.nvml.gpus[2].fails[ENERGY] = UNINITIALIZED
    rig.tick(2)
    assert rig.nvml.calls["nvmlShutdown"] == 0
    assert set(results(rig).values()) == {Uncovered.LIBRARY}
    rig.nvml.gpus[2].fails.clear()
    rig.tick(70)
    assert results(rig)["2"] is State.FREE
    come_back(rig, 1, ENERGY)
    rig.tick(3)
    assert set(results(rig).values()) == {State.FREE}
    assert (rig.nvml.calls["nvmlInit"], rig.nvml.attached) == (1, 1)


# ---------------------------------------------------------------------------------------------- another version


def test_a_driver_that_comes_back_in_another_version_wants_a_new_process(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.tick(5)
    rig.nvml.gpus[0].fails[ENERGY] = UNINITIALIZED
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
    rig.nvml.gpus[0].fails[ENERGY] = UNINITIALIZED
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
    rig.nvml.gpus[0].fails[ENERGY] = UNINITIALIZED
    rig.tick()
    rig.nvml.gpus[0].fails.clear()
    rig.nvml.fails["nvmlSystemGetDriverVersion"] = UNKNOWN
    rig.tick(5)
    del rig.nvml.fails["nvmlSystemGetDriverVersion"]
    rig.clock.stop_after_waits = 50
    assert rig.agent.run(threading.Event()) is Ending.STOPPED


def test_a_new_program_waits_for_the_call_that_hangs_in_the_old_one(rig: Rig) -> None:
    rig.tick(5)
    hang(rig, 1, ENERGY)
    rig.tick(2)
    rig.nvml.gpus[2].fails[ENERGY] = VERSION_MISMATCH
    rig.clock.stop_after_waits = 20
    assert rig.agent.run(threading.Event()) is Ending.STOPPED


# ---------------------------------------------------------------------------------------------- taken away


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


# ---------------------------------------------------------------------------------------------- released


def ask(rig: Rig, for_ms: int | None = RELEASE_SECONDS * 1_000, name: str = "r1") -> Path:
    path = rig.directory / "release"
    request = {"name": name, "asked_ms": rig.clock.wall_ms}
    path.write_text(json.dumps(request if for_ms is None else {**request, "for_ms": for_ms}), encoding="ascii")
    return path


def told(rig: Rig) -> tuple[str, str | None]:
    state = json.loads((rig.directory / "driver").read_bytes())
    return state["state"], state["request"]


def test_a_release_lets_go_of_everything_and_asks_nothing_until_it_is_over(rig: Rig) -> None:
    rig.gpu.gpm = {1: (0, 0.0)}
    rig.tick(100)
    ask(rig)
    rig.tick()
    assert (rig.nvml.attached, rig.nvml.event_sets, rig.nvml.gpm_samples) == (0, [], [])
    assert told(rig) == ("released", "r1")
    assert rig.agent.view.is_released
    assert not rig.agent.view.is_attached
    before = rig.nvml.calls.copy()
    rig.tick(99)
    assert rig.nvml.calls == before
    assert set(results(rig).values()) == {Uncovered.RELEASED}
    (rig.directory / "release").unlink()
    rig.tick(100)
    assert told(rig) == ("attached", None)
    gpu = rig.readings()[0].gpus[0]
    assert gpu.uncovered_slice_ms == {Uncovered.RELEASED: 7 * 100_000, Uncovered.FIRST_TICK: 7 * 1_000}
    assert gpu.state_slice_ms == {State.FREE: 7 * 199_000}


def test_a_release_ends_by_itself(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    path = ask(rig)
    rig.tick(RELEASE_SECONDS - 1)
    assert set(results(rig).values()) == {Uncovered.RELEASED}
    with caplog.at_level(logging.WARNING):
        rig.tick(3)
    assert caplog.messages == ["release_ran_out"]
    assert set(results(rig).values()) == {State.FREE}
    assert not path.exists()


def test_a_release_until_resumed_lasts(rig: Rig) -> None:
    ask(rig, for_ms=None)
    rig.tick(2 * RELEASE_SECONDS)
    assert set(results(rig).values()) == {Uncovered.RELEASED}


@pytest.mark.parametrize("step_ms", [3_600_000, -3_600_000])
def test_a_clock_that_steps_during_a_release_does_not_change_its_length(rig: Rig, step_ms: int) -> None:
    ask(rig, for_ms=60_000)
    rig.tick(10)
    rig.clock.step_ms(step_ms)
    rig.tick(49)
    assert rig.agent.view.is_released
    rig.tick(3)
    assert not rig.agent.view.is_released


def test_a_restart_of_the_agent_does_not_end_a_release(rig: Rig) -> None:
    rig.tick(3)
    ask(rig, for_ms=60_000)
    rig.tick(10)
    rig.start()
    before = rig.nvml.calls.copy()
    rig.tick(40)
    assert rig.nvml.calls == before
    assert told(rig) == ("released", "r1")
    rig.tick(15)
    assert set(results(rig).values()) == {State.FREE}


def test_a_second_request_takes_the_place_of_the_first(rig: Rig) -> None:
    ask(rig, for_ms=10_000)
    rig.tick(5)
    ask(rig, for_ms=100_000, name="r2")
    rig.tick(90)
    assert told(rig) == ("released", "r2")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"name": "r1", "asked_ms": "soon"}', "x" * 5_000])
def test_a_request_that_is_none_is_refused_and_changes_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (rig.directory / "release").write_text(text, encoding="ascii")
    with caplog.at_level(logging.ERROR):
        rig.tick(10)
    assert caplog.messages == ["release_refused"]
    assert set(results(rig).values()) == {State.FREE}


def test_a_driver_with_a_call_that_hangs_in_it_is_released_when_the_call_comes_back(rig: Rig) -> None:
    rig.tick(3)
    hang(rig, 1, ENERGY)
    rig.tick(2)
    ask(rig)
    rig.tick(5)
    assert told(rig) == ("hung", "r1")
    assert rig.nvml.attached == 1
    assert set(results(rig).values()) == {Uncovered.RELEASED}, "it asks nothing all the same"
    come_back(rig, 1, ENERGY)
    rig.tick()
    assert (told(rig), rig.nvml.attached) == (("released", "r1"), 0)


def test_a_driver_that_is_not_there_is_released_at_once(rig: Rig) -> None:
    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    rig.gpu.fails["*"] = NOT_LOADED
    rig.tick(3)
    assert told(rig)[0] == "unattached"
    ask(rig)
    rig.tick()
    assert told(rig) == ("released", "r1")


def test_a_gpu_that_departed_stays_departed_through_a_release(rig: Rig) -> None:
    rig.tick(3)
    rig.nvml.gpus.pop()
    rig.tick(12)
    ask(rig)
    rig.tick(3)
    assert results(rig) == dict.fromkeys("012", Uncovered.RELEASED)


def test_a_lost_gpu_is_not_down_while_nobody_may_look(rig: Rig) -> None:
    rig.gpu.fails["*"] = LOST
    rig.tick(3)
    ask(rig)
    rig.tick(3)
    assert results(rig)["0"] is Uncovered.RELEASED


def test_a_state_that_cannot_be_told_costs_nothing_but_the_telling(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: object, document: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpuledger_agent.release._write", refuse)
    ask(rig)
    with caplog.at_level(logging.WARNING):
        rig.tick(3)
    assert caplog.messages == ["state_not_told"]
    assert rig.agent.view.is_released
