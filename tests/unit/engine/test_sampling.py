# SPDX-License-Identifier: Apache-2.0
"""How often series are sampled, the grid that follows, and how far off figures may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger_collector.engine.sampling import POINTS_PER_SERIES_MAX, Pace, edge_error_slice_ms, interval_of


@pytest.mark.parametrize(
    ("interval_s", "step_s"), [(1, 1), (7, 6), (15, 15), (29, 25), (30, 30), (45, 30), (60, 60), (240, 150), (300, 300)]
)
def test_the_grid_divides_a_cell_and_is_no_coarser_than_the_samples(interval_s: int, step_s: int) -> None:
    pace = Pace(interval_ms=interval_s * 1000)
    assert (pace.step_ms, pace.stand_ms) == (step_s * 1000, 2 * interval_s * 1000)


@given(st.integers(1000, CELL_MS))
def test_every_pace_has_a_grid_that_one_query_may_ask_for(interval_ms: int) -> None:
    pace = Pace(interval_ms=interval_ms)
    assert CELL_MS % pace.step_ms == 0
    assert pace.step_ms <= interval_ms
    assert pace.span_ms % CELL_MS == 0
    assert pace.span_ms // pace.step_ms <= POINTS_PER_SERIES_MAX


def times(*gaps_ms: int) -> list[int]:
    found = [0]
    for gap_ms in gaps_ms:
        found.append(found[-1] + gap_ms)
    return found


def test_the_interval_is_that_of_most_gaps_whatever_jitter_and_holes_there_are() -> None:
    assert interval_of([times(30_002, 29_998, 30_001, 30_000), times(30_000, 3_600_000, 30_000)]) == 30_000
    assert interval_of([times(14_999, 15_003, 15_000, 30_000)]) == 15_000
    assert interval_of([times(200, 200)]) == 1000


def test_no_two_samples_tell_no_interval() -> None:
    assert interval_of([]) is None
    assert interval_of([[5], []]) is None


def test_each_change_that_was_seen_may_be_an_interval_off() -> None:
    assert edge_error_slice_ms(3, 30_000) == 90_000 * SLICES_PER_GPU
