# SPDX-License-Identifier: Apache-2.0
"""Gauges on a grid become states: the rules, each known defect of exporters, and laws over random gauges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, SLICES_PER_GPU
from gpuledger.states import IDLE, State
from gpuledger_collector.engine.answer import NAN, Grid
from gpuledger_collector.engine.gauges import Cell, Notes, Reducer, Track, Value
from gpuledger_collector.engine.profile import Labels, Profile
from gpuledger_collector.engine.profile_files import load_profile

DCGM = load_profile("dcgm")
NVITOP = load_profile("nvitop")
STEP_MS = 30_000
POINTS = CELL_MS // STEP_MS
POINT_SLICE_MS = STEP_MS * SLICES_PER_GPU
HELD_MIB = 20_000.0
BLANK = 9223372036854775794.0
"""DCGM_INT64_NOT_SUPPORTED, as the README of dcgm-exporter 4.5.3 shows it in an exposition."""


def track(
    first: Sequence[Value] | Value = None,
    second: Sequence[Value] | Value = None,
    memory: Sequence[Value] | Value = None,
    *,
    name: str = "a",
    holder: tuple[str, str | None] | None = None,
    instance: str = "",
    slices: int | None = SLICES_PER_GPU,
    points: int = POINTS,
) -> Track:
    """A track over one cell; one value stands for every point."""

    def line(values: Sequence[Value] | Value) -> Sequence[Value]:
        return values if isinstance(values, Sequence) else [values] * points

    return Track(
        order=(name,),
        holder=holder,
        instance=instance,
        slices=slices,
        first=line(first),
        second=line(second),
        memory=line(memory),
    )


def reduce(*tracks: Track, profile: Profile = DCGM) -> tuple[dict[int, Cell], Notes]:
    notes = Notes()
    grid = Grid(first_ms=STEP_MS, step_ms=STEP_MS, count=len(tracks[0].first))
    return Reducer(profile).cells(tracks, grid, 2 * STEP_MS, notes), notes


def states(*tracks: Track, profile: Profile = DCGM) -> dict[State, int]:
    """The states of the first cell, in points of the grid."""
    cells, _ = reduce(*tracks, profile=profile)
    return {state: amount // POINT_SLICE_MS for state, amount in cells[0].state_slice_ms.items()}


@pytest.mark.parametrize(
    ("first", "memory", "holder", "state"),
    [
        (0.9, HELD_MIB, None, State.BUSY),
        (0.9, HELD_MIB, ("pod", "ns"), State.BUSY),
        (0.050001, HELD_MIB, None, State.BUSY),
        (0.05, HELD_MIB, None, State.HELD),
        (0.0, HELD_MIB, None, State.HELD),
        (0.0, 4.0, None, State.FREE),
        (0.05, 4.0, None, State.FREE),
        (0.0, 4.0, ("pod", "ns"), State.RESERVED),
        (0.0, 100.0, None, State.FREE),
        (0.0, 100.001, None, State.HELD),
        (0.9, 4.0, None, State.UNMEASURED),
        (0.9, 4.0, ("pod", "ns"), State.UNMEASURED),
        (None, HELD_MIB, None, State.UNMEASURED),
        (None, 4.0, None, State.UNMEASURED),
        (0.0, None, None, State.HELD),
        (0.9, None, None, State.UNMEASURED),
    ],
)
def test_the_state_of_a_sample(first: Value, memory: Value, holder: tuple[str, str] | None, state: State) -> None:
    assert states(track(first, None, memory, holder=holder)) == {state: POINTS}


def test_a_cell_has_states_bins_activity_memory_and_the_gauge_it_came_from() -> None:
    cells, notes = reduce(track([0.0] * 4 + [0.5] * 3 + [0.95] * 3, None, HELD_MIB))
    assert list(cells) == [0]
    cell = cells[0]
    assert cell.covered_ms == CELL_MS
    assert cell.state_slice_ms == {State.HELD: 4 * POINT_SLICE_MS, State.BUSY: 6 * POINT_SLICE_MS}
    assert cell.bin_slice_ms == [4 * POINT_SLICE_MS, 0, 0, 0, 0, 3 * POINT_SLICE_MS, 0, 3 * POINT_SLICE_MS]
    assert cell.active_slice_ns == (3 * 500_000 + 3 * 950_000) * POINT_SLICE_MS
    assert cell.active_known_slice_ms == CELL_SLICE_MS
    assert cell.memory_bytes_max == 20_000 << 20
    assert cell.sources == {"DCGM_FI_PROF_GR_ENGINE_ACTIVE"}
    assert (notes.points, notes.changes) == (POINTS, 1)


def test_time_without_a_sample_is_covered_by_nothing_and_a_cell_without_any_is_not_there() -> None:
    holes: list[Value] = [0.9] * 4 + [None] * (2 * POINTS - 4)
    memory: list[Value] = [HELD_MIB] * 4 + [None] * (2 * POINTS - 4)
    cells, _ = reduce(track(holes, [None] * 2 * POINTS, memory))
    assert list(cells) == [0]
    assert cells[0].covered_ms == 4 * STEP_MS
    assert cells[0].state_slice_ms == {State.BUSY: 4 * POINT_SLICE_MS}


# ------------------------------------------------------------------------------------------- blanks and sentinels


@pytest.mark.parametrize(
    "value",
    [BLANK, 2147483632.0, 140737488355328.0, 1.4e16, 4294967295.0, 1.000001, -1.0, math.inf],
    ids=["int64 blank", "int32 blank", "fp64 blank", "slurm-job-exporter#53", "DCGM#199", "over full", "-1", "inf"],
)
def test_a_blank_of_activity_is_unknown_and_counted_and_no_activity(value: float) -> None:
    cells, notes = reduce(track(value, None, HELD_MIB))
    assert cells[0].state_slice_ms == {State.UNMEASURED: CELL_SLICE_MS}
    assert (cells[0].active_slice_ns, cells[0].active_known_slice_ms, notes.rejected) == (0, 0, POINTS)


def test_a_spike_of_utilisation_to_four_billion_is_not_work() -> None:
    """NVIDIA/DCGM issue 199: GPU_UTIL reads up to 4294967295."""
    assert states(track(None, [0.0] * 9 + [4294967295.0], 4.0)) == {State.FREE: 9, State.UNMEASURED: 1}


def test_a_blank_of_memory_is_not_memory_in_use() -> None:
    cells, notes = reduce(track(0.0, None, BLANK))
    assert cells[0].state_slice_ms == {State.HELD: CELL_SLICE_MS}
    assert (cells[0].memory_bytes_max, notes.rejected, notes.without_memory) == (None, POINTS, POINTS)


def test_not_a_number_is_unknown_and_still_a_sign_of_life() -> None:
    """nvitop-exporter shows what does not apply (a lost GPU, utilisation under MIG) as NaN."""
    cells, notes = reduce(track(NAN, None, NAN), profile=NVITOP)
    assert cells[0].state_slice_ms == {State.UNMEASURED: CELL_SLICE_MS}
    assert (cells[0].covered_ms, notes.rejected) == (CELL_MS, 0)


# ----------------------------------------------------------------------------------------- two gauges of activity


def test_utilisation_stands_in_where_profiling_says_nothing() -> None:
    cells, _ = reduce(track([None] * 5 + [0.9] * 5, [80.0] * 5 + [None] * 5, HELD_MIB))
    assert cells[0].state_slice_ms == {State.BUSY: CELL_SLICE_MS}
    assert cells[0].active_slice_ns == 5 * (800_000 + 900_000) * POINT_SLICE_MS
    assert cells[0].sources == {"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"}


def test_profiling_that_is_stuck_at_zero_does_not_make_a_busy_gpu_idle() -> None:
    """NVIDIA/DCGM issue 303: after Xid 31 the PROF fields read 0 while GPU_UTIL is 100, until DCGM restarts."""
    cells, notes = reduce(track(0.0, 100.0, HELD_MIB))
    assert cells[0].state_slice_ms == {State.UNMEASURED: CELL_SLICE_MS}
    assert (cells[0].active_known_slice_ms, notes.contradictions, notes.rejected) == (0, POINTS, 0)


def test_a_second_gauge_that_the_profile_does_not_have_says_nothing() -> None:
    assert states(track(None, 80.0, HELD_MIB), profile=NVITOP) == {State.UNMEASURED: POINTS}


# --------------------------------------------------------------------------------------- several series for one GPU


def test_a_gpu_whose_series_change_with_its_pods_counts_once_at_every_moment() -> None:
    """NVIDIA/dcgm-exporter issues 237 and 428: each pod makes a series of its own, and so does having none."""
    one = track([0.9] * 4 + [None] * 6, None, [HELD_MIB] * 4 + [None] * 6, name="pod", holder=("one", "ns"))
    none = track([None] * 4 + [0.0] * 6, None, [None] * 4 + [4.0] * 6, name="")
    assert states(one, none) == {State.BUSY: 4, State.FREE: 6}


def test_of_a_series_that_ends_and_one_that_follows_the_newer_counts() -> None:
    """An old series stands for up to two intervals, since no staleness marker is seen in a range."""
    old = track([0.9] * 5 + [None] * 5, None, [HELD_MIB] * 5 + [None] * 5, name="a", holder=("old", "ns"))
    new = track([None] * 4 + [0.0] * 6, None, [None] * 4 + [4.0] * 6, name="b")
    cells, _ = reduce(old, new)
    assert cells[0].state_slice_ms == {State.BUSY: 4 * POINT_SLICE_MS, State.FREE: 6 * POINT_SLICE_MS}
    assert cells[0].covered_ms == CELL_MS


def test_a_series_without_a_successor_stands_to_its_end() -> None:
    assert states(track([0.9] * 5 + [None] * 5, None, [HELD_MIB] * 5 + [None] * 5)) == {State.BUSY: 5}


def test_two_prometheus_replicas_count_as_one_sample_and_not_as_the_larger() -> None:
    """Of a load that is on half of the time the larger of two samples would say three quarters."""
    a = track([0.9, 0.0] * 5, None, HELD_MIB, name="replica a")
    b = track([0.0, 0.9] * 5, None, HELD_MIB, name="replica b")
    assert states(a, b) == {State.BUSY: 5, State.HELD: 5}


def test_where_one_replica_missed_a_scrape_the_other_counts() -> None:
    a = track([0.9] * 3 + [None] * 4 + [0.9] * 3, None, HELD_MIB, name="replica a")
    b = track(0.9, None, HELD_MIB, name="replica b")
    assert states(a, b) == {State.BUSY: 10}


def test_a_shared_gpu_counts_once_and_is_shared_by_its_pods() -> None:
    """With time slicing dcgm-exporter repeats a GPU for each of its pods (--kubernetes-virtual-gpus)."""
    a = track(0.0, None, HELD_MIB, name="a", holder=("a", "ns"))
    b = track(0.0, None, HELD_MIB, name="b", holder=("b", "ns"))
    cells, _ = reduce(a, b)
    assert cells[0].state_slice_ms == {State.HELD: CELL_SLICE_MS}
    assert cells[0].holders == {frozenset({("a", "ns"), ("b", "ns")}): {State.HELD: CELL_SLICE_MS}}


def test_labels_that_are_on_one_metric_and_not_on_another_do_not_part_a_gpu_from_its_memory() -> None:
    """NVIDIA/dcgm-exporter issue 342: pod labels are sometimes missing from single metrics."""
    activity = track(0.9, None, None, name="pod", holder=("pod", "ns"))
    memory = track(None, None, HELD_MIB, name="")
    assert states(activity, memory) == {State.BUSY: POINTS}


# ------------------------------------------------------------------------------------------------------------- MIG


def test_instances_count_by_their_slices_and_the_rest_is_unmeasured() -> None:
    """NVIDIA/dcgm-exporter issue 397: 5 of 7 instances report; slices that say nothing are not idle."""
    busy = track(0.9, None, HELD_MIB, instance="1", slices=3, name="1")
    free = track(0.0, None, 4.0, instance="2", slices=2, name="2")
    cells, _ = reduce(busy, free)
    per_slice = CELL_SLICE_MS // SLICES_PER_GPU
    assert cells[0].state_slice_ms == {
        State.BUSY: 3 * per_slice,
        State.FREE: 2 * per_slice,
        State.UNMEASURED: 2 * per_slice,
    }
    assert sum(cells[0].state_slice_ms.values()) == CELL_SLICE_MS
    assert cells[0].active_slice_ns == 900_000 * 3 * per_slice


def test_the_whole_gpu_beside_its_instances_adds_nothing() -> None:
    """NVIDIA/DCGM issue 80: utilisation of a GPU in MIG mode is 0 or absent, beside series of its instances."""
    parent = track(None, 0.0, 4.0, name="parent")
    child = track(0.9, None, HELD_MIB, instance="1", slices=7, name="child")
    assert states(parent, child) == {State.BUSY: POINTS}


def test_an_instance_of_unknown_size_is_unmeasured() -> None:
    assert states(track(0.0, None, 4.0, instance="1", slices=None)) == {State.UNMEASURED: POINTS}


def test_instances_of_more_than_a_gpu_make_the_cell_dark() -> None:
    one = track(0.9, None, HELD_MIB, instance="1", slices=4, name="1")
    other = track(0.9, None, HELD_MIB, instance="2", slices=4, name="2")
    cells, _ = reduce(one, other)
    assert (cells[0].state_slice_ms, cells[0].has_overlap) == ({}, True)


# ------------------------------------------------------------------------------------------------------------ laws

values = st.one_of(st.none(), st.just(NAN), st.sampled_from([0.0, 0.01, 0.05, 0.06, 0.5, 1.0, 2.0, BLANK, -1.0]))
percents = st.one_of(st.none(), st.sampled_from([0.0, 6.0, 80.0, 100.0, 4294967295.0]))
memories = st.one_of(st.none(), st.just(NAN), st.sampled_from([0.0, 100.0, 101.0, HELD_MIB, BLANK]))
holders = st.one_of(st.none(), st.sampled_from([("a", "ns"), ("b", None)]))
whole = st.just(("", 7))
parts = st.sampled_from([("", 7), ("1", 1), ("2", 2), ("3", 3), ("9", None)])


@st.composite
def some_tracks(draw: st.DrawFn, instances: st.SearchStrategy[tuple[str, int | None]] = parts) -> list[Track]:
    found = []
    for name in range(draw(st.integers(1, 4))):
        instance, slices = draw(instances)
        found.append(
            track(
                draw(st.lists(values, min_size=POINTS, max_size=POINTS)),
                draw(st.lists(percents, min_size=POINTS, max_size=POINTS)),
                draw(st.lists(memories, min_size=POINTS, max_size=POINTS)),
                name=str(name),
                holder=draw(holders),
                instance=instance,
                slices=slices,
            )
        )
    return found


@given(some_tracks())
def test_states_sum_to_what_is_covered_and_bins_to_busy_and_held(tracks: list[Track]) -> None:
    for cell in reduce(*tracks)[0].values():
        if cell.has_overlap:
            continue
        total = sum(cell.state_slice_ms.values())
        assert total == cell.covered_ms * SLICES_PER_GPU
        assert total <= CELL_SLICE_MS
        held = cell.state_slice_ms.get(State.BUSY, 0) + cell.state_slice_ms.get(State.HELD, 0)
        assert sum(cell.bin_slice_ms) == held
        assert sum(amount for times in cell.holders.values() for amount in times.values()) <= held
        assert 0 <= cell.active_slice_ns <= cell.active_known_slice_ms * 1_000_000
        assert cell.active_known_slice_ms <= total
        assert all(amount > 0 for amount in cell.state_slice_ms.values())


@given(some_tracks(), st.randoms(use_true_random=False))
def test_the_order_of_series_changes_nothing(tracks: list[Track], random: object) -> None:
    mixed = list(tracks)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert reduce(*tracks) == reduce(*mixed)


@given(some_tracks(whole), st.integers(0, POINTS - 1))
def test_a_scrape_that_is_missing_never_raises_a_lower_bound(tracks: list[Track], at: int) -> None:
    def without(values: Sequence[Value]) -> list[Value]:
        return [None if index == at else value for index, value in enumerate(values)]

    less = [
        track(without(t.first), without(t.second), without(t.memory), name=t.order[0], holder=t.holder) for t in tracks
    ]

    def bounds(found: Sequence[Track]) -> tuple[int, int, int]:
        cell = reduce(*found)[0].get(0, Cell())
        idle = sum(cell.state_slice_ms.get(state, 0) for state in IDLE)
        busy = cell.state_slice_ms.get(State.BUSY, 0)
        return busy, idle, CELL_SLICE_MS - busy

    if len(tracks) == 1:
        before, after = bounds(tracks), bounds(less)
        assert (after[0] <= before[0], after[1] <= before[1], after[2] >= before[2]) == (True, True, True)
    else:
        # Which of several series counts may change where one ends; what is covered never grows.
        covered = [reduce(*found)[0].get(0, Cell()).covered_ms for found in (tracks, less)]
        assert covered[1] <= covered[0]


def test_what_values_mean_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuledger_collector.engine.gauges._REMEMBERED_MAX", 5)
    reducer, notes = Reducer(DCGM), Notes()
    grid = Grid(first_ms=STEP_MS, step_ms=STEP_MS, count=POINTS)
    for base in range(5):
        found = [(base * 10 + index) / 1000 for index in range(POINTS)]
        cell = reducer.cells([track(found, None, HELD_MIB)], grid, 2 * STEP_MS, notes)[0]
        assert cell.active_slice_ns == sum(round(value * 1_000_000) for value in found) * POINT_SLICE_MS
    assert len(reducer._numbers) <= 5 + POINTS


def test_a_profile_without_memory_shows_no_gpu_free() -> None:
    bare = Profile(
        name="bare", exporter="x", update_interval_ms=1000, labels=Labels(gpu=("uuid",)), activities=NVITOP.activities
    )
    assert states(track(0.0, None, None), profile=bare) == {State.HELD: POINTS}
    assert states(track(90.0, None, None), profile=bare) == {State.UNMEASURED: POINTS}
