# SPDX-License-Identifier: Apache-2.0
"""A divided GPU on a fake driver: how often what is asked, what a failure costs, and who holds which instance."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from gpuledger.reading import decode_workloads
from gpuledger.states import State, Uncovered
from gpuledger_agent.loop import GpuView
from gpuledger_agent.tally import Part
from tests.fakes.agents import Rig, records
from tests.fakes.nvml import (
    LOST,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_LOADED,
    NOT_SUPPORTED,
    UNKNOWN,
    FakeInstance,
    gpus,
    instance,
)

MODE, COUNT, SLOT = "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex"
TAKE, LIST, MEMORY = "nvmlGpmMigSampleGet", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMemoryInfo"


@pytest.fixture
def big() -> FakeInstance:
    one = instance(2, 3, 4100)
    one.gpm = {1: (0, 70.0), 2: (0, 40.0)}
    return one


@pytest.fixture
def small() -> FakeInstance:
    return instance(9, 1)


@pytest.fixture
def rig(tmp_path: Path, big: FakeInstance, small: FakeInstance) -> Rig:
    """A GPU divided into 3 slices that work, 1 that nobody holds, and 3 in no instance."""
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.gpm, rig.gpu.instances = {}, [big, None, small]
    rig.tick(3)
    return rig


def gpu(rig: Rig) -> GpuView:
    return rig.agent.view.gpus[0]


def part(rig: Rig, number: int | None) -> Part:
    """The part that is an instance, or None: what no instance has."""
    (found,) = (one for one in gpu(rig).parts if (None if one.instance is None else one.instance.instance) == number)
    return found


def results(rig: Rig) -> list[State | Uncovered]:
    return [one.result for one in gpu(rig).parts]


def calls_of(rig: Rig, ticks: int) -> Counter[str]:
    """The calls of so many ticks."""
    before = Counter(rig.nvml.calls)
    rig.tick(ticks)
    return rig.nvml.calls - before


# ---------------------------------------------------------------------------------------------- what is seen


def test_each_instance_is_seen_as_a_gpu_of_its_own(rig: Rig) -> None:
    assert results(rig) == [State.BUSY, State.FREE, State.FREE]
    seen = part(rig, 2).seen
    assert (seen.activity_ppm, seen.activity_source, seen.sm_active_ppm) == (700_000, "gpm", 400_000)
    assert [holder.memory_bytes for holder in seen.holders or ()] == [1 << 30]
    assert gpu(rig).seen.activity_ppm is None
    assert gpu(rig).result is State.BUSY


def test_every_instance_shares_the_boards_health(rig: Rig) -> None:
    rig.gpu.recovery_action = 1
    rig.tick(10)
    assert results(rig) == [State.DOWN] * 3


def test_impossible_values_of_instances_are_counted_for_the_gpu(rig: Rig, big: FakeInstance) -> None:
    big.gpm = {1: (0, 130.0), 2: (0, -1.0)}
    rig.tick()
    assert part(rig, 2).result is State.UNMEASURED
    assert gpu(rig).total.rejected_values == 2


def test_a_gpu_may_be_divided_into_nothing(rig: Rig) -> None:
    rig.gpu.instances = []
    rig.tick()
    assert results(rig) == [State.FREE]
    assert gpu(rig).seen.is_divided


# ---------------------------------------------------------------------------------------------- what is asked


def test_a_gpu_that_is_not_divided_is_asked_for_its_mode_every_ten_seconds_and_for_nothing_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.tick(1)
    made = calls_of(rig, 20)
    assert made[MODE] == 2
    assert not {COUNT, SLOT, TAKE} & made.keys()


def test_a_process_on_an_instance_of_a_gpu_thought_whole_makes_the_next_tick_look(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.gpm = {1: (0, 99.0)}
    rig.tick(3)
    rig.gpu.instances = [instance(1, 1, 4100)]
    rig.gpu.memory_used_bytes = 1 << 30
    rig.tick()
    # What the whole GPU says of itself is not believed: not seven slices busy for one.
    assert results(rig) == [State.UNMEASURED]
    rig.tick()
    assert [one.slices for one in gpu(rig).parts] == [1, 6]


def test_processes_of_all_instances_are_read_at_once_when_memory_moved_on_any(rig: Rig, small: FakeInstance) -> None:
    assert calls_of(rig, 5)[LIST] == 0
    small.processes, small.memory_used_bytes = [(4200, 1 << 30)], 1 << 30
    assert calls_of(rig, 1)[LIST] == 1
    assert part(rig, 9).result is State.HELD
    assert calls_of(rig, 29)[LIST] == 0
    assert calls_of(rig, 1)[LIST] == 1


def test_instances_that_cannot_be_told_are_tried_three_times_and_then_every_ten_seconds(
    rig: Rig, big: FakeInstance
) -> None:
    big.fails["nvmlDeviceGetAttributes_v2"] = NO_PERMISSION
    assert calls_of(rig, 3)[COUNT] == 3
    assert results(rig) == [State.UNMEASURED]
    assert calls_of(rig, 9)[COUNT] == 0
    assert calls_of(rig, 1)[COUNT] == 1
    big.fails.clear()
    rig.tick(9)
    assert results(rig) == [State.UNMEASURED]
    rig.tick(2)
    assert [one.slices for one in gpu(rig).parts] == [3, 1, 3]
    assert rig.agent.view.sources["mig"].failures == {"no_permission": 4}
    big.fails["nvmlDeviceGetAttributes_v2"] = UNKNOWN
    assert calls_of(rig, 3)[COUNT] == 3


def test_gpm_that_is_refused_is_tried_three_times_and_then_at_every_tenth_tick(rig: Rig, big: FakeInstance) -> None:
    big.fails[TAKE] = NO_PERMISSION
    rig.tick(3)
    assert part(rig, 2).result is State.UNMEASURED
    made = calls_of(rig, 20)
    # The other instance's at every tick.
    assert made[TAKE] == 20 + 2
    big.fails.clear()
    rig.tick(12)
    assert part(rig, 2).result is State.BUSY


def test_gpm_that_answered_again_is_given_its_three_tries_again(rig: Rig, big: FakeInstance) -> None:
    for _ in range(3):
        big.fails[TAKE] = UNKNOWN
        rig.tick(2)
        big.fails.clear()
        rig.tick(2)
        assert part(rig, 2).result is State.BUSY


# ---------------------------------------------------------------------------------------------- who holds what


def test_without_the_privilege_to_list_the_boards_processes_each_instance_is_asked(
    tmp_path: Path, big: FakeInstance, small: FakeInstance
) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.gpm, rig.gpu.instances = {}, [big, small]
    rig.gpu.fails[LIST] = NO_PERMISSION
    rig.tick(3)
    assert results(rig) == [State.BUSY, State.FREE, State.UNMEASURED]
    # The board's is tried again every 30 s; those of instances are read as they must be.
    assert calls_of(rig, 29)[LIST] == 1 + 2
    rig.gpu.fails.clear()
    rig.tick(30)
    assert results(rig) == [State.BUSY, State.FREE, State.FREE]


def test_a_boards_list_that_does_not_say_who_is_where_is_of_no_use(rig: Rig) -> None:
    rig.gpu.tells_instances, rig.gpu.memory_used_bytes = False, 1 << 30
    rig.tick(30)
    assert results(rig) == [State.BUSY, State.FREE, State.UNMEASURED]


def test_a_process_on_an_instance_that_is_not_seen_keeps_the_rest_from_being_called_free(rig: Rig) -> None:
    hidden = instance(5, 2, 4300)
    hidden.fails[SLOT] = NOT_FOUND
    rig.gpu.instances = [*(rig.gpu.instances or ()), hidden]
    rig.gpu.memory_used_bytes = 1 << 30
    rig.tick()
    assert results(rig) == [State.BUSY, State.FREE, State.UNMEASURED]


def test_an_instances_own_list_that_fails_stands_for_a_minute_unless_its_memory_moved(
    rig: Rig, big: FakeInstance, small: FakeInstance
) -> None:
    rig.gpu.fails[LIST] = NO_PERMISSION
    big.fails[LIST] = small.fails[LIST] = UNKNOWN
    rig.tick(50)
    assert results(rig)[:2] == [State.BUSY, State.FREE]
    small.memory_used_bytes = 5
    rig.tick()
    assert results(rig)[:2] == [State.BUSY, State.UNMEASURED]
    rig.tick(20)
    assert results(rig)[:2] == [State.UNMEASURED, State.UNMEASURED]


def test_where_the_board_does_not_tell_its_memory_the_instances_tell_when_to_look(rig: Rig) -> None:
    rig.gpu.fails[MEMORY] = NOT_SUPPORTED
    rig.tick()
    assert calls_of(rig, 20)[LIST] == 0
    assert results(rig) == [State.BUSY, State.FREE, State.FREE]


# ---------------------------------------------------------------------------------------------- coming and going


def test_an_instance_made_anew_with_an_old_id_is_another_one(rig: Rig, big: FakeInstance, small: FakeInstance) -> None:
    again = instance(2, 2, 4200, uuid=big.uuid)
    again.gpm = {1: (0, 90.0)}
    rig.gpu.instances = [again, small]
    rig.tick()
    # Its first sample only seeds: the fake driver would not stand for two of different instances.
    assert results(rig) == [State.UNMEASURED, State.FREE, State.FREE]
    rig.tick()
    assert results(rig)[0] is State.BUSY
    assert len(rig.nvml.gpm_samples) == 4


def test_samples_are_given_back_with_the_instance_with_the_division_and_with_the_driver(
    rig: Rig, small: FakeInstance
) -> None:
    assert len(rig.nvml.gpm_samples) == 4
    rig.gpu.instances = [small]
    rig.tick()
    assert len(rig.nvml.gpm_samples) == 2
    rig.gpu.instances = None
    rig.tick(11)
    assert len(rig.nvml.gpm_samples) == 2  # the whole GPU's
    rig.gpu.instances = [small]
    rig.tick(11)
    assert len(rig.nvml.gpm_samples) == 4
    rig.agent.close()
    assert rig.nvml.gpm_samples == []


def test_after_a_loss_nothing_that_was_read_of_an_instance_is_believed(rig: Rig) -> None:
    rig.gpu.fails["*"] = LOST
    rig.tick()
    assert results(rig) == [State.DOWN]
    rig.gpu.fails.clear()
    made = calls_of(rig, 1)
    assert (made[MODE], made[LIST]) == (1, 1)
    assert results(rig) == [State.UNMEASURED, State.FREE, State.FREE]


def test_a_library_that_was_gone_finds_the_instances_again(rig: Rig) -> None:
    rig.nvml.fails["nvmlInit"] = NOT_LOADED
    rig.gpu.fails["*"] = NOT_LOADED
    rig.tick(3)
    assert results(rig) == [Uncovered.LIBRARY]
    rig.nvml.fails.clear()
    rig.gpu.fails.clear()
    rig.tick(6)
    assert results(rig) == [State.BUSY, State.FREE, State.FREE]


def test_what_the_whole_gpu_did_not_offer_before_it_was_divided_is_asked_for_again_afterwards(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.work(50, 4100)
    rig.tick(2)
    rig.gpu.instances = [instance(9, 1)]
    rig.tick(11)
    rig.gpu.instances, rig.gpu.gpm = None, {1: (0, 60.0)}
    rig.tick(12)
    assert (gpu(rig).seen.activity_ppm, gpu(rig).seen.activity_source) == (600_000, "gpm")


def test_instances_and_modes_are_said_when_they_change(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        rig.tick(12)
        assert caplog.messages == []
        rig.gpu.instances = [instance(4, 2)]
        rig.tick()
        assert caplog.messages == ["instance_departed", "instance_departed", "instance_found"]
        rig.gpu.instances = None
        rig.tick(10)
        assert caplog.messages[3:] == ["mig_mode", "instance_departed"]


def test_a_gpu_whose_gpm_was_found_to_give_ratios_is_not_believed_in_parts_either(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.work(90, 4100)
    rig.gpu.gpm = {1: (0, 0.9)}
    rig.tick(8)
    assert gpu(rig).seen.activity_source != "gpm"


def test_workloads_are_sealed_with_the_instance_they_were_on(rig: Rig) -> None:
    rig.tick(10)
    rig.agent.close()
    (reading,) = rig.readings()
    (found,) = reading.gpus
    assert [(one.instance, one.slices, one.profile) for one in found.instances] == [
        (2, 3, "3g.30gb"),
        (9, 1, "1g.10gb"),
    ]
    assert found.state_slice_ms[State.BUSY] == found.instances[0].state_slice_ms[State.BUSY]
    assert sum(found.state_slice_ms.values()) + sum(found.uncovered_slice_ms.values()) == 7 * (
        reading.end_ms - reading.start_ms
    )


def test_features_of_who_holds_an_instance_carry_the_instance_and_nothing_of_the_board(
    rig: Rig, big: FakeInstance
) -> None:
    big.gpm = {1: (0, 70.0), 2: (0, 40.0), 5: (0, 20.0), 10: (0, 10.0), 20: (0, 100.0), 21: (0, 100.0), 60: (0, 9.0)}
    rig.tick(10)
    big.memory_used_bytes = 20 << 30
    rig.tick()
    big.memory_used_bytes = 1 << 30
    rig.tick()
    rig.agent.close()
    (record,) = records(rig.directory)
    (reading,) = rig.readings()
    (found,) = decode_workloads(record["workloads"].encode(), reading)
    assert found.instance_uuid == big.uuid
    assert found.features["engines_known_ms"] == 12_000
    assert found.features["sm_ns"] == 12_000 * 400_000
    assert found.features["memory_swings"] == 1
    assert not {name for name in found.features if name.startswith(("energy", "power", "links", "pcie", "nvlink"))}
