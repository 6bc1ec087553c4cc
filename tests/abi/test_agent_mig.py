# SPDX-License-Identifier: Apache-2.0
"""Divided GPUs (MIG) on the real agent: a life of instances, and every trap of finding them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.metered import END_MS, PID, Meter, divided, run_both, working
from tests.abi.readings import sealed
from tests.abi.script import (
    BOARD,
    FULL,
    NO_PERMISSION,
    NOT_SUPPORTED,
    UNKNOWN,
    Failure,
    MigDevice,
    Script,
    Wave,
)
from tests.abi.stage import WALL_START_MS, Stage
from tests.abi.truth import CELL_MS, Truth

pytestmark = pytest.mark.abi
SLOT, MODE, COUNT = "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount"
ATTRIBUTES, NAME, UUID, ID = (
    "nvmlDeviceGetAttributes_v2",
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetGpuInstanceId",
)
TAKE, METRICS, WHOLE = "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet", "nvmlGpmSampleGet"
PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v3"
FIELDS, UTILIZATION = "nvmlDeviceGetFieldValues", "nvmlDeviceGetUtilizationRates"


Both = Callable[..., tuple[Truth, Truth]]


@pytest.fixture
def both(stage: Callable[..., Stage], tmp_path: Path) -> Both:
    """What the agent sealed of a script, and what the oracle says it should have."""

    def run(
        script: Script, end_ms: int, *, start_ms: int = WALL_START_MS, interval_ms: int = 1_000
    ) -> tuple[Truth, Truth]:
        return run_both(stage, tmp_path / "state", script, end_ms, start_ms, interval_ms)[:2]

    return run


# ---------------------------------------------------------------------------------------------- a life


def a_divided_life() -> Script:
    """A node of three boards whose instances are made, used, idle, destroyed and made anew, ids, slots and all."""
    script = Script()
    churning = script.add_gpu().act(0, power_w=150).divide()
    first = working(churning, "3g.40gb", instance_id=2, slot=0, to_ms=250_400)
    first.set("graphics", Wave(period_ms=700, on_ms=300), 40_250).set("sm", 250_000).set("dram", Failure())
    first.set("dram", 400_000, 60_000)
    idle = churning.add_instance("1g.10gb", 30_500, 301_700, instance_id=9, slot=3)
    idle.set("graphics", 0).act(0, memory_gib=0).act(120_250, memory_gib=2).run(PID + 1, 120_250, 280_000)
    again = working(churning, "2g.20gb", from_ms=250_900, instance_id=2, slot=0, pid=PID + 2, pct=97)
    again.set("graphics", 30_000, 320_000)
    churning.act(200_000, power_w=333.333)
    late = script.add_gpu().act(0, utilization_pct=80, power_w=400, memory_gib=30).run(PID + 3, 0, 90_000)
    late.act(90_000, utilization_pct=0, power_w=80, memory_gib=0)
    late.divide(0, on=False).divide(100_500, on=False, pending=True).divide(101_500).divide(410_300, on=False)
    for number in range(7):
        one = working(
            late, "1g.10gb", from_ms=102_000 + 500 * number, to_ms=400_000, instance_id=7 + number, pid=PID + 9
        )
        one.set("graphics", 100_000 * number, 150_000).processes.clear()
        one.run(PID + 10 + number, 110_000 + 1_000 * number, 390_000).act(110_000 + 1_000 * number, memory_gib=4)
    late.run(PID + 4, 420_000).act(420_000, utilization_pct=70, memory_gib=9)
    sick = script.add_gpu().act(0, power_w=100).divide().lose(200_500, 207_500)
    working(sick, "4g.40gb", instance_id=1, pid=PID + 20)
    working(sick, "3g.40gb", instance_id=2, pid=PID + 21, pct=2)
    sick.set("recovery_action", 0).set("recovery_action", 1, 500_000).set("recovery_action", 0, 530_000)
    return script


def test_a_life_of_instances_is_accounted_for_to_the_slice_millisecond(both: Both) -> None:
    script = a_divided_life()
    found, truth = both(script, 640_000, start_ms=WALL_START_MS + CELL_MS - 111_000)
    assert found == truth
    seen = {state for cells in truth.values() for cell in cells.values() for state in cell.slice_ms()}
    assert seen == {"free", "held", "busy", "down", "unmeasured"}
    for gpu in script.gpus:
        covered = sum(
            sum(cell.slice_ms().values()) + 7 * sum(cell.uncovered_ms.values()) for cell in truth[gpu.uuid].values()
        )
        assert covered == 7 * 639_000
    assert sum(len(cell.instances) for cells in truth.values() for cell in cells.values()) > 14


@pytest.mark.parametrize("interval_ms", [500, 3_000])
def test_another_interval_meters_instances_alike(both: Both, interval_ms: int) -> None:
    found, truth = both(a_divided_life(), 450_000, interval_ms=interval_ms)
    assert found == truth


# ---------------------------------------------------------------------------------------------- finding


def test_slots_with_holes_are_walked_to_their_end(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "1g.10gb", slot=1)
    working(gpu, "2g.20gb", slot=4)
    working(gpu, "3g.40gb", slot=6)
    found = meter_instances(script)
    assert found.states == {"busy": 6 * 29, "free": 29}
    assert set(found.instances) == {"1g.10gb", "2g.20gb", "3g.40gb"}


def test_a_divided_gpu_asks_for_nothing_more_than_it_must(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "3g.40gb", slot=0)
    working(gpu, "3g.40gb", slot=2)
    found = meter_instances(script)
    ticks = 30
    calls = {name: found.calls.get(name, 0) for name in (MODE, COUNT, SLOT, ID, ATTRIBUTES, TAKE, METRICS, FIELDS)}
    assert calls == {
        MODE: 1, COUNT: ticks, SLOT: 7 * ticks, ID: 2 * ticks, ATTRIBUTES: 2 * ticks, TAKE: 2 * ticks,
        METRICS: 2 * (ticks - 1), FIELDS: ticks,
    }  # fmt: skip
    # A name once for each; never what is not offered under MIG.
    assert found.calls[NAME] == 1 + 2
    assert not {UTILIZATION, "nvmlDeviceGetSamples", WHOLE} & found.calls.keys()
    assert found.calls[PROCESSES] == 2  # its size, and then the list, for all instances at once


def test_a_gpu_that_is_not_divided_costs_a_look_at_its_mode_every_minute_while_gpm_tells_of_all_of_it(
    meter_instances: Meter,
) -> None:
    script = Script()
    script.add_gpu().act(0, utilization_pct=40, memory_gib=3).run(PID)
    found = meter_instances(script, 121_000)
    # The first tick has no mean yet, which is a doubt until the second.
    assert found.calls[MODE] == 3


def test_a_gpu_whose_mode_changes_is_looked_at_when_gpm_no_longer_tells_of_all_of_it(meter_instances: Meter) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=40, memory_gib=3).divide(25_500)
    working(gpu, "3g.40gb", from_ms=25_500)
    found = meter_instances(script, 40_000)
    assert found.calls[MODE] == 2, "at 0 s and at 27 s, after the tick at 26 s in which GPM was refused"
    assert found.states["busy"] == 3 * 12


def test_a_gpu_without_gpm_costs_a_look_at_its_mode_every_ten_seconds(meter_instances: Meter) -> None:
    script = Script()
    script.add_gpu(gpm=False).act(0, utilization_pct=40, memory_gib=3).run(PID)
    script.add_gpu(gpm=False, mig_supported=False).act(0, utilization_pct=40, memory_gib=3).run(PID + 1)
    found = meter_instances(script)
    assert found.calls[MODE] == 2 * 3
    assert not {COUNT, SLOT, ID, ATTRIBUTES, TAKE} & found.calls.keys()


def test_an_id_that_is_used_again_at_once_never_meets_the_old_sample(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "1g.10gb", instance_id=9, slot=2, to_ms=10_500, pct=100)
    second = working(gpu, "2g.20gb", from_ms=10_500, instance_id=9, slot=2, pid=PID + 1, pct=1)
    second.set("graphics", 900_000, 20_000)
    found = meter_instances(script)
    # Between 10 and 11 s the old instance's counter would be subtracted from the new one's.
    assert found.instances == {
        "1g.10gb": {"busy": 10},
        "2g.20gb": {"unmeasured": 2, "held": 2 * 9, "busy": 2 * 9},
    }
    assert all(core.get("rejected_values", 0) == 0 for core in found.cores)


def test_a_uuid_that_comes_again_for_another_size_is_another_instance(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    script, gpu = divided()
    old = working(gpu, "1g.10gb", instance_id=5, slot=0, to_ms=8_500)
    new = working(gpu, "2g.20gb", from_ms=8_500, instance_id=5, slot=0)
    uuid = old.devices[0].uuid
    new.devices[0] = MigDevice(uuid=uuid, slot=0, from_ms=8_500)
    put = stage(script, duration_ms=END_MS)
    put.run(["-m", "tests.abi.run_agent", str(tmp_path / "state")])
    (gpu_time,) = (gpu for core in sealed(tmp_path / "state") for gpu in core["gpus"])
    (told,) = gpu_time["instances"]
    # One name, one entry: the one that was there for longer; the GPU has the time of both.
    assert (told["slices"], sum(told["states"].values())) == (2, 2 * 21_000)
    assert gpu_time["states"] == {"busy": 1 * 8_000 + 2 * 20_000, "unmeasured": 2 * 1_000, "free": 29_000 * 7 - 50_000}


def test_what_a_destroyed_devices_slot_hands_out_is_no_instance(meter_instances: Meter) -> None:
    script, gpu = divided()
    one = working(gpu, "3g.40gb", to_ms=10_500)
    one.devices[0] = MigDevice(uuid=one.devices[0].uuid, slot=0, to_ms=10_500, ghost=True)
    found = meter_instances(script)
    assert found.states == {"busy": 3 * 10, "free": 4 * 10 + 7 * 19}


def test_a_gpu_instance_without_a_compute_instance_is_nobodys_and_free(meter_instances: Meter) -> None:
    script, gpu = divided()
    gpu.add_instance("3g.40gb", devices=[])
    assert meter_instances(script).states == {"free": 7 * 29}


def test_several_compute_instances_of_one_gpu_instance_are_pooled(meter_instances: Meter) -> None:
    script, gpu = divided()
    one = working(gpu, "4g.40gb", slot=0)
    one.devices.append(MigDevice(uuid="MIG-second", slot=3, compute=1))
    one.run(PID + 1, compute=1)
    found = meter_instances(script)
    assert found.instances == {"4g.40gb": {"busy": 4 * 29}}
    assert found.calls[TAKE] == 30


def test_instances_come_and_go_between_two_ticks(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "2g.20gb", from_ms=5_300, to_ms=5_700, slot=0)
    working(gpu, "3g.40gb", from_ms=6_300, to_ms=8_700, slot=0, instance_id=2)
    found = meter_instances(script)
    # Never seen, and seen at 7 and 8 s.
    assert found.states == {"unmeasured": 3, "busy": 3, "free": 7 * 29 - 6}


def test_the_mode_switched_on_is_noticed_within_ten_seconds_and_at_once_by_a_process(meter_instances: Meter) -> None:
    script = Script()
    gpu = script.add_gpu().act(0, utilization_pct=0, memory_gib=0).divide(0, on=False).divide(12_500)
    working(gpu, "3g.40gb", from_ms=12_600, pct=90)
    found = meter_instances(script)
    # At 13 s the process tells; the whole GPU is not taken to work meanwhile. At 14 s GPM is seeded.
    assert found.states == {"free": 7 * 12 + 4 * 16, "unmeasured": 7 + 3, "busy": 3 * 15}


def test_a_whole_gpu_that_answers_gpm_while_divided_is_not_asked(meter_instances: Meter) -> None:
    script, gpu = divided()
    script.mig_parent_gpm = True
    gpu.set("graphics", FULL)
    gpu.add_instance("1g.10gb").set("graphics", 0).run(PID)
    found = meter_instances(script)
    assert found.states == {"held": 29, "free": 6 * 29}
    assert WHOLE not in found.calls


def test_the_mode_switched_off_gives_the_whole_gpu_back(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "7g.80gb", to_ms=9_500)
    gpu.divide(10_500, on=False).act(0, utilization_pct=30).act(10_500, memory_gib=5).run(PID + 5, 10_500)
    script.rule("nvmlGpmSampleGet", error=NOT_SUPPORTED)
    found = meter_instances(script)
    # Divided into nothing at 10 s; at 11 s it is whole, and utilisation and samples are asked anew.
    assert found.states == {"busy": 7 * 9 + 7 * 19, "free": 7}
    assert found.cell.energy_mj == {"mig": 2_000_000, "busy": 3_800_000}


@pytest.mark.parametrize("code", [UNKNOWN, NO_PERMISSION])
@pytest.mark.parametrize("function", [SLOT, ID, UUID, ATTRIBUTES, COUNT])
def test_a_division_that_cannot_be_told_leaves_the_gpu_unmeasured_and_is_not_asked_for_at_every_tick(
    meter_instances: Meter, function: str, code: int
) -> None:
    script, gpu = divided()
    working(gpu, "3g.40gb")
    place = BOARD if function in (SLOT, COUNT) else 0
    script.rule(function, gpu=0, instance=place, from_ms=10_500, to_ms=18_000, error=code)
    found = meter_instances(script)
    # Tried at 11, 12, 13 and, since that is in vain, only again at 23 s, where GPM is seeded.
    assert found.states["unmeasured"] == 7 * 12 + 3
    assert found.states["busy"] == 3 * (10 + 6)
    assert found.calls[function] < 30 * 7


def test_slices_that_are_more_than_a_gpu_are_not_believed(meter_instances: Meter) -> None:
    script, gpu = divided()
    working(gpu, "4g.40gb", slot=0)
    working(gpu, "4g.40gb", slot=1, from_ms=10_500, pid=PID + 1)
    found = meter_instances(script, 14_000)
    assert found.states == {"busy": 4 * 10, "free": 3 * 10, "unmeasured": 7 * 3}
