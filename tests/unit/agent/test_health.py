# SPDX-License-Identifier: Apache-2.0
"""Health: faults and what clears them, one batch of fields each with its own success, counters that fall."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.states import State, Uncovered
from gpuledger_agent.health import action_name
from gpuledger_agent.snapshot import GpuSnapshot, Health
from tests.fakes.agents import Rig
from tests.fakes.clock import NOON_MS
from tests.fakes.nvml import LOST, NOT_SUPPORTED, UNKNOWN, FakeGpu, gpus, instance

FIELDS, ROWS, ECC = "nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetTotalEccErrors"
POWER_CAP, REMAP_PENDING, REMAP_FAILURE, ACTION = 74, 144, 145, 230
SECOND_NS = 1_000_000_000


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path, gpus(1))
    rig.agent.tick()
    rig.tick()
    return rig


def seen(rig: Rig) -> GpuSnapshot:
    return rig.agent.view.gpus[0].seen


def state(rig: Rig) -> State | Uncovered:
    return rig.agent.view.gpus[0].result


def failures(rig: Rig, source: str) -> dict[str, int]:
    return rig.agent.view.sources[source].failures


# ---------------------------------------------------------------------------------------------- fatal Xid errors


@pytest.mark.parametrize("xid", [48, 79, 119])
def test_a_fatal_xid_opens_down_until_a_later_health_read_is_clean(rig: Rig, xid: int) -> None:
    rig.tick(3)
    rig.gpu.xids.append((xid, None))
    rig.tick()
    assert (seen(rig).health, state(rig)) == (Health.FATAL_XID, State.DOWN)
    before = rig.nvml.fields_asked[ACTION]
    while rig.nvml.fields_asked[ACTION] == before:
        assert state(rig) is State.DOWN
        rig.tick()
    assert (seen(rig).health, state(rig)) == (Health.CLEAN, State.FREE)


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 63, 94, 109, 154])
def test_any_other_xid_is_only_counted(rig: Rig, xid: int) -> None:
    rig.gpu.xids.append((xid, None))
    rig.tick()
    assert state(rig) is State.FREE


def test_a_fatal_xid_is_said_each_time_it_opens_down_and_any_other_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            rig.gpu.xids += [(48, None), (48, None), (31, 2), (31, None)]
            rig.tick(25)
    said = [(record.levelname, vars(record)["xid"], vars(record)["meaning"]) for record in caplog.records]
    fatal, application = ("ERROR", 48, "double-bit ECC error"), ("WARNING", 31, "GPU memory page fault")
    assert said == [fatal, application, fatal, fatal]


def test_a_health_read_of_the_very_tick_of_a_fatal_xid_does_not_clear_it(rig: Rig) -> None:
    before = rig.nvml.fields_asked[ACTION]
    while rig.nvml.fields_asked[ACTION] == before:
        rig.tick()
    rig.tick(9)
    rig.gpu.xids.append((79, None))
    before = rig.nvml.fields_asked[ACTION]
    rig.tick()
    assert rig.nvml.fields_asked[ACTION] == before + 1
    assert state(rig) is State.DOWN
    rig.tick(10)
    assert state(rig) is State.FREE


def test_a_gpu_that_works_after_a_fatal_xid_is_not_down_while_it_works(rig: Rig) -> None:
    rig.gpu.work(90, 4100)
    rig.tick(2)
    rig.gpu.fails = {FIELDS: UNKNOWN, ROWS: UNKNOWN}
    rig.gpu.xids.append((48, None))
    rig.tick(15)
    assert (seen(rig).health, state(rig)) == (Health.FATAL_XID, State.BUSY)
    rig.gpu.work(5, 4100)
    rig.tick()
    assert state(rig) is State.DOWN
    rig.gpu.fails.clear()
    rig.tick(11)
    assert state(rig) is State.HELD


def divided(rig: Rig) -> FakeGpu:
    """A GPU of two instances and two slices of none, seen twice."""
    rig.gpu.gpm, rig.gpu.instances = {}, [instance(1, 3), instance(9, 2)]
    rig.tick(12)
    return rig.gpu


def parts(rig: Rig) -> dict[int | None, object]:
    found = rig.agent.view.gpus[0].parts
    return {None if part.instance is None else part.instance.instance: part.result for part in found}


def test_a_fatal_xid_of_an_instance_opens_down_for_its_slices_alone(rig: Rig) -> None:
    gpu = divided(rig)
    assert set(parts(rig).values()) == {State.FREE}
    gpu.xids.append((95, 9))
    rig.tick()
    assert parts(rig) == {1: State.FREE, 9: State.DOWN, None: State.FREE}
    assert seen(rig).health is Health.CLEAN, "the board is well"
    rig.tick(11)
    assert set(parts(rig).values()) == {State.FREE}


def test_a_fatal_xid_of_the_board_opens_down_for_all_of_it(rig: Rig) -> None:
    divided(rig).xids.append((79, None))
    rig.tick()
    assert set(parts(rig).values()) == {State.DOWN}


def test_a_fatal_xid_does_not_outlive_its_instance(rig: Rig) -> None:
    gpu = divided(rig)
    gpu.fails = {FIELDS: UNKNOWN, ROWS: UNKNOWN}
    gpu.xids.append((95, 9))
    rig.tick(2)
    assert parts(rig)[9] is State.DOWN
    other = instance(9, 2)
    other.uuid = "MIG-00000009-0000-5000-8000-00000000000f"
    gpu.instances = [gpu.instances[0], other] if gpu.instances else None
    rig.tick()
    assert parts(rig)[9] is State.FREE


def test_a_fatal_xid_of_an_instance_is_its_gpus_where_the_instances_are_not_known(rig: Rig) -> None:
    rig.gpu.xids.append((95, 9))
    rig.tick()
    assert (seen(rig).health, state(rig)) == (Health.FATAL_XID, State.DOWN)


@pytest.mark.parametrize("percent", [None, 5])
def test_a_fatal_xid_is_down_where_activity_is_at_most_theta_or_unknown(rig: Rig, percent: int | None) -> None:
    rig.gpu.work(0 if percent is None else percent, 4100)
    if percent is None:
        rig.gpu.fails["nvmlDeviceGetUtilizationRates"] = UNKNOWN
    rig.gpu.xids.append((62, None))
    rig.tick()
    assert state(rig) is State.DOWN


def test_a_fatal_xid_stands_while_health_cannot_be_read_and_across_a_clock_step(rig: Rig) -> None:
    rig.gpu.fails = {FIELDS: UNKNOWN, ROWS: UNKNOWN}
    rig.gpu.xids.append((95, None))
    rig.tick(60)
    assert state(rig) is State.DOWN
    rig.clock.step_ms(-3_600_000)
    rig.tick(2)
    assert seen(rig).health is Health.FATAL_XID
    rig.gpu.fails.clear()
    rig.tick(12)
    assert seen(rig).health is Health.CLEAN


def test_a_fault_that_the_driver_reports_comes_before_the_xid_that_told_of_it(rig: Rig) -> None:
    rig.gpu.xids.append((48, None))
    rig.gpu.recovery_action = 1
    rig.tick(11)
    assert seen(rig).health is Health.RECOVERY_ACTION
    rig.gpu.recovery_action = 0
    rig.tick(11)
    assert seen(rig).health is Health.CLEAN


def test_a_fatal_xid_stands_where_the_read_after_it_found_a_fault_and_then_none_could_be_made(rig: Rig) -> None:
    rig.gpu.xids.append((48, None))
    rig.gpu.recovery_action = 1
    rig.tick(11)
    rig.gpu.fails = {FIELDS: UNKNOWN, ROWS: UNKNOWN}
    rig.tick(60)
    assert (seen(rig).health, state(rig)) == (Health.FATAL_XID, State.DOWN)


# ---------------------------------------------------------------------------------------------- the batch


def test_health_is_one_batch_every_ten_seconds_and_at_the_first_tick_of_each_cell(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.clock.advance_ms(4_000)
    times = []
    for _ in range(400):
        before = rig.nvml.fields_asked[ACTION]
        rig.tick()
        if rig.nvml.fields_asked[ACTION] > before:
            times.append((rig.clock.wall_ms - NOON_MS) // 1_000)
    assert times == [*range(5, 300, 10), *range(300, 405, 10)]
    assert rig.nvml.calls[FIELDS] == 400, "the counter of energy is in the same batch"
    assert rig.nvml.calls[ECC] == 2 * len(times), "a GPU without ECC has no such fields"


def test_a_field_that_fails_is_counted_and_the_others_are_used(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.values = {REMAP_PENDING: (UNKNOWN, 0), 142: (0, 7), REMAP_FAILURE: (0, 0)}
    rig.tick(2)
    facts = seen(rig).health_facts
    assert facts is not None
    assert (facts.recovery_action, facts.remapped_correctable, facts.is_remap_pending) == (0, 7, None)
    assert facts.is_remap_failed is False
    assert failures(rig, "health") == {"unknown": 1}
    assert state(rig) is State.FREE


def test_a_field_that_says_that_the_gpu_is_lost_makes_it_lost(rig: Rig) -> None:
    rig.gpu.values = {142: (LOST, 0)}
    rig.tick(9)
    assert seen(rig).health is Health.LOST


def test_rows_are_asked_for_by_their_own_call_only_where_the_field_is_not_offered(rig: Rig) -> None:
    before = rig.nvml.calls[ROWS]
    rig.tick(11)
    assert rig.nvml.calls[ROWS] == before + 1
    for code in (0, UNKNOWN):
        rig.gpu.values = {REMAP_FAILURE: (code, 0)}
        rig.tick(10)
    assert rig.nvml.calls[ROWS] == before + 1


def test_without_fields_and_without_rows_health_is_unknown(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.fails = {FIELDS: NOT_SUPPORTED, ROWS: NOT_SUPPORTED}
    rig.tick(3)
    assert (seen(rig).health, state(rig)) == (None, State.UNMEASURED)
    assert failures(rig, "health") == {}


def test_under_mig_rows_are_not_offered_and_the_recovery_action_alone_is_health(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.gpu.fails = {ROWS: NOT_SUPPORTED}
    rig.tick(3)
    assert (seen(rig).health, state(rig)) == (Health.CLEAN, State.FREE)


def test_recovery_actions_have_names_and_unknown_ones_their_number() -> None:
    assert [action_name(action) for action in (0, 1, 4, 5, 77)] == ["none", "reset_gpu", "drain_and_reset", "5", "77"]


# ---------------------------------------------------------------------------------------------- counters


def throttle(rig: Rig, total_s: float) -> None:
    rig.gpu.values = {POWER_CAP: (0, round(total_s * SECOND_NS))}


def test_throttled_time_is_what_its_counter_grew_by(rig: Rig) -> None:
    throttle(rig, 5_000)
    rig.tick(10)
    assert rig.agent.view.gpus[0].total.health.throttled_ns == {}, "the first read only seeds"
    throttle(rig, 5_004)
    rig.tick(10)
    assert rig.agent.view.gpus[0].total.health.throttled_ns == {"sw_power_cap": 4 * SECOND_NS}
    rig.tick(10)
    assert rig.agent.view.gpus[0].total.health.throttled_ns == {"sw_power_cap": 4 * SECOND_NS}


def test_a_counter_that_fell_counts_from_where_it_is(rig: Rig) -> None:
    throttle(rig, 5_000)
    rig.tick(10)
    throttle(rig, 1)
    rig.tick(10)
    throttle(rig, 3)
    rig.tick(10)
    assert rig.agent.view.gpus[0].total.health.throttled_ns == {"sw_power_cap": 2 * SECOND_NS}


def test_a_counter_that_grew_by_more_than_there_was_time_is_rejected_or_cut(rig: Rig) -> None:
    throttle(rig, 0)
    rig.tick(10)
    throttle(rig, 10.4)
    rig.tick(10)
    assert rig.agent.view.gpus[0].total.health.throttled_ns == {"sw_power_cap": 10 * SECOND_NS}
    throttle(rig, 5_000)
    rig.tick(10)
    assert rig.agent.view.gpus[0].total.health.throttled_ns == {"sw_power_cap": 10 * SECOND_NS}
    assert rig.agent.view.gpus[0].total.rejected_values == 1


def test_throttled_time_of_a_whole_cell_is_the_cell(rig: Rig) -> None:
    for second in range(2, 700):
        throttle(rig, second)
        rig.tick()
    whole = rig.readings()[1]
    assert (whole.start_ms, whole.end_ms) == (NOON_MS + CELL_MS, NOON_MS + 2 * CELL_MS)
    assert whole.gpus[0].throttle_ms == {"sw_power_cap": CELL_MS}


def test_throttled_time_is_divided_at_the_edge_of_a_cell(tmp_path: Path) -> None:
    rig = Rig(tmp_path, gpus(1))
    rig.clock.advance_ms(295_500)
    throttle(rig, 0)
    rig.agent.tick()
    for half in range(1, 21):
        throttle(rig, half / 2)
        rig.tick()
    rig.agent.close()
    before, after = rig.readings()
    # Read at 295.5 s and at 300.5 s: half a second in each second.
    assert before.gpus[0].throttle_ms == {"sw_power_cap": 2_250}
    assert after.gpus[0].throttle_ms == {"sw_power_cap": 250 + 5_000}


def test_memory_errors_are_what_their_counters_grew_by(rig: Rig) -> None:
    rig.gpu.ecc = {0: 100, 1: 2}
    rig.tick(10)
    assert rig.agent.view.gpus[0].total.health.ecc_errors == {}
    rig.gpu.ecc = {0: 107, 1: 3}
    rig.tick(10)
    rig.gpu.ecc = {0: 1, 1: 0}
    rig.tick(10)
    rig.gpu.ecc = {0: 2, 1: 0}
    rig.tick(300)
    assert rig.agent.view.gpus[0].total.health.ecc_errors == {"corrected": 8, "uncorrected": 1}
    assert rig.readings()[0].gpus[0].ecc_errors == {"corrected": 8, "uncorrected": 1}


def test_a_gpu_without_ecc_has_no_memory_errors_and_no_failures(rig: Rig) -> None:
    rig.tick(300)
    assert rig.readings()[0].gpus[0].ecc_errors == {}
    assert failures(rig, "ecc") == {}


def test_after_a_loss_counters_seed_anew(rig: Rig) -> None:
    rig.gpu.ecc = {0: 100, 1: 0}
    rig.tick(10)
    rig.gpu.fails["*"] = LOST
    rig.tick(5)
    rig.gpu.fails.clear()
    rig.gpu.ecc = {0: 900, 1: 0}
    rig.tick(30)
    assert rig.agent.view.gpus[0].total.health.ecc_errors == {}
