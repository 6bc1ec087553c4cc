# SPDX-License-Identifier: Apache-2.0
"""A driver that is let go of on request: nothing is asked until it is over."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger.states import State, Uncovered
from gpuledger_agent.release import RELEASE_SECONDS
from tests.fakes.agents import Rig
from tests.fakes.hangs import come_back, hang, let_all_go, results
from tests.fakes.nvml import LOST, NOT_LOADED, gpus

FIELDS, RATES, COUNT = "nvmlDeviceGetFieldValues", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetCount"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, gpus(4))
    rig.agent.tick()
    yield rig
    let_all_go(rig)


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
    hang(rig, 1, FIELDS)
    rig.tick(2)
    ask(rig)
    rig.tick(5)
    assert told(rig) == ("hung", "r1")
    assert rig.nvml.attached == 1
    assert set(results(rig).values()) == {Uncovered.RELEASED}, "it asks nothing all the same"
    come_back(rig, 1, FIELDS)
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
