# SPDX-License-Identifier: Apache-2.0
"""Xid errors: counted by number, never waited for, and no trouble with them costs more than a call now and then."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gpuledger.states import State
from gpuledger_agent import config
from gpuledger_agent.events import XIDS_PER_TICK_MAX
from gpuledger_agent.loop import GpuView
from gpuledger_agent.snapshot import GpuSnapshot
from gpuledger_agent.xids import APPLICATION, FATAL, meaning
from tests.fakes.agents import Rig
from tests.fakes.nvml import LOST, NOT_LOADED, NOT_SUPPORTED, UNKNOWN, gpus

WAIT, CREATE, REGISTER = "nvmlEventSetWait_v2", "nvmlEventSetCreate", "nvmlDeviceRegisterEvents"
TYPES = "nvmlDeviceGetSupportedEventTypes"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path, gpus(2))
    rig.tick(2)
    return rig


def view(rig: Rig, index: int) -> GpuView:
    return next(gpu for gpu in rig.agent.view.gpus if gpu.identity.uuid == rig.nvml.gpus[index].uuid)


def seen(rig: Rig, index: int = 0) -> GpuSnapshot:
    return view(rig, index).seen


def state(rig: Rig, index: int = 0) -> object:
    return view(rig, index).result


def test_errors_are_counted_by_number_and_sealed_with_their_gpu(rig: Rig) -> None:
    rig.gpu.work(90, 4100)
    rig.gpu.xids += [(31, None), (31, None), (13, 2)]
    rig.tick()
    assert seen(rig).xids == ((31, None), (31, None), (13, 2))
    rig.tick()
    assert seen(rig).xids == ()
    rig.gpu.xids.append((31, None))
    rig.tick(400)
    assert rig.agent.view.gpus[0].total.health.xids == {31: 3, 13: 1}
    first, second = rig.readings()[0].gpus
    assert (first.xids, second.xids) == ({31: 3, 13: 1}, {})
    assert State.DOWN not in first.state_slice_ms, "what a program did wrong is no fault of the GPU"


def test_all_gpus_share_a_set_that_is_asked_once_a_tick_while_nothing_happens(rig: Rig) -> None:
    before = rig.nvml.calls[WAIT]
    rig.tick(30)
    assert rig.nvml.calls[WAIT] == before + 30
    assert (rig.nvml.calls[CREATE], rig.nvml.calls[REGISTER], len(rig.nvml.event_sets)) == (1, 2, 1)


def test_each_error_in_a_shared_set_is_its_own_gpus(rig: Rig) -> None:
    rig.gpu.xids += [(31, 1), (13, None)]
    rig.nvml.gpus[1].xids += [(43, None)]
    rig.tick()
    assert (seen(rig).xids, seen(rig, 1).xids) == (((31, 1), (13, None)), ((43, None),))


def test_a_gpu_that_is_found_later_shares_the_set(rig: Rig) -> None:
    rig.nvml.gpus.append(gpus(3)[2])
    rig.tick(20)
    assert [len(one.handles) for one in rig.nvml.event_sets] == [3], "a set is made anew, and the old one freed"
    for gpu in rig.nvml.gpus:
        gpu.xids.append((31, None))
    rig.tick()
    assert [seen(rig, index).xids for index in range(3)] == [((31, None),)] * 3


@pytest.mark.parametrize("types", [0, 1 | 2])
def test_a_gpu_without_such_events_is_asked_once(tmp_path: Path, types: int) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.event_types = types
    rig.tick(100)
    assert (rig.nvml.calls[TYPES], rig.nvml.calls[CREATE], rig.nvml.calls[WAIT]) == (1, 0, 0)
    assert rig.agent.view.sources["events"].is_success


@pytest.mark.parametrize("function", [TYPES, REGISTER])
def test_events_that_the_driver_does_not_offer_cost_nothing_after_the_first_tick(tmp_path: Path, function: str) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.fails[function] = NOT_SUPPORTED
    rig.tick(100)
    assert rig.nvml.calls[function] == 1
    assert rig.nvml.calls[WAIT] == 0
    assert rig.nvml.event_sets == [], "a set without a GPU is not kept"
    assert rig.agent.view.sources["events"].failures == {}


def test_a_wait_that_the_driver_does_not_have_is_not_asked_for_again(rig: Rig) -> None:
    rig.nvml.fails[WAIT] = 13
    before = rig.nvml.calls[WAIT]
    rig.tick(100)
    assert rig.nvml.calls[WAIT] == before + 1
    assert rig.nvml.event_sets == []


def test_a_lost_gpu_whose_wait_fails_at_once_is_asked_ever_more_rarely_and_counted(rig: Rig) -> None:
    rig.gpu.fails["*"] = LOST
    asked = []
    for second in range(400):
        before = rig.nvml.calls[WAIT] + rig.nvml.calls[TYPES]
        rig.tick()
        if rig.nvml.calls[WAIT] + rig.nvml.calls[TYPES] > before + 1:  # beside the other GPU's
            asked.append(second)
    asked.remove(60)  # the other GPU goes back into a shared set
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert pauses == sorted(pauses), "it backs off"
    assert len(asked) <= 12
    assert rig.agent.view.sources["events"].failures["gpu_is_lost"] == 1 + len(asked), "once for all, then for itself"
    assert state(rig) is State.DOWN
    assert state(rig, 1) is State.FREE


def test_gpus_go_back_into_a_shared_set_after_a_minute_and_after_twice_that_when_it_failed_again(rig: Rig) -> None:
    def shared_after() -> int:
        rig.gpu.fails[WAIT] = UNKNOWN
        rig.tick()
        del rig.gpu.fails[WAIT]
        for second in range(1_000):
            if any(len(one.handles) == 2 for one in rig.nvml.event_sets):
                return second
            rig.tick()
        raise AssertionError("never")

    assert [shared_after() for _ in range(3)] == [61, 121, 241]
    assert len(rig.nvml.event_sets) == 1, "nobody has another"


def test_nothing_is_heard_twice_and_nothing_is_lost_while_gpus_change_sets(rig: Rig) -> None:
    told = [0, 0]
    for second in range(300):
        if second == 100:
            rig.gpu.fails["*"] = LOST
        if second == 150:
            rig.gpu.fails.clear()
        for gpu in rig.nvml.gpus:
            gpu.xids.append((31, None))
        rig.tick()
        told = [told[index] + len(seen(rig, index).xids) for index in range(2)]
    assert told[1] == 300
    # The lost one is asked ever more rarely, and at its return nothing from before counts.
    assert told[0] <= 300


def test_a_gpu_that_comes_back_is_registered_anew_at_once(rig: Rig) -> None:
    rig.gpu.fails["*"] = LOST
    rig.tick(200)
    rig.gpu.fails.clear()
    rig.tick(2)
    rig.gpu.xids.append((31, None))
    rig.tick()
    assert seen(rig).xids == ((31, None),)
    assert [len(one.handles) for one in rig.nvml.event_sets] == [1, 1], "the old set is freed"


def test_a_gpu_that_falls_off_the_bus_is_heard_before_it_is_silent(rig: Rig) -> None:
    rig.gpu.xids.append((79, None))
    rig.gpu.fails = {"*": LOST, "nvmlDeviceGetHandleByIndex": LOST}
    rig.tick()
    assert seen(rig).xids == ((79, None),)
    rig.tick(9)
    rig.gpu.xids.append((45, None))
    rig.tick(60)
    assert view(rig, 0).total.health.xids == {79: 1, 45: 1}, "without a handle its set is asked all the same"


def test_a_set_that_never_runs_empty_does_not_hold_up_the_tick(rig: Rig) -> None:
    rig.gpu.xids += [(31, None)] * (2 * XIDS_PER_TICK_MAX + 6)
    rig.tick()
    assert len(seen(rig).xids) == 2 * XIDS_PER_TICK_MAX, "so many for each GPU that shares the set"
    rig.tick()
    assert len(seen(rig).xids) == 6


@pytest.mark.parametrize("number", [0, 1_000, 2**40])
def test_a_number_that_is_no_xid_is_counted_as_a_failure_and_not_sealed(rig: Rig, number: int) -> None:
    rig.gpu.xids += [(number, None), (31, None)]
    rig.tick()
    assert seen(rig).xids == ((31, None),)
    assert rig.agent.view.sources["events"].failures == {"unexpected_number": 1}


def test_what_failed_for_one_gpu_is_tried_again_and_costs_the_others_nothing(rig: Rig) -> None:
    rig.gpu.fails[WAIT] = UNKNOWN
    rig.tick()
    rig.nvml.gpus[1].xids.append((31, None))
    rig.tick()
    assert seen(rig, 1).xids == ((31, None),)
    del rig.gpu.fails[WAIT]
    rig.tick(5)
    rig.gpu.xids.append((13, None))
    rig.tick()
    assert seen(rig).xids == ((13, None),)


def test_errors_that_came_with_a_failure_are_kept(rig: Rig) -> None:
    rig.gpu.xids.append((31, None))
    rig.gpu.fails[WAIT] = UNKNOWN
    rig.tick()
    assert seen(rig).xids == ((31, None),)


def test_a_pause_does_not_outlive_a_clock_that_steps_back(rig: Rig) -> None:
    rig.gpu.fails[WAIT] = UNKNOWN
    rig.tick(50)
    del rig.gpu.fails[WAIT]
    rig.clock.step_ms(-3_600_000)
    rig.tick(2)
    rig.gpu.xids.append((31, None))
    rig.tick()
    assert seen(rig).xids == ((31, None),)


def test_sets_are_freed_before_the_driver_is_let_go_of(rig: Rig) -> None:
    rig.gpu.fails["nvmlDeviceGetUtilizationRates"] = NOT_LOADED
    rig.tick()
    assert (rig.nvml.event_sets, rig.nvml.attached) == ([], 0)
    rig.gpu.fails.clear()
    rig.tick(2)
    assert len(rig.nvml.event_sets) == 1
    rig.agent.close()
    assert rig.nvml.event_sets == []


# ---------------------------------------------------------------------------------------------- the lists


def test_no_number_is_both_a_gpus_fault_and_a_programs() -> None:
    assert FATAL.keys() & APPLICATION.keys() == set()
    assert {48, 62, 64, 74, 79, 95, 119, 120} <= FATAL.keys()
    assert {13, 31, 43} <= APPLICATION.keys()
    assert (meaning(79), meaning(31), meaning(999)) == (FATAL[79], APPLICATION[31], None)


def test_the_list_of_fatal_numbers_is_part_of_what_a_reading_says_of_its_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    before = config.AgentConfig().digest()
    monkeypatch.setattr(config, "FATAL", {79: "only this one"})
    assert config.AgentConfig().digest() != before
