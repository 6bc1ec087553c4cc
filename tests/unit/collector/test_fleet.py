# SPDX-License-Identifier: Apache-2.0
"""Live aggregates: one settled cell at a time, counted once, never back."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gpuledger.accounting import Account
from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS
from gpuledger.gpu_time import InstanceTime
from gpuledger.states import State
from gpuledger_collector import fleet as fleet_module
from gpuledger_collector.figures import Group
from gpuledger_collector.fleet import (
    OTHER,
    Fleet,
    Place,
    added,
    dominant,
    free_since,
    free_whole_nodes,
    resume,
    settle,
    summarise,
)
from gpuledger_collector.roster import Window, WindowKind
from tests.fakes.cells import T0_MS, rows

Time = State | dict[State, int] | None
"""What one GPU of a cell was: one state, milliseconds by state, or not observed."""
H100 = Place("fra1", "NVIDIA H100")


def account(**states: int) -> Account:
    return Account(state_slice_ms={State(name): amount for name, amount in states.items()})


def test_the_dominant_state_took_most_of_the_cell_and_a_tie_goes_to_what_flatters_least() -> None:
    assert dominant(account(busy=3, free=2)) is State.BUSY
    assert dominant(account(busy=2, free=2)) is State.FREE
    assert dominant(account(held=2, dark=2)) is State.DARK
    assert dominant(account(busy=1, unmeasured=1)) is State.UNMEASURED


def test_a_divided_gpu_is_free_only_where_less_than_half_of_a_slice_was_anything_else() -> None:
    one_busy = account(busy=CELL_MS, free=6 * CELL_MS)
    assert dominant(one_busy) is State.FREE
    assert dominant(one_busy, is_divided=True) is State.BUSY
    assert dominant(account(busy=CELL_MS, held=2 * CELL_MS, free=4 * CELL_MS), is_divided=True) is State.HELD
    assert dominant(account(dark=CELL_MS, held=CELL_MS, free=5 * CELL_MS), is_divided=True) is State.DARK
    assert dominant(account(free=7 * CELL_MS), is_divided=True) is State.FREE
    # A moment in which nothing could be told does not make a cell of it.
    edge = CELL_MS // 2
    assert dominant(account(unmeasured=edge - 1, free=7 * CELL_MS - edge + 1), is_divided=True) is State.FREE
    assert dominant(account(unmeasured=edge, free=7 * CELL_MS - edge), is_divided=True) is State.UNMEASURED


def test_a_gpu_with_one_busy_instance_is_not_counted_as_free_and_its_node_is_not_a_free_one() -> None:
    busy = InstanceTime(
        uuid="MIG-1",
        instance=1,
        slices=1,
        state_slice_ms={State.BUSY: CELL_MS},
        bin_slice_ms=(0, 0, 0, 0, 0, 0, 0, CELL_MS),
    )
    whole, divided = rows(
        T0_MS, {("n1", "GPU-1"): State.FREE, ("n2", "GPU-2"): {State.BUSY: CELL_MS // 7, State.FREE: CELL_MS * 6 // 7}}
    )
    ((accepted, gpu),) = divided.parts
    divided = replace(divided, parts=((accepted, replace(gpu, instances=(busy,))),))
    cell = summarise(T0_MS, [whole, divided], models={})
    assert cell.gpus_by_place == {H100: {State.FREE: 1, State.BUSY: 1}}
    assert free_whole_nodes(cell) == ["n1"]


def test_a_cell_is_summed_by_site_and_model_and_gpus_are_counted_by_dominant_state() -> None:
    cell = summarise(
        T0_MS,
        rows(
            T0_MS,
            {
                ("n1", "GPU-1"): State.BUSY,
                ("n1", "GPU-2"): {State.BUSY: 100_000, State.HELD: 200_000},
                ("n2", "GPU-3"): None,
            },
        ),
        models={"GPU-3": "NVIDIA H100"},
    )
    assert cell.places[H100].state_slice_ms == {
        State.BUSY: 400_000 * 7,
        State.HELD: 200_000 * 7,
        State.DARK: 300_000 * 7,
    }
    assert cell.gpus_by_place == {H100: {State.BUSY: 1, State.HELD: 1, State.DARK: 1}}


def test_every_state_of_a_place_is_counted_from_0_on_and_each_cell_once() -> None:
    busy = {("n1", "GPU-1"): State.BUSY}
    fleet = settle(Fleet(), T0_MS, rows(T0_MS, busy), {})
    assert fleet.slice_ms == {H100: {**dict.fromkeys(State, 0), State.BUSY: CELL_SLICE_MS}}
    later = T0_MS + CELL_MS
    for _ in range(3):
        fleet = settle(fleet, later, rows(later, busy), {})
        assert fleet.slice_ms[H100][State.BUSY] == 2 * CELL_SLICE_MS
    assert settle(fleet, T0_MS, rows(T0_MS, busy), {}) is fleet


def test_a_later_run_goes_on_from_what_was_counted_and_counts_no_cell_again() -> None:
    busy = {("n1", "GPU-1"): State.BUSY}
    first = settle(Fleet(), T0_MS, rows(T0_MS, busy), {})
    kept = added(Fleet(), first)
    assert kept == {("fra1", "NVIDIA H100", "busy"): CELL_SLICE_MS}
    second = resume(first.counted_to_ms, kept)
    shown = settle(second, T0_MS, rows(T0_MS, busy), {})
    assert shown.cell is not None
    assert added(second, shown) == {}
    after = settle(shown, T0_MS + CELL_MS, rows(T0_MS + CELL_MS, busy), {})
    assert added(shown, after) == kept
    assert after.slice_ms[H100][State.BUSY] == 2 * CELL_SLICE_MS


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([State.BUSY, State.FREE, None])), max_size=12))
def test_counters_never_go_back_and_grow_by_what_is_installed(cells: list[tuple[int, State | None]]) -> None:
    fleet = Fleet()
    for number, state in cells:
        cell_ms = T0_MS + number * CELL_MS
        after = settle(fleet, cell_ms, rows(cell_ms, {("n1", "GPU-1"): state}), {})
        is_new = fleet.cell is None or cell_ms > fleet.cell.cell_ms
        assert sum(added(fleet, after).values()) == (CELL_SLICE_MS if is_new else 0)
        for place, states in fleet.slice_ms.items():
            assert all(after.slice_ms[place][state] >= amount for state, amount in states.items())
        fleet = after


def test_a_dark_gpu_keeps_the_model_that_its_readings_once_named() -> None:
    gpu = ("n1", "GPU-1")
    fleet = settle(Fleet(), T0_MS, rows(T0_MS, {gpu: State.FREE}), {})
    fleet = settle(fleet, T0_MS + CELL_MS, rows(T0_MS + CELL_MS, {gpu: None}), {})
    assert fleet.cell is not None
    assert list(fleet.cell.places) == [H100]
    assert fleet.slice_ms[H100][State.DARK] == CELL_SLICE_MS


def test_places_beyond_the_bound_are_counted_together() -> None:
    bound = fleet_module.PLACES_MAX
    many = [
        row
        for number in range(bound + 3)
        for row in rows(T0_MS, {("n1", f"GPU-{number}"): State.FREE}, model=f"model-{number:05}")
    ]
    fleet = settle(Fleet(), T0_MS, many, {})
    fleet = settle(fleet, T0_MS + CELL_MS, many, {})
    assert len(fleet.slice_ms) == bound + 1
    assert fleet.slice_ms[OTHER][State.FREE] == 2 * 3 * CELL_SLICE_MS


def test_a_node_is_free_only_if_all_of_its_gpus_were_for_all_of_the_cell() -> None:
    states = {
        ("free", "GPU-1"): State.FREE,
        ("free", "GPU-2"): State.FREE,
        ("half", "GPU-3"): State.FREE,
        ("half", "GPU-4"): {State.FREE: 299_000, State.BUSY: 1_000},
        ("gone", "GPU-5"): State.FREE,
        ("gone", "GPU-6"): None,
        ("works", "GPU-7"): State.FREE,
    }
    windows = [
        Window(kind=WindowKind.MAINTENANCE, start_ms=T0_MS, end_ms=T0_MS + HOUR_MS, declared_ms=T0_MS - 1, node="works")
    ]
    fleet = settle(Fleet(), T0_MS, rows(T0_MS, states, windows), {})
    assert fleet.free_since_ms == {"free": T0_MS}


def test_since_when_a_node_is_free_is_kept_over_cells_and_begins_anew_after_a_break_or_a_missing_cell() -> None:
    free, busy = {("n1", "GPU-1"): State.FREE}, {("n1", "GPU-1"): State.BUSY}
    fleet, at_ms = Fleet(), T0_MS
    seen = []
    for states in (free, free, busy, free, free):
        fleet = settle(fleet, at_ms, rows(at_ms, states), {"n1": T0_MS - HOUR_MS})
        seen.append(fleet.free_since_ms.get("n1"))
        at_ms += CELL_MS
    assert seen == [T0_MS - HOUR_MS, T0_MS - HOUR_MS, None, T0_MS + 3 * CELL_MS, T0_MS + 3 * CELL_MS]
    skipped_ms = at_ms + 5 * CELL_MS
    fleet = settle(fleet, skipped_ms, rows(skipped_ms, free), {"n1": T0_MS - HOUR_MS})
    assert fleet.free_since_ms == {"n1": skipped_ms}


def test_since_when_a_node_was_free_is_found_in_hourly_sums() -> None:
    def group(node: str, hour: int, **states: int) -> Group:
        return Group(
            key=(node, T0_MS + hour * HOUR_MS),
            account=account(**states),
            gpus=1,
            active_known_ms=0,
            hang_suspicion_ms=0,
            memory_used_bytes_max=None,
            intervals_ms=(1000,),
            activity_sources=(),
            simulated=False,
        )

    groups = [
        group("n1", 0, free=9),
        group("n1", 1, free=8, busy=1),
        group("n1", 2, free=9),
        group("n1", 3, free=3),
        group("n2", 2, free=9),
        group("n2", 3, dark=3),
        group("n3", 2, free=9),
    ]
    assert free_since(groups, T0_MS + 3 * HOUR_MS + 3 * CELL_MS) == {"n1": T0_MS + 2 * HOUR_MS}
    assert free_since(groups, T0_MS + 4 * HOUR_MS) == {"n1": T0_MS + 2 * HOUR_MS}


def test_nodes_are_counted_once_and_the_whole_free_ones_apart() -> None:
    states: dict[tuple[str, str], State | dict[State, int] | None] = {
        ("n1", "GPU-1"): State.FREE,
        ("n1", "GPU-2"): State.FREE,
        ("n2", "GPU-3"): State.FREE,
        ("n2", "GPU-4"): {State.FREE: CELL_MS - 1, State.BUSY: 1},
        ("n3", "GPU-5"): None,
    }
    cell = summarise(T0_MS, rows(T0_MS, states), {})
    assert dict(cell.nodes_by_place) == {H100: 2, Place("fra1", ""): 1}
    assert dict(cell.free_nodes_by_place) == {H100: 1}


def test_a_gpu_is_idle_since_the_first_cell_that_one_idle_state_took_whole() -> None:
    def states(first: Time, second: Time) -> dict[tuple[str, str], Time]:
        return {("n1", "GPU-1"): first, ("n1", "GPU-2"): second}

    fleet = Fleet()
    lives: list[tuple[Time, Time]] = [
        (State.FREE, State.HELD),
        (State.FREE, State.HELD),
        ({State.FREE: CELL_MS - 1, State.BUSY: 1}, State.RESERVED),
        (State.FREE, State.RESERVED),
    ]
    seen = []
    for number, (first, second) in enumerate(lives):
        cell_ms = T0_MS + number * CELL_MS
        fleet = settle(fleet, cell_ms, rows(cell_ms, states(first, second)), {})
        seen.append({gpu: (since_ms - T0_MS) // CELL_MS for gpu, since_ms in fleet.idle_since_ms.items()})
    assert seen == [
        {"GPU-1": 0, "GPU-2": 0},
        {"GPU-1": 0, "GPU-2": 0},
        {"GPU-2": 2},
        {"GPU-1": 3, "GPU-2": 2},
    ]
    assert fleet.watched_from_ms == T0_MS
    late_ms = T0_MS + 9 * CELL_MS
    fleet = settle(fleet, late_ms, rows(late_ms, states(State.FREE, State.FREE)), {})
    assert fleet.idle_since_ms == {"GPU-1": late_ms, "GPU-2": late_ms}
    assert fleet.watched_from_ms == late_ms
