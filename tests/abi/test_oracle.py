# SPDX-License-Identifier: Apache-2.0
"""The oracle against tables worked out by hand: it must be right before anything is held against it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.abi.oracle import Run, expect
from tests.abi.script import FULL, GPU_IS_LOST, UNINITIALIZED, UNKNOWN, Failure, Gpu, Script, Wave
from tests.abi.stage import WALL_START_MS
from tests.abi.truth import CELL_MS, CellTruth

LISTS = "nvmlDeviceGetComputeRunningProcesses_v3"
UTILIZATION = "nvmlDeviceGetUtilizationRates"


def one_gpu(**initial: float) -> tuple[Script, Gpu]:
    script = Script()
    gpu = script.add_gpu()
    gpu.act(0, **{"utilization_pct": 0, "power_w": 70, "memory_gib": 0} | initial)
    return script.polled(), gpu


def cells(
    script: Script, end_ms: int, *, runs: list[Run] | None = None, start_ms: int = WALL_START_MS
) -> list[CellTruth]:
    """The first GPU's cells in order, as an agent sees them that ticks from 0 until before `end_ms`."""
    lives = runs or [Run(start_ms=0, end_ms=end_ms)]
    truth = expect(script, lives, wall_start_ms=start_ms)[script.gpus[0].uuid]
    return [truth[key] for key in sorted(truth)]


def seconds(cell: CellTruth) -> dict[str, float]:
    return {name: ms / 1000 for name, ms in (cell.states_ms + cell.uncovered_ms).items()}


def test_the_first_tick_covers_nothing_and_each_other_tick_its_interval() -> None:
    script, _ = one_gpu()
    (cell,) = cells(script, 10_000)
    assert seconds(cell) == {"free": 9}
    assert cell.slice_ms() == {"free": 63_000}
    assert cell.energy_mj == {"free": 9 * 70_000}


def test_ticks_are_multiples_of_the_interval_in_utc_whenever_the_agent_starts() -> None:
    script, _ = one_gpu()
    (cell,) = cells(script, 10_000, start_ms=WALL_START_MS + 300)
    # script time 700, 1,700, ..., 9,700: ten ticks, nine spans
    assert seconds(cell) == {"free": 9}
    (late,) = cells(script, 10_000, runs=[Run(start_ms=2_500, end_ms=10_000)])
    assert seconds(late) == {"free": 6}


def test_activity_decides_between_busy_and_held_and_fills_its_bin() -> None:
    script, gpu = one_gpu(utilization_pct=40, power_w=300, memory_gib=10)
    gpu.run(4242)
    gpu.act(5_000, utilization_pct=3, power_w=120)
    (cell,) = cells(script, 11_000)
    # the mean of the second before 5 s is 40 %, before 6 s it is 3 %
    assert seconds(cell) == {"busy": 5, "held": 5}
    assert cell.bins_ms == [0, 0, 5_000, 0, 0, 5_000, 0, 0]
    assert cell.active_ns == 5_000 * 400_000 + 5_000 * 30_000
    assert cell.active_known_ms == 10_000
    assert cell.energy_mj == {"busy": 1_500_000, "held": 600_000}


@pytest.mark.parametrize(
    ("percent", "place"),
    [(0, 0), (1, 1), (2, 2), (5, 2), (6, 3), (10, 3), (25, 4), (50, 5), (75, 6), (76, 7), (100, 7)],
)
def test_bins_are_closed_above(percent: int, place: int) -> None:
    script, gpu = one_gpu(utilization_pct=percent)
    gpu.run(4242)
    (cell,) = cells(script, 2_000)
    assert cell.bins_ms[place] == 1_000


def test_a_duty_cycle_reads_as_its_share_of_the_last_second() -> None:
    script, gpu = one_gpu()
    gpu.tracks["utilization"] = [(0, Wave(period_ms=500, on_ms=150))]
    gpu.run(4242)
    (cell,) = cells(script, 4_000)
    assert cell.active_ns == 3_000 * 300_000
    assert seconds(cell) == {"busy": 3}


def test_activity_without_a_process_is_unmeasured() -> None:
    script, _ = one_gpu(utilization_pct=60)
    (cell,) = cells(script, 5_000)
    assert seconds(cell) == {"unmeasured": 4}
    assert cell.active_ns == 4_000 * 600_000
    assert sum(cell.bins_ms) == 0


def test_unknown_activity_is_unmeasured_with_a_process_and_free_without() -> None:
    script, gpu = one_gpu()
    gpu.tracks["utilization"] = [(0, Failure())]
    (cell,) = cells(script, 5_000)
    assert seconds(cell) == {"free": 4}
    assert (cell.active_ns, cell.active_known_ms) == (0, 0)
    gpu.run(4242)
    (cell,) = cells(script, 5_000)
    assert seconds(cell) == {"unmeasured": 4}


def test_utilisation_above_a_hundred_percent_is_unknown() -> None:
    script, gpu = one_gpu(utilization_pct=140)
    gpu.run(4242)
    (cell,) = cells(script, 5_000)
    assert seconds(cell) == {"unmeasured": 4}
    assert cell.active_known_ms == 0


def test_a_process_is_noticed_at_once_when_memory_moves_else_within_thirty_seconds() -> None:
    script, gpu = one_gpu()
    gpu.run(4242, from_ms=4_500)
    gpu.act(4_500, memory_gib=2)
    (cell,) = cells(script, 11_000)
    assert seconds(cell) == {"free": 4, "held": 6}
    script, gpu = one_gpu()
    gpu.run(4242, from_ms=4_500)
    (cell,) = cells(script, 41_000)
    assert seconds(cell) == {"free": 29, "held": 11}


def test_a_failed_process_list_stands_for_a_minute_then_is_unknown() -> None:
    script, gpu = one_gpu(memory_gib=2)
    gpu.run(4242)
    script.rule(LISTS, from_ms=10_000, to_ms=80_000, error=UNKNOWN)
    (cell,) = cells(script, 91_000)
    # read at 0; tried in vain from 30 s; too old from 61 s; read again at 80 s
    assert seconds(cell) == {"held": 60 + 11, "unmeasured": 19}


def test_a_failed_process_list_after_memory_moved_is_unknown_at_once() -> None:
    script, gpu = one_gpu(memory_gib=2)
    gpu.run(4242)
    gpu.act(10_500, memory_gib=3)
    script.rule(LISTS, from_ms=10_000, to_ms=15_000, error=UNKNOWN)
    (cell,) = cells(script, 21_000)
    assert seconds(cell) == {"held": 10 + 6, "unmeasured": 4}


def test_a_lost_gpu_is_down_at_once_and_its_energy_meanwhile_belongs_to_nothing() -> None:
    script, gpu = one_gpu()
    gpu.lose(3_500, 6_500)
    (cell,) = cells(script, 11_000)
    assert seconds(cell) == {"free": 3 + 4, "down": 3}
    assert cell.energy_mj == {"free": (3 + 3) * 70_000, "uncovered": 4 * 70_000}


def test_a_recovery_action_is_down_from_its_next_reading_on() -> None:
    script, gpu = one_gpu()
    gpu.set("recovery_action", 0).set("recovery_action", 1, 3_000).set("recovery_action", 0, 12_000)
    (cell,) = cells(script, 26_000)
    # read at 0, 10 and 20 s
    assert seconds(cell) == {"free": 9 + 6, "down": 10}


def test_a_row_remap_failure_is_down() -> None:
    script, gpu = one_gpu()
    gpu.set("remap_failure", 1)
    (cell,) = cells(script, 6_000)
    assert seconds(cell) == {"down": 5}


def test_unknown_health_is_unmeasured_only_where_there_is_no_process() -> None:
    script, gpu = one_gpu()
    script.rule("nvmlDeviceGetFieldValues", error=UNKNOWN).rule("nvmlDeviceGetRemappedRows", error=UNKNOWN)
    (cell,) = cells(script, 6_000)
    assert seconds(cell) == {"unmeasured": 5}
    gpu.run(4242)
    (cell,) = cells(script, 6_000)
    assert seconds(cell) == {"held": 5}


def test_health_lasts_thirty_seconds_without_a_reading() -> None:
    script, _ = one_gpu()
    script.rule("nvmlDeviceGetFieldValues", from_ms=1_000, error=UNKNOWN)
    script.rule("nvmlDeviceGetRemappedRows", from_ms=1_000, error=UNKNOWN)
    (cell,) = cells(script, 41_000)
    assert seconds(cell) == {"free": 30, "unmeasured": 10}


def test_calls_that_run_past_the_next_tick_skip_it_and_the_span_is_covered() -> None:
    script, gpu = one_gpu(power_w=100)
    gpu.run(4242)
    script.rule(UTILIZATION, from_ms=3_000, to_ms=3_500, latency_ms=1_400)
    (cell,) = cells(script, 8_000)
    assert seconds(cell) == {"held": 7}


def test_a_gap_is_unmeasured_with_a_process_at_an_end_and_uncovered_without() -> None:
    script, gpu = one_gpu(power_w=100)
    script.rule(UTILIZATION, from_ms=3_000, to_ms=3_500, latency_ms=5_500)
    (cell,) = cells(script, 12_000)
    # ticks at 0, 1, 2, 3, 9, 10, 11 s
    assert seconds(cell) == {"free": 5, "gap": 6}
    assert cell.energy_mj == {"free": 500_000, "uncovered": 600_000}
    gpu.run(4242)
    (cell,) = cells(script, 12_000)
    assert seconds(cell) == {"held": 5, "unmeasured": 6}
    assert cell.energy_mj == {"held": 500_000, "unmeasured": 600_000}


def test_a_gap_beyond_thirty_intervals_is_dark_whatever_was_seen() -> None:
    script, gpu = one_gpu()
    gpu.run(4242)
    script.rule(UTILIZATION, from_ms=3_000, to_ms=3_500, latency_ms=39_500)
    (cell,) = cells(script, 46_000)
    # ticks at 0..3 s and 43..45 s
    assert seconds(cell) == {"held": 5}


def test_a_gap_without_an_energy_counter_is_uncovered() -> None:
    script, gpu = one_gpu()
    gpu.tracks["power_mw"] = [(0, Failure())]
    gpu.run(4242)
    script.rule(UTILIZATION, from_ms=3_000, to_ms=3_500, latency_ms=5_500)
    (cell,) = cells(script, 12_000)
    assert seconds(cell) == {"held": 5, "gap": 6}


def test_a_span_over_a_cell_edge_is_split_by_its_milliseconds() -> None:
    script, gpu = one_gpu(utilization_pct=33)
    gpu.tracks["power_mw"] = [(0, Wave(period_ms=1_000_000, on_ms=1_000_000, high=100_001, low=0))]
    gpu.run(4242)
    script.rule(UTILIZATION, from_ms=3_000, to_ms=3_500, latency_ms=1_500)
    first, second = cells(script, 8_000, start_ms=WALL_START_MS + CELL_MS - 4_000)
    # ticks at -4, -3, -2, -1, +1, +2, +3 s around the edge
    assert seconds(first) == {"busy": 4}
    assert seconds(second) == {"busy": 3}
    assert (first.active_ns, second.active_ns) == (4_000 * 330_000, 3_000 * 330_000)
    # of 200,002 mJ over the edge each side has half; a floor that leaves no remainder here
    assert (first.energy_mj["busy"], second.energy_mj["busy"]) == (300_003 + 100_001, 100_001 + 200_002)


def test_the_remainder_of_split_energy_goes_to_the_later_cell() -> None:
    script, gpu = one_gpu()
    gpu.tracks["power_mw"] = [(0, Wave(period_ms=2_000, on_ms=1_000, high=3, low=0))]
    script.rule(UTILIZATION, from_ms=3_000, to_ms=3_500, latency_ms=1_500)
    first, second = cells(script, 6_000, start_ms=WALL_START_MS + CELL_MS - 4_000)
    # odometer at 0, 1, 2, 3, 5 s: 0, 3, 3, 6, 9 mJ; the last 3 mJ span the edge
    assert (first.energy_mj["free"], second.energy_mj["free"]) == (6 + 1, 2)


def test_a_falling_odometer_adds_nothing_and_counts_an_epoch() -> None:
    script, gpu = one_gpu(power_w=100)
    gpu.energy_resets.append((4_500, 0))
    (cell,) = cells(script, 8_000)
    assert cell.energy_mj == {"free": 600_000}
    assert cell.energy_epochs == 1


def test_a_failure_of_the_library_is_uncovered_and_so_is_the_first_good_tick_after_it() -> None:
    script, _ = one_gpu()
    script.rule("*", from_ms=3_500, to_ms=6_500, error=UNINITIALIZED)
    (cell,) = cells(script, 11_000)
    assert seconds(cell) == {"free": 6, "library": 3, "first_tick": 1}
    assert cell.energy_mj == {"free": 6 * 70_000, "uncovered": 4 * 70_000}


def test_a_gpu_of_which_every_call_fails_is_uncovered_not_down() -> None:
    script, _ = one_gpu()
    script.rule("*", gpu=0, from_ms=3_500, to_ms=6_500, error=UNKNOWN)
    (cell,) = cells(script, 11_000)
    assert seconds(cell) == {"free": 6, "calls_failed": 3, "first_tick": 1}


def test_full_utilisation_at_the_parked_floor_is_a_suspected_hang() -> None:
    script, gpu = one_gpu(power_w=115, memory_gib=20)
    gpu.run(4242)
    gpu.act(70_000, utilization_pct=100)
    gpu.act(75_000, power_w=300)
    (cell,) = cells(script, 81_000)
    assert seconds(cell) == {"held": 70, "unmeasured": 5, "busy": 5}


def test_the_bare_floor_serves_until_a_parked_one_is_learnt() -> None:
    script, gpu = one_gpu(power_w=70)
    gpu.run(4242, from_ms=70_500)
    gpu.act(70_500, utilization_pct=100, memory_gib=20, power_w=73)
    (cell,) = cells(script, 76_000)
    # the mean of the second before 71 s is 50 % and not suspicious; 73 W is within 5 % of 70 W
    assert seconds(cell) == {"free": 70, "busy": 1, "unmeasured": 4}


def test_without_a_learnt_floor_there_is_no_suspicion() -> None:
    script, gpu = one_gpu(utilization_pct=100, power_w=70)
    gpu.run(4242)
    (cell,) = cells(script, 6_000)
    assert seconds(cell) == {"busy": 5}


def test_a_step_of_the_wall_clock_starts_a_new_session_that_covers_nothing_twice() -> None:
    script, _ = one_gpu()
    script.steps_ms.append((5_500, 60_000))
    (cell,) = cells(script, 11_000)
    # old session: ticks 0..5 s; new: first tick at 6 s
    assert seconds(cell) == {"free": 5 + 4}
    script, _ = one_gpu()
    script.steps_ms.append((5_500, -3_000))
    (cell,) = cells(script, 16_000)
    # the timeline falls back from 6 s to 3 s; what lies before 5 s is already accounted for
    assert seconds(cell) == {"free": 5 + 7}


def test_a_restarted_agent_loses_only_the_outage_and_one_interval() -> None:
    script, _ = one_gpu()
    (cell,) = cells(script, 0, runs=[Run(start_ms=0, end_ms=4_200), Run(start_ms=7_100, end_ms=11_000)])
    # ticks at 0..4 s and 8..10 s
    assert seconds(cell) == {"free": 4 + 2}


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    script = Script()
    gpu = script.add_gpu()
    for track, high in (("utilization", FULL), ("power_mw", 700_000), ("memory_used_bytes", 3)):
        moments = sorted(draw(st.sets(st.integers(1, 89_999), max_size=4)))
        for at_ms in (0, *moments):
            gpu.set(track, draw(st.integers(0, high)), at_ms)
    begin_ms = draw(st.integers(0, 89_999))
    gpu.run(4242, begin_ms, begin_ms + draw(st.integers(1, 60_000)))
    lost_ms = draw(st.integers(1_000, 120_000))
    gpu.lose(lost_ms, lost_ms + draw(st.integers(1, 5_000)))
    slow_ms = draw(st.integers(2_000, 45_000))
    script.rule(UTILIZATION, from_ms=slow_ms, to_ms=slow_ms + 1_500, latency_ms=draw(st.integers(0, 28_000)))
    code = draw(st.sampled_from([UNINITIALIZED, UNKNOWN, GPU_IS_LOST]))
    script.rule(draw(st.sampled_from(["*", LISTS])), from_ms=slow_ms // 2, to_ms=slow_ms // 2 + 9_000, error=code)
    return script


@settings(max_examples=40)
@given(script=scripts(), offset_ms=st.integers(-150_000, 0))
def test_every_millisecond_between_the_first_and_the_last_tick_is_in_one_place(script: Script, offset_ms: int) -> None:
    found = cells(script, 90_000, start_ms=WALL_START_MS + offset_ms)
    first_ms, last_ms = -(-offset_ms // 1_000) * 1_000, (offset_ms + 90_000 - 1) // 1_000 * 1_000
    total_ms = sum(sum(cell.states_ms.values()) + sum(cell.uncovered_ms.values()) for cell in found)
    assert total_ms == last_ms - first_ms
    for cell in found:
        assert sum(cell.bins_ms) <= cell.states_ms["busy"] + cell.states_ms["held"]
        assert cell.active_known_ms <= sum(cell.states_ms.values())
        assert cell.active_ns <= cell.active_known_ms * FULL
        assert sum(cell.states_ms.values()) + sum(cell.uncovered_ms.values()) <= CELL_MS
