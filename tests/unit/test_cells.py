# SPDX-License-Identifier: Apache-2.0
"""The grid of time, and integers divided without loss."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import (
    CELL_MS,
    CELL_SLICE_MS,
    DAY_MS,
    HOUR_MS,
    ceil_to,
    floor_to,
    share_by_weight,
    share_equally,
    split_at,
)
from tests.profiles import examples

TIMES = st.integers(-(10**15), 10**15) | st.integers(-5, 5).map(lambda index: index * CELL_MS)
GRIDS = st.sampled_from([1, 7, CELL_MS, HOUR_MS, DAY_MS])
AMOUNTS = st.integers(0, 10**15) | st.integers(0, 10)


def test_a_cell_is_300_s_of_7_slices_and_hours_and_days_are_whole_cells() -> None:
    assert (CELL_MS, CELL_SLICE_MS) == (300_000, 2_100_000)
    assert HOUR_MS == 12 * CELL_MS
    assert DAY_MS == 24 * HOUR_MS


@examples(3)
@given(TIMES, GRIDS)
def test_edges_lie_on_the_grid_and_enclose_the_time(time_ms: int, grid_ms: int) -> None:
    low, high = floor_to(time_ms, grid_ms), ceil_to(time_ms, grid_ms)
    assert low % grid_ms == high % grid_ms == 0
    assert low <= time_ms <= high
    assert high - low == (0 if time_ms % grid_ms == 0 else grid_ms)


@examples(3)
@given(TIMES, st.integers(-10, 5 * CELL_MS), st.sampled_from([CELL_MS, HOUR_MS]))
def test_pieces_join_up_to_the_span_and_none_crosses_an_edge(start_ms: int, length_ms: int, grid_ms: int) -> None:
    pieces = list(split_at(start_ms, start_ms + length_ms, grid_ms))
    assert sum(end - start for start, end in pieces) == max(0, length_ms)
    for start, end in pieces:
        assert start < end
        assert floor_to(start, grid_ms) == floor_to(end - 1, grid_ms)
    for (_, end), (start, _) in pairwise(pieces):
        assert end == start
        assert end % grid_ms == 0
    if pieces:
        assert (pieces[0][0], pieces[-1][1]) == (start_ms, start_ms + length_ms)


@examples(3)
@given(AMOUNTS, st.lists(st.integers(1, 10**6), min_size=1, max_size=5))
def test_shares_by_weight_sum_to_the_whole_and_are_within_one_of_proportion(total: int, weights: list[int]) -> None:
    parts = share_by_weight(total, weights)
    assert len(parts) == len(weights)
    assert sum(parts) == total
    assert all(part >= 0 for part in parts)
    for part, weight in zip(parts[:-1], weights[:-1], strict=True):
        assert part == total * weight // sum(weights)
    assert parts[-1] - total * weights[-1] // sum(weights) < len(weights)


def test_shares_need_something_to_be_shared_among() -> None:
    for weights in ([], [0], [0, 0]):
        with pytest.raises(ValueError, match="weight"):
            share_by_weight(1, weights)
    with pytest.raises(ValueError, match="share"):
        share_equally(1, 0)


@examples(3)
@given(AMOUNTS, st.integers(1, 64))
def test_equal_shares_sum_to_the_whole_and_differ_by_at_most_one(total: int, count: int) -> None:
    parts = share_equally(total, count)
    assert len(parts) == count
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)
