# SPDX-License-Identifier: Apache-2.0
"""Counters of seconds become hours: restarts, gaps, two ends, and laws over random lives."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import OBSERVED, State
from gpuledger_collector.engine.counters import Key, Point, fell, hours_of, irregular_hours
from gpuledger_collector.engine.gauges import Cell

S, LE = "state", "le"
T0 = 1_794_787_200_000


def point(at_s: float, busy: float = 0.0, free: float = 0.0, **more: float) -> Point:
    seconds: dict[Key, float] = {(S, "busy", ""): busy, (S, "free", ""): free}
    seconds |= {("reason", reason, ""): value for reason, value in more.items()}
    return Point(time_ms=T0 + round(at_s * 1000), seconds=seconds)


def hours(*points: Point) -> dict[State, float]:
    """Seconds by state over two hours."""
    return spent(hours_of(points, T0, T0 + 2 * HOUR_MS))


def spent(cells: Mapping[int, Cell]) -> dict[State, float]:
    found: dict[State, float] = {}
    for cell in cells.values():
        for state, amount in cell.state_slice_ms.items():
            found[state] = found.get(state, 0) + amount / SLICES_PER_GPU / 1000
    return found


def test_what_a_counter_grew_by_was_spent_evenly_between_its_samples() -> None:
    found = hours_of([point(1800), point(5400, busy=2700, free=900)], T0, T0 + 2 * HOUR_MS)
    assert list(found) == [T0, T0 + HOUR_MS]
    for hour in found.values():
        assert hour.state_slice_ms == {State.BUSY: 1_350_000 * 7, State.FREE: 450_000 * 7}
        assert hour.covered_ms == HOUR_MS // 2


def test_time_that_the_agent_did_not_cover_is_in_no_state() -> None:
    assert hours(point(0), point(600, busy=100, gap=500)) == {State.BUSY: 100.0}


def test_one_sample_says_nothing_and_two_of_one_tick_no_more() -> None:
    assert hours(point(5, busy=100)) == {}
    assert hours(point(5, busy=100), point(5, busy=100)) == {}


def test_an_agent_that_began_again_has_counted_since_its_start_and_what_was_before_is_lost() -> None:
    found = hours_of([point(0, busy=5000), point(3690, busy=60, free=30, first_tick=1)], T0, T0 + 2 * HOUR_MS)
    assert spent(found) == pytest.approx({State.BUSY: 60, State.FREE: 30}, abs=0.01)
    # It began 91 s before the sample, one second of which it did not cover.
    assert found[T0].covered_ms == pytest.approx(90_000 / 91, abs=2)


def test_a_counter_that_is_gone_is_a_new_beginning_too() -> None:
    before = point(0, busy=10, released=50)
    assert hours(before, point(600, busy=20, free=0)) == pytest.approx({State.BUSY: 20})


def test_samples_far_apart_do_not_say_when_so_that_time_is_dark() -> None:
    assert hours(point(0), point(4200, busy=4200)) == pytest.approx({State.BUSY: 4200})
    assert hours(point(0), point(4201, busy=4201)) == {}


def test_counters_of_more_time_than_there_was_are_not_believed() -> None:
    assert hours(point(0), point(600, busy=602)) == {}
    assert hours(point(0), point(3600, busy=3601)) == {State.BUSY: 3600.0}


def test_only_what_is_within_the_span_is_handed_on() -> None:
    found = hours_of([point(-600), point(1200, busy=1800)], T0, T0 + CELL_MS)
    assert (list(found), spent(found)) == ([T0], {State.BUSY: 300.0})


def test_an_hour_that_was_all_covered_has_no_dark_millisecond_from_rounding() -> None:
    rng = Random(3)
    cuts = sorted(rng.uniform(0, 4199) for _ in OBSERVED[1:])
    after: dict[Key, float] = {
        (S, state.value, ""): to - at for state, at, to in zip(OBSERVED, [0, *cuts], [*cuts, 4199], strict=True)
    }
    points = [Point(time_ms=T0 - 299_500, seconds={}), Point(time_ms=T0 + 3_899_500, seconds=after)]
    assert sum(hours_of(points, T0, T0 + HOUR_MS)[T0].state_slice_ms.values()) == HOUR_MS * SLICES_PER_GPU


def test_bins_and_the_integral_come_along() -> None:
    after: dict[Key, float] = {
        (S, "busy", ""): 200.0,
        (S, "held", ""): 100.0,
        (LE, "0.0", ""): 0.0,
        (LE, "0.01", ""): 0.0,
        (LE, "0.05", ""): 100.0,
        (LE, "0.1", ""): 100.0,
        (LE, "0.25", ""): 100.0,
        (LE, "0.5", ""): 100.0,
        (LE, "0.75", ""): 300.0,
        (LE, "1.0", ""): 300.0,
        (LE, "+Inf", ""): 300.0,
        ("active", "", ""): 125.0,
    }
    points = [Point(time_ms=T0, seconds=dict.fromkeys(after, 0.0)), Point(time_ms=T0 + CELL_MS, seconds=after)]
    cell = hours_of(points, T0, T0 + HOUR_MS)[T0]
    assert cell.bin_slice_ms == [0, 0, 700_000, 0, 0, 0, 1_400_000, 0]
    assert cell.active_slice_ns == 125 * 7_000_000_000
    assert cell.sources == {"counters of the agent"}


def test_without_a_histogram_time_is_on_the_side_of_the_threshold_that_its_state_says() -> None:
    seconds: dict[Key, float] = {(S, "busy", ""): 200.0, (S, "held", ""): 100.0}
    points = [Point(time_ms=T0, seconds={}), Point(time_ms=T0 + CELL_MS, seconds=seconds)]
    assert hours_of(points, T0, T0 + HOUR_MS)[T0].bin_slice_ms == [0, 0, 700_000, 1_400_000, 0, 0, 0, 0]


def test_hours_that_their_edges_do_not_tell_need_their_samples() -> None:
    a, b, c = point(0, busy=1), point(3600, busy=3601), point(7200, busy=1)
    assert irregular_hours([a, b, c], [240, 240]) == [1]
    assert irregular_hours([a, None, c], [3, 3]) == [0, 1]
    assert irregular_hours([None, None, None], [None, 0]) == []


def divided(at_s: float, rest: float, **instances: float) -> Point:
    """Counters of a divided GPU: what no instance has is free, instances are busy; all in seconds of the GPU."""
    seconds: dict[Key, float] = {(S, "free", ""): rest}
    seconds |= {(S, "busy", name): value for name, value in instances.items()}
    return Point(time_ms=T0 + round(at_s * 1000), seconds=seconds)


def test_a_divided_gpu_is_the_sum_of_its_instances_and_of_what_none_has() -> None:
    found = hours(divided(0, 1000, i1=50, i2=70), divided(700, 1100, i1=350, i2=370))
    assert found == {State.FREE: 100.0, State.BUSY: 600.0}


def test_an_instance_that_comes_brings_all_it_has_and_one_that_goes_takes_only_what_nobody_saw() -> None:
    found = hours(divided(0, 1000, old=500), divided(700, 1300, new=300), divided(1400, 1700, new=600))
    assert found == {State.FREE: 700.0, State.BUSY: 600.0}


def test_an_instance_that_was_made_anew_under_its_number_began_at_zero() -> None:
    assert hours(divided(0, 1000, i1=500), divided(700, 1300, i1=300)) == {State.FREE: 300.0, State.BUSY: 300.0}


def test_an_hour_in_which_an_instance_came_and_went_needs_its_samples() -> None:
    begin, kept, end = divided(0, 1000, i1=5), divided(3600, 2000, i1=2605), divided(3600, 2000, i1=1000)
    assert irregular_hours([begin, kept], [240]) == []
    assert irregular_hours([begin, end], [240]) == [0]


Counted = tuple[int, int | None, int]
"""Seed, moment of a restart (ms, or none), pace (ms)."""
counted: st.SearchStrategy[Counted] = st.tuples(
    st.integers(0, 2**32),
    st.one_of(st.none(), st.integers(60_000, HOUR_MS)),
    st.sampled_from([15_000, 30_000, 299_000, 1_800_000]),
)


def points_of(found: Counted) -> list[Point]:
    """Points of one agent that watched all the time for two hours."""
    seed, restart_ms, pace_ms = found
    rng, seconds, points, at_ms = Random(seed), dict[Key, float](), list[Point](), 0
    while at_ms <= 2 * HOUR_MS:
        points.append(Point(time_ms=T0 + at_ms, seconds=dict(seconds)))
        step_ms = pace_ms + rng.randint(0, 999)
        if restart_ms is not None and at_ms < restart_ms <= at_ms + step_ms:
            seconds = {}
        state = rng.choice(["busy", "held", "free"])
        seconds[S, state, ""] = seconds.get((S, state, ""), 0.0) + step_ms / 1000
        at_ms += step_ms
    return points


@given(counted)
def test_no_hour_holds_more_than_its_time_and_bins_are_busy_and_held(found: Counted) -> None:
    for hour in hours_of(points_of(found), T0, T0 + 2 * HOUR_MS).values():
        total = sum(hour.state_slice_ms.values())
        assert 0 < total <= HOUR_MS * SLICES_PER_GPU
        assert sum(hour.bin_slice_ms) == sum(hour.state_slice_ms.get(s, 0) for s in (State.BUSY, State.HELD))


@given(counted, st.integers(0, 2**32), st.sampled_from([0.02, 0.5, 0.98]))
def test_samples_that_are_missing_change_no_sum_but_at_a_restart(found: Counted, seed: int, lost: float) -> None:
    points, rng = points_of(found), Random(seed)
    is_restarted = any(fell(before.seconds, after.seconds) for before, after in pairwise(points))
    less = [points[0], *(point for point in points[1:-1] if rng.random() >= lost), points[-1]]
    whole, fewer = (spent(hours_of(line, T0 - HOUR_MS, T0 + 4 * HOUR_MS)) for line in (points, less))
    gaps = [after.time_ms - before.time_ms for before, after in pairwise(less)]
    if not is_restarted and max(gaps, default=0) < 70 * 60_000:
        assert fewer == pytest.approx(whole, abs=0.01)
    else:
        assert sum(fewer.values()) <= sum(whole.values()) + 0.01
