# SPDX-License-Identifier: Apache-2.0
"""The loop on virtual time: drivers that fail, GPUs that come and go, clocks that step, machines that sleep."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.errors import StorageError
from gpuledger.states import State, Uncovered
from tests.fakes.agents import Rig, spans
from tests.fakes.clock import MS_NS, NOON_MS
from tests.fakes.nvml import (
    LOST,
    NOT_LOADED,
    RESET_REQUIRED,
    UNKNOWN,
    gpus,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, gpus(2))


def results(rig: Rig) -> dict[str, State | Uncovered]:
    return {gpu.identity.uuid[-36:-28][-1]: gpu.result for gpu in rig.agent.view.gpus}


def covered_ms(rig: Rig, uuid: str, what: State | Uncovered) -> int:
    """Sealed time of one GPU in one state, or uncovered for one reason."""
    total = 0
    for reading in rig.readings():
        for gpu in reading.gpus:
            if gpu.uuid == uuid:
                parts = [*gpu.state_slice_ms.items(), *gpu.uncovered_slice_ms.items()]
                total += sum(amount for key, amount in parts if key is what) // 7
    return total


# ---------------------------------------------------------------------------------------------- the ordinary day


def test_a_cell_is_sealed_when_it_is_over_and_its_time_adds_up(rig: Rig) -> None:
    rig.gpu.work(90, 4100)
    rig.agent.tick()
    rig.tick(299)
    assert rig.readings() == []
    rig.tick()
    (reading,) = rig.readings()
    assert (reading.start_ms, reading.end_ms) == (NOON_MS, NOON_MS + CELL_MS)
    busy, free = reading.gpus
    assert (busy.state_slice_ms, free.state_slice_ms) == ({State.BUSY: 7 * CELL_MS}, {State.FREE: 7 * CELL_MS})
    assert busy.energy_mj == {"busy": 500_000 * 300}
    assert rig.agent.view.last_sequence == 1


def test_the_loop_ticks_at_the_multiples_of_the_interval_and_seals_when_told_to_stop(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.clock.advance_ms(12_345)
    rig.clock.stop_after_waits = 21
    rig.agent.run(threading.Event())
    assert rig.agent.view.ticks == 21
    assert spans(rig.readings()) == [(NOON_MS + 13_000, NOON_MS + 33_000)]
    assert rig.nvml.attached == 0


def test_a_view_that_was_published_never_changes(rig: Rig) -> None:
    rig.gpu.fails["nvmlDeviceGetUtilizationRates"] = UNKNOWN
    rig.agent.tick()
    view = rig.agent.view
    before = repr(view)
    rig.gpu.fails["nvmlDeviceGetTotalEnergyConsumption"] = LOST
    rig.nvml.gpus[1].fails["nvmlDeviceGetUtilizationRates"] = 20
    rig.tick(5)
    assert repr(view) == before


# ---------------------------------------------------------------------------------------------- GPUs


@pytest.mark.parametrize("code", [LOST, RESET_REQUIRED])
@pytest.mark.parametrize("functions", [["nvmlDeviceGetUtilizationRates"], ["*"], ["*", "nvmlDeviceGetHandleByIndex"]])
def test_a_gpu_that_is_lost_is_down_while_its_neighbour_is_metered(rig: Rig, code: int, functions: list[str]) -> None:
    rig.agent.tick()
    rig.tick(100)
    rig.gpu.fails = dict.fromkeys(functions, code)
    rig.tick(100)
    assert results(rig) == {"0": State.DOWN, "1": State.FREE}
    rig.gpu.fails.clear()
    rig.tick(100)
    lost, well = rig.readings()[0].gpus
    assert lost.state_slice_ms == {State.FREE: 7 * 200_000, State.DOWN: 7 * 100_000}
    assert well.state_slice_ms == {State.FREE: 7 * CELL_MS}


def test_a_gpu_that_was_lost_before_the_agent_knew_it_is_counted_and_in_no_reading(rig: Rig) -> None:
    rig.gpu.fails["*"] = LOST
    rig.tick(3)
    assert results(rig) == {"1": State.FREE}
    assert rig.agent.view.unidentified == 1
    rig.gpu.fails.clear()
    rig.tick(12)
    assert results(rig) == {"0": State.FREE, "1": State.FREE}
    assert rig.agent.view.unidentified == 0


def test_a_gpu_that_departs_leaves_the_view_and_its_time_says_not_enumerated(rig: Rig) -> None:
    rig.agent.tick()
    rig.tick(100)
    departed = rig.nvml.gpus.pop()
    rig.tick(50)
    assert results(rig) == {"0": State.FREE}
    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    rig.gpu.fails["*"] = NOT_LOADED
    rig.tick(50)
    assert results(rig) == {"0": Uncovered.LIBRARY}, "the driver going does not bring it back"
    rig.tick(100)
    (reading,) = rig.readings()
    gone = reading.gpus[1]
    assert gone.uuid == departed.uuid
    assert set(gone.uncovered_slice_ms) == {Uncovered.NOT_ENUMERATED}
    assert gone.uncovered_slice_ms[Uncovered.NOT_ENUMERATED] >= 7 * 190_000


def test_a_new_board_at_the_index_of_one_that_departed_is_the_one_that_can_be_lost(rig: Rig) -> None:
    rig.tick(3)
    rig.nvml.gpus.pop()
    rig.tick(20)
    board = gpus(3)[2]
    rig.nvml.gpus.append(board)
    rig.tick(20)
    board.fails = dict.fromkeys(["*", "nvmlDeviceGetHandleByIndex"], LOST)
    rig.tick(20)
    assert results(rig) == {"0": State.FREE, "2": State.DOWN}


def test_gpus_that_change_places_stay_who_they_are(rig: Rig) -> None:
    rig.gpu.work(90, 4100)
    rig.tick(30)
    rig.nvml.gpus.reverse()
    rig.tick(60)
    assert results(rig) == {"0": State.BUSY, "1": State.FREE}
    assert {gpu.identity.uuid[11]: gpu.identity.index for gpu in rig.agent.view.gpus} == {"0": 1, "1": 0}


# ---------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("step_ms", [1_001, 3_600_000, -1_001, -90_000])
def test_a_clock_that_steps_begins_a_session_that_seals_nothing_twice(rig: Rig, step_ms: int) -> None:
    rig.agent.tick()
    rig.tick(100)
    rig.clock.step_ms(step_ms)
    rig.tick(500)
    rig.agent.close()
    readings = rig.readings()
    found = spans(readings)
    assert found[0] == (NOON_MS, NOON_MS + 100_000)
    assert found[1][0] >= NOON_MS + 100_000
    if step_ms > 0:
        assert found[1][0] == NOON_MS + 101_000 + step_ms
    assert found[-1][1] == NOON_MS + 600_000 + step_ms
    assert len({reading.session for reading in readings}) == 2
    assert rig.agent.view.sessions == {"start": 1, "clock_step": 1}
    assert [reading.wall_end_ms - reading.end_ms for reading in readings] == [step_ms, *[0] * (len(readings) - 1)]


@pytest.mark.parametrize("step_ms", [999, -999, 1_000, -1_000])
def test_a_clock_that_drifts_by_up_to_a_second_changes_nothing_but_what_the_wall_said(rig: Rig, step_ms: int) -> None:
    rig.agent.tick()
    rig.tick(100)
    rig.clock.step_ms(step_ms)
    rig.tick(200)
    (reading,) = rig.readings()
    assert (reading.start_ms, reading.end_ms) == (NOON_MS, NOON_MS + CELL_MS)
    assert reading.wall_end_ms == NOON_MS + CELL_MS + step_ms
    assert rig.agent.view.sessions == {"start": 1}


def test_a_clock_far_behind_the_last_seal_is_said_once_and_covers_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.agent.tick()
    rig.tick(300)
    rig.clock.step_ms(-7_200_000)
    with caplog.at_level(logging.WARNING):
        rig.tick(60)
    assert caplog.messages == ["clock_step", "clock_behind_last_seal"]
    rig.agent.close()
    assert spans(rig.readings()) == [(NOON_MS, NOON_MS + CELL_MS)]
    assert rig.agent.view.ticks == 361, "it ticks on, so that it can be asked"


def test_a_clock_that_steps_back_while_the_disk_is_full_counts_no_time_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(records: object) -> None:
        raise StorageError("journal: cannot write a sealed reading: No space left on device")

    rig.agent.tick()
    rig.tick(400)
    with monkeypatch.context() as full:
        full.setattr(rig.journal, "append", refuse)
        rig.tick(250)
        assert rig.agent.view.seals_pending == 1
        rig.clock.step_ms(-500_000)
        rig.tick(300)
    rig.tick(600)
    rig.agent.close()
    spans(rig.readings())
    assert rig.agent.view.seals_pending == 0


def test_a_machine_that_slept_leaves_its_sleep_uncovered_without_a_new_session(rig: Rig) -> None:
    rig.agent.tick()
    rig.tick(50)
    rig.clock.advance_ms(40_000)
    rig.tick(100)
    rig.agent.close()
    assert spans(rig.readings()) == [(NOON_MS, NOON_MS + 50_000), (NOON_MS + 91_000, NOON_MS + 190_000)]
    assert rig.agent.view.sessions == {"start": 1}


@pytest.mark.parametrize(
    ("pause_ms", "held", "expected"),
    [
        (1_000, True, State.BUSY),
        (1_001, True, State.UNMEASURED),
        (1_001, False, Uncovered.GAP),
        (29_000, True, State.UNMEASURED),
        (29_000, False, Uncovered.GAP),
    ],
)
def test_a_tick_that_is_late_is_covered_up_to_two_intervals_and_unmeasured_up_to_thirty(
    rig: Rig, pause_ms: int, held: bool, expected: State | Uncovered
) -> None:
    if held:
        rig.gpu.work(90, 4100)
    rig.agent.tick()
    rig.tick(100)
    rig.clock.advance_ms(pause_ms)
    rig.tick()
    rig.agent.close()
    late_ms = pause_ms + 1_000
    known_ms = 100_000 if expected is State.BUSY else 0
    assert covered_ms(rig, rig.gpu.uuid, expected) == late_ms + known_ms


# ---------------------------------------------------------------------------------------------- lives


def test_an_agent_that_is_killed_loses_the_time_since_its_last_tick_and_no_more(rig: Rig) -> None:
    rig.agent.tick()
    rig.tick(437)
    rig.clock.advance_ms(15_500)
    rig.start()
    rig.tick(400)
    rig.agent.close()
    found = spans(rig.readings())
    assert found[:2] == [(NOON_MS, NOON_MS + CELL_MS), (NOON_MS + CELL_MS, NOON_MS + 437_000)]
    assert found[2][0] == NOON_MS + 437_000 + 16_500
    assert len({reading.session for reading in rig.readings()}) == 2


def test_an_agent_that_is_killed_at_any_tick_of_a_cell_counts_no_time_twice(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    for ticks in (1, 2, 298, 299, 300, 301, 3, 599, 1):
        rig.agent.tick()
        rig.tick(ticks)
        rig.start()
    spans(rig.readings())


def test_edges_are_multiples_of_the_interval_though_boottime_and_wall_clock_differ(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.clock.advance_ns(123_456_789)
    rig.start()
    rig.clock.stop_after_waits = 5
    rig.agent.run(threading.Event())
    (reading,) = rig.readings()
    assert (reading.start_ms % 1_000, reading.end_ms % 1_000) == (0, 0)
    assert rig.clock.wall_ns() // MS_NS % 1_000 == 0
