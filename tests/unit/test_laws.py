# SPDX-License-Identifier: Apache-2.0
"""The laws of accounting.md, section 4, over random fleets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gpuledger.accounting import Account, add
from gpuledger.cells import CELL_MS, CELL_SLICE_MS, DAY_MS, HOUR_MS, SLICES_PER_GPU, split_at
from gpuledger.gpu_time import GpuTime
from gpuledger.states import ACTIVITY_EDGES_PPM, IDLE, OUT, THETA_PPM, UNKNOWN, State
from gpuledger_collector.ledger import Accepted, CellRow, Ledger, build, cell_rows
from gpuledger_collector.roster import Entry, Roster, installed_cells
from tests.fakes.cells import reading as fleet_reading
from tests.fakes.fleets import Fleet, fleets
from tests.profiles import examples

WEEK_MS = 7 * DAY_MS
MONDAY_MS = 4 * DAY_MS
"""1970-01-05, from which weeks are counted."""

SEEDS = st.integers(0, 2**32 - 1)


def settle(fleet: Fleet) -> Ledger:
    return build(fleet.readings, fleet.roster, fleet.start_ms, fleet.end_ms)


def cells_of(fleet: Fleet, readings: tuple[Accepted, ...] | None = None) -> dict[tuple[str, int], CellRow]:
    kept = fleet.readings if readings is None else readings
    rows: dict[tuple[str, int], CellRow] = {}
    for cell_ms in range(fleet.start_ms, fleet.end_ms, CELL_MS):
        for row in cell_rows(kept, fleet.roster, cell_ms):
            assert (row.entry.gpu, cell_ms) not in rows
            rows[row.entry.gpu, cell_ms] = row
    return rows


def lose_some(fleet: Fleet, seed: int) -> tuple[Accepted, ...]:
    rng = Random(seed)
    share = rng.random()
    return tuple(accepted for accepted in fleet.readings if rng.random() < share)


def bounds(account: Account) -> tuple[int, int, int, int]:
    """Return busy low, idle low, busy high, idle high in slice-ms."""
    assert account.busy is not None
    assert account.idle is not None
    busy, idle = account.busy, account.idle
    return busy.low_slice_ms, idle.low_slice_ms, busy.high_slice_ms, idle.high_slice_ms


def installed_count(roster: Roster, start_ms: int, end_ms: int) -> int:
    """Count (GPU, cell) pairs that any entry touches, one by one."""
    touched = set()
    for entry in roster.entries:
        for cell_ms in range(start_ms, end_ms, CELL_MS):
            is_begun = entry.from_ms < cell_ms + CELL_MS
            if is_begun and (entry.to_ms is None or entry.to_ms > cell_ms):
                touched.add((entry.gpu, cell_ms))
    return len(touched)


# ------------------------------------------------------------------------------------------------- 1. conservation


@examples()
@given(fleets())
def test_the_states_of_each_gpu_and_cell_sum_to_its_installed_time(fleet: Fleet) -> None:
    for row in cells_of(fleet).values():
        assert sum(row.account.state_slice_ms.values()) == CELL_SLICE_MS
        assert all(amount > 0 for amount in row.account.state_slice_ms.values())


@examples()
@given(fleets())
def test_the_states_of_all_hours_sum_to_the_installed_time_of_the_roster(fleet: Fleet) -> None:
    ledger = settle(fleet)
    expected = installed_count(fleet.roster, fleet.start_ms, fleet.end_ms) * CELL_SLICE_MS
    assert sum(row.account.installed_slice_ms for row in ledger.hours) == expected


@examples()
@given(fleets())
def test_activity_bins_divide_busy_and_held_time_at_theta(fleet: Fleet) -> None:
    above = ACTIVITY_EDGES_PPM.index(THETA_PPM) + 1
    for row in settle(fleet).hours:
        account = row.account
        assert sum(account.bin_slice_ms) == account.slice_ms(State.BUSY, State.HELD)
        assert sum(account.bin_slice_ms[above:]) == account.slice_ms(State.BUSY)
        assert account.busy_slice_ms_above(THETA_PPM) == account.slice_ms(State.BUSY)


@examples()
@given(fleets())
def test_holders_divide_busy_and_held_time_of_every_gpu_and_hour(fleet: Fleet) -> None:
    ledger = settle(fleet)
    busy: Counter[tuple[int, str]] = Counter()
    held: Counter[tuple[int, str]] = Counter()
    for holder in ledger.holders:
        busy[holder.hour_ms, holder.gpu] += holder.busy_slice_ms
        held[holder.hour_ms, holder.gpu] += holder.held_slice_ms
    for row in ledger.hours:
        busy[row.hour_ms, row.gpu] -= row.account.slice_ms(State.BUSY)
        held[row.hour_ms, row.gpu] -= row.account.slice_ms(State.HELD)
    assert {key: left for key, left in (busy + held).items() if left != 0} == {}
    assert not any(busy.values())
    assert not any(held.values())


@examples()
@given(fleets())
def test_busy_low_and_idle_high_and_out_make_up_installed_time_to_the_last_integer(fleet: Fleet) -> None:
    account = add([row.account for row in settle(fleet).hours])
    if account.installed_slice_ms == 0:
        assert account.busy is None
        return
    busy_low, idle_low, busy_high, idle_high = bounds(account)
    out = account.slice_ms(*OUT)
    assert busy_low + idle_high + out == account.installed_slice_ms
    assert busy_high + idle_low + out == account.installed_slice_ms
    assert idle_low == account.slice_ms(*IDLE)
    assert idle_high - idle_low == busy_high - busy_low == account.slice_ms(*UNKNOWN)


@examples()
@given(fleets())
def test_time_that_was_declared_and_uncovered_is_part_of_standby_and_maintenance(fleet: Fleet) -> None:
    for row in cells_of(fleet).values():
        declared = row.account.declared_uncovered_slice_ms
        assert 0 <= declared <= row.account.slice_ms(State.STANDBY, State.MAINTENANCE)
        assert row.account.slice_ms(State.STANDBY) in {0, declared}
        assert declared == 0 or row.account.slice_ms(State.DARK) == 0


@examples()
@given(fleets())
def test_what_stands_beside_the_states_fits_into_them(fleet: Fleet) -> None:
    for row in settle(fleet).hours:
        account = row.account
        unseen = account.slice_ms(State.DARK) + account.declared_uncovered_slice_ms
        assert sum(row.uncovered_slice_ms.values()) <= unseen
        assert row.hang_suspicion_ms * SLICES_PER_GPU <= account.slice_ms(State.UNMEASURED)
        assert row.active_known_ms * SLICES_PER_GPU <= account.installed_slice_ms - unseen
        ratio = account.engine_active_ratio
        assert ratio is None or 0.0 <= ratio <= 1.0


# ------------------------------------------------------------------------------------------------- 2. monotonicity


@examples()
@given(fleets(has_equivocation=False, has_overlaps=False), SEEDS)
def test_a_missing_reading_never_raises_a_lower_bound_of_busy(fleet: Fleet, seed: int) -> None:
    less = build(lose_some(fleet, seed), fleet.roster, fleet.start_ms, fleet.end_ms)
    whole = settle(fleet)
    assert [(row.hour_ms, row.gpu, row.node) for row in whole.hours] == [
        (row.hour_ms, row.gpu, row.node) for row in less.hours
    ]
    for row, poorer in zip(whole.hours, less.hours, strict=True):
        assert poorer.account.slice_ms(State.BUSY) <= row.account.slice_ms(State.BUSY)
        assert poorer.account.installed_slice_ms == row.account.installed_slice_ms


@examples()
@given(fleets(has_equivocation=False, has_overlaps=False), SEEDS)
def test_outside_declared_windows_a_missing_reading_only_widens_the_bounds(fleet: Fleet, seed: int) -> None:
    whole, less = cells_of(fleet), cells_of(fleet, lose_some(fleet, seed))
    assert whole.keys() == less.keys()
    for (gpu, cell_ms), row in whole.items():
        if any(window.covers(row.entry, cell_ms) for window in fleet.roster.windows):
            continue
        lows_and_highs, poorer = bounds(row.account), bounds(less[gpu, cell_ms].account)
        assert poorer[0] <= lows_and_highs[0]
        assert poorer[1] <= lows_and_highs[1]
        assert poorer[2] >= lows_and_highs[2]
        assert poorer[3] >= lows_and_highs[3]


@examples()
@given(fleets(has_equivocation=False, has_overlaps=False), SEEDS)
def test_a_missing_reading_moves_no_gpu_time_from_one_group_to_another(fleet: Fleet, seed: int) -> None:
    # Otherwise a group's lower bound rises because its dark time went to the group of what is not known.
    less = build(lose_some(fleet, seed), fleet.roster, fleet.start_ms, fleet.end_ms)
    for row, poorer in zip(settle(fleet).hours, less.hours, strict=True):
        assert (row.site, row.cluster, row.pool, row.node, row.model, row.serial) == (
            poorer.site,
            poorer.cluster,
            poorer.pool,
            poorer.node,
            poorer.model,
            poorer.serial,
        )


@examples()
@given(fleets(has_clock_steps=False, has_windows=False))
def test_the_truth_lies_within_the_bounds_whatever_was_lost(fleet: Fleet) -> None:
    uuid_of = {gpu: uuid for uuid, gpu in fleet.identity.items()}
    for (gpu, cell_ms), row in cells_of(fleet).items():
        if gpu not in uuid_of:
            continue
        true = fleet.true_slice_ms(uuid_of[gpu], cell_ms, cell_ms + CELL_MS)
        busy_low, idle_low, busy_high, idle_high = bounds(row.account)
        assert busy_low <= true.get(State.BUSY, 0) <= busy_high
        assert idle_low <= sum(true.get(state, 0) for state in IDLE) <= idle_high
        assert row.account.slice_ms(*OUT) <= sum(true.get(state, 0) for state in OUT)


@examples()
@given(
    fleets(
        is_declared=True,
        has_clock_steps=False,
        has_holes=False,
        has_restarts=False,
        has_overlaps=False,
        has_equivocation=False,
        has_moves=False,
        has_windows=False,
        has_strangers=False,
    )
)
def test_nothing_lost_means_the_bounds_are_the_truth(fleet: Fleet) -> None:
    for (gpu, cell_ms), row in cells_of(fleet).items():
        assert dict(row.account.state_slice_ms) == fleet.true_slice_ms(gpu, cell_ms, cell_ms + CELL_MS)


# ------------------------------------------------------------------------------- 3. idempotence, lateness, order


@examples()
@given(fleets(), SEEDS)
def test_repeats_and_any_order_give_the_same_ledger_to_the_last_character(fleet: Fleet, seed: int) -> None:
    rng = Random(seed)
    arrived = [*fleet.readings, *(accepted for accepted in fleet.readings if rng.random() < 0.5)]
    rng.shuffle(arrived)
    entries, windows = list(fleet.roster.entries), list(fleet.roster.windows)
    rng.shuffle(entries)
    rng.shuffle(windows)
    roster = replace(fleet.roster, entries=tuple(entries), windows=tuple(windows))
    again = build(arrived, roster, fleet.start_ms, fleet.end_ms)
    # The text, because equal dictionaries may print in different orders and rows are hashed as text.
    assert repr(again) == repr(settle(fleet))


@examples()
@given(fleets(), SEEDS)
def test_a_reading_whose_workloads_came_late_is_one_reading(fleet: Fleet, seed: int) -> None:
    rng = Random(seed)
    arrived = [*fleet.readings, *(replace(accepted, workloads=()) for accepted in fleet.readings)]
    rng.shuffle(arrived)
    assert repr(build(arrived, fleet.roster, fleet.start_ms, fleet.end_ms)) == repr(settle(fleet))


# ------------------------------------------------------------------------------------------------- 4. additivity


@examples()
@given(fleets(), st.sampled_from([(HOUR_MS, 0), (DAY_MS, 0), (WEEK_MS, MONDAY_MS)]))
def test_ledgers_of_hours_days_and_weeks_put_together_are_the_ledger(fleet: Fleet, grid: tuple[int, int]) -> None:
    step_ms, origin_ms = grid
    pieces = [
        build(fleet.readings, fleet.roster, start_ms + origin_ms, end_ms + origin_ms)
        for start_ms, end_ms in split_at(fleet.start_ms - origin_ms, fleet.end_ms - origin_ms, step_ms)
    ]
    whole = settle(fleet)
    assert [row for piece in pieces for row in piece.hours] == list(whole.hours)
    assert [row for piece in pieces for row in piece.holders] == list(whole.holders)
    assert sorted({finding for piece in pieces for finding in piece.findings}) == list(whole.findings)
    assert add([add([row.account for row in piece.hours]) for piece in pieces]) == add(
        [row.account for row in whole.hours]
    )


@examples()
@given(fleets())
def test_cells_add_up_to_hours(fleet: Fleet) -> None:
    cells: dict[tuple[int, str, str], list[Account]] = {}
    for (gpu, cell_ms), row in cells_of(fleet).items():
        cells.setdefault((cell_ms - cell_ms % HOUR_MS, gpu, row.entry.node), []).append(row.account)
    hours: dict[tuple[int, str, str], list[Account]] = {}
    for hour in settle(fleet).hours:
        hours.setdefault((hour.hour_ms, hour.gpu, hour.node), []).append(hour.account)
    assert {key: add(accounts) for key, accounts in cells.items()} == {
        key: add(accounts) for key, accounts in hours.items()
    }


# ------------------------------------------------------------------------------------------ 5. no zero from nothing


def test_an_account_of_no_time_has_no_figure() -> None:
    nothing = add([])
    assert nothing.installed_slice_ms == 0
    for figure in (
        nothing.idle,
        nothing.busy,
        nothing.out_ratio,
        nothing.coverage,
        nothing.measured,
        nothing.declared_ratio,
        nothing.engine_active_ratio,
    ):
        assert figure is None


@examples()
@given(fleets())
def test_what_no_reading_spoke_of_has_no_activity_and_no_memory(fleet: Fleet) -> None:
    silent = build((), fleet.roster, fleet.start_ms, fleet.end_ms)
    for row in silent.hours:
        assert row.account.active_ns is None
        assert row.account.engine_active_ratio is None
        assert row.memory_used_bytes_max is None
        assert row.account.energy_mj == {}
        assert set(row.account.state_slice_ms) <= {State.DARK, State.STANDBY, State.MAINTENANCE}
    assert silent.holders == ()
    assert silent.findings == ()


@examples()
@given(fleets())
def test_an_hour_whose_activity_was_never_known_has_no_activity(fleet: Fleet) -> None:
    for row in settle(fleet).hours:
        assert (row.account.active_ns is None) == (row.active_known_ms == 0)


# ------------------------------------------------------------------------------------------------- 6. counted once


@examples()
@given(fleets())
def test_a_gpu_is_at_one_node_in_any_cell(fleet: Fleet) -> None:
    for entries in fleet.roster.by_gpu().values():
        cells = [cell_ms for cell_ms, _ in installed_cells(entries, fleet.start_ms, fleet.end_ms)]
        assert len(cells) == len(set(cells))


@examples()
@given(fleets(has_clock_steps=False))
def test_no_state_is_credited_with_more_time_than_there_was_of_it(fleet: Fleet) -> None:
    uuid_of = {gpu: uuid for uuid, gpu in fleet.identity.items()}
    for (gpu, cell_ms), row in cells_of(fleet).items():
        if gpu in uuid_of:
            true = fleet.true_slice_ms(uuid_of[gpu], cell_ms, cell_ms + CELL_MS)
            for state in (State.BUSY, State.HELD, State.RESERVED, State.FREE, State.OPERATOR, State.DOWN):
                assert row.account.slice_ms(state) <= true.get(state, 0)


@examples()
@given(fleets())
def test_readings_count_only_at_the_node_that_the_roster_names(fleet: Fleet) -> None:
    for row in cells_of(fleet).values():
        assert {accepted.reading.node_name for accepted, _ in row.parts} <= {row.entry.node}


@examples()
@given(fleets())
def test_every_reading_either_counts_or_is_explained_by_a_finding(fleet: Fleet) -> None:
    counted = {(accepted.digest, gpu.uuid) for row in cells_of(fleet).values() for accepted, gpu in row.parts}
    found = {(finding.at_ms, finding.subject) for finding in settle(fleet).findings}
    for accepted in fleet.readings:
        reading = accepted.reading
        if not fleet.start_ms <= reading.cell_ms < fleet.end_ms:
            continue
        hour_ms = reading.cell_ms - reading.cell_ms % HOUR_MS
        for gpu in reading.gpus:
            names = {gpu.uuid, fleet.identity[gpu.uuid]}
            assert (accepted.digest, gpu.uuid) in counted or any((hour_ms, name) in found for name in names)


def test_a_gpu_that_one_reading_lists_under_two_names_counts_under_neither() -> None:
    # By UUID and by a UUID that only its serial number ties to the same entry of the roster.
    free = {State.FREE: CELL_SLICE_MS}
    gpus = [GpuTime(uuid=uuid, serial="S0", state_slice_ms=free) for uuid in ("serial:S0", "GPU-0")]
    accepted = fleet_reading("node-0", gpus)
    roster = Roster(entries=(Entry(gpu="serial:S0", node="node-0", from_ms=0, serial="S0"),), is_declared=True)
    (row,) = cell_rows([accepted], roster, accepted.reading.cell_ms)
    assert row.account.state_slice_ms == {State.DARK: CELL_SLICE_MS}
    assert row.parts == ()
