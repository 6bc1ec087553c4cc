# SPDX-License-Identifier: Apache-2.0
"""The laws of accounting.md, section 4, with leases and schedulers around random fleets."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, HOUR_MS, split_at
from gpuledger.states import State
from gpuledger_collector.commerce import CommerceRow
from gpuledger_collector.leases import Commercial, Several
from gpuledger_collector.ledger import Accepted, Ledger, build
from tests.fakes.fleets import Fleet, fleets
from tests.fakes.surroundings import lease_book, scheduling
from tests.profiles import examples

SEEDS = st.integers(0, 2**32 - 1)
NO_TROUBLE = {"has_equivocation": False, "has_overlaps": False}


def settle(fleet: Fleet, seed: int, readings: tuple[Accepted, ...] | None = None, **span: int) -> Ledger:
    return build(
        fleet.readings if readings is None else readings,
        fleet.roster,
        span.get("start_ms", fleet.start_ms),
        span.get("end_ms", fleet.end_ms),
        leases=lease_book(fleet, seed),
        scheduling=scheduling(fleet, seed + 1),
    )


def lose_some(fleet: Fleet, seed: int) -> tuple[Accepted, ...]:
    rng = Random(seed)
    share = rng.random()
    return tuple(accepted for accepted in fleet.readings if rng.random() < share)


@examples()
@given(fleets(), SEEDS)
def test_the_commercial_axis_sums_to_installed_time_in_every_hour(fleet: Fleet, seed: int) -> None:
    ledger = settle(fleet, seed)
    installed: Counter[tuple[int, str]] = Counter()
    states: Counter[tuple[int, str, State]] = Counter()
    for row in ledger.hours:
        installed[row.hour_ms, row.pool] += row.account.installed_slice_ms
        for state, amount in row.account.state_slice_ms.items():
            states[row.hour_ms, row.pool, state] += amount
    low: Counter[tuple[int, str, State]] = Counter()
    high: Counter[tuple[int, str, State]] = Counter()
    for share in ledger.commerce:
        installed[share.hour_ms, share.pool] -= share.slice_ms
        for state in State:
            low[share.hour_ms, share.pool, state] += share.low_slice_ms.get(state, 0)
            high[share.hour_ms, share.pool, state] += share.high_slice_ms.get(state, 0)
    assert not any(installed.values())
    for key in {*states, *low, *high}:
        assert low[key] <= states[key] <= high[key]


@examples(0.3)
@given(fleets())
def test_without_a_lease_book_all_installed_time_is_undeclared(fleet: Fleet) -> None:
    ledger = build(fleet.readings, fleet.roster, fleet.start_ms, fleet.end_ms)
    assert {row.kind for row in ledger.commerce} <= {Commercial.UNDECLARED}
    installed = sum(row.account.installed_slice_ms for row in ledger.hours)
    assert sum(row.slice_ms for row in ledger.commerce) == installed


@examples()
@given(fleets(), SEEDS)
def test_the_bounds_of_each_share_enclose_its_time_and_those_of_several_states_are_closer(
    fleet: Fleet, seed: int
) -> None:
    for share in settle(fleet, seed).commerce:
        assert sum(share.low_slice_ms.values()) <= share.slice_ms <= sum(share.high_slice_ms.values())
        held, reserved = State.HELD, State.RESERVED
        apart = share.low_slice_ms.get(held, 0) + share.low_slice_ms.get(reserved, 0)
        together = share.low_of_slice_ms.get(Several.SOLD_IDLE, 0)
        most = share.high_of_slice_ms.get(Several.SOLD_IDLE, 0)
        assert apart <= together <= most
        assert most <= share.high_slice_ms.get(held, 0) + share.high_slice_ms.get(reserved, 0)


@examples()
@given(fleets(), SEEDS)
def test_leases_and_schedulers_move_free_time_to_reserved_and_nothing_else(fleet: Fleet, seed: int) -> None:
    plain = build(fleet.readings, fleet.roster, fleet.start_ms, fleet.end_ms)
    for before, after in zip(plain.hours, settle(fleet, seed).hours, strict=True):
        for state in set(State) - {State.FREE, State.RESERVED}:
            assert before.account.slice_ms(state) == after.account.slice_ms(state)
        assert after.account.slice_ms(State.FREE) <= before.account.slice_ms(State.FREE)
        pair = State.FREE, State.RESERVED
        assert before.account.slice_ms(*pair) == after.account.slice_ms(*pair)


@examples()
@given(fleets(), SEEDS)
def test_what_could_not_be_sold_is_part_of_free_time_and_counted_once(fleet: Fleet, seed: int) -> None:
    for row in settle(fleet, seed).hours:
        tags = row.tags
        assert min(tags.not_schedulable_slice_ms, tags.stranded_node_slice_ms, tags.stranded_mig_slice_ms) >= 0
        assert tags.sellable_of(row.account.slice_ms(State.FREE)) >= 0


def claimed(rows: tuple[CommerceRow, ...]) -> dict[tuple[int, str | None, str, Commercial, str | None], CommerceRow]:
    return {(row.hour_ms, row.site, row.pool, row.kind, row.lease): row for row in rows}


@examples()
@given(fleets(**NO_TROUBLE), SEEDS, SEEDS)
def test_a_missing_reading_never_raises_a_lower_bound_of_used_or_delivered(
    fleet: Fleet, seed: int, losses: int
) -> None:
    whole = claimed(settle(fleet, seed).commerce)
    less = claimed(settle(fleet, seed, lose_some(fleet, losses)).commerce)
    assert whole.keys() == less.keys()
    for key, row in whole.items():
        poorer = less[key]
        assert row.slice_ms == poorer.slice_ms
        assert poorer.low_slice_ms.get(State.BUSY, 0) <= row.low_slice_ms.get(State.BUSY, 0)
        for several in (Several.DELIVERED, Several.SOLD_IDLE):
            assert poorer.low_of_slice_ms.get(several, 0) <= row.low_of_slice_ms.get(several, 0)


@examples()
@given(fleets(has_windows=False, **NO_TROUBLE), SEEDS, SEEDS)
def test_outside_declared_windows_a_missing_reading_never_lowers_an_upper_bound_of_used_or_delivered(
    fleet: Fleet, seed: int, losses: int
) -> None:
    whole = claimed(settle(fleet, seed).commerce)
    less = claimed(settle(fleet, seed, lose_some(fleet, losses)).commerce)
    for key, row in whole.items():
        for several in (Several.USED_OR_UNKNOWN, Several.DELIVERED_OR_DARK):
            assert less[key].high_of_slice_ms.get(several, 0) >= row.high_of_slice_ms.get(several, 0)


@examples()
@given(fleets(), SEEDS, SEEDS)
def test_repeats_and_any_order_give_the_same_rows_beside_the_hours(fleet: Fleet, seed: int, shuffle: int) -> None:
    rng = Random(shuffle)
    arrived = [*fleet.readings, *(accepted for accepted in fleet.readings if rng.random() < 0.5)]
    rng.shuffle(arrived)
    assert repr(settle(fleet, seed, tuple(arrived))) == repr(settle(fleet, seed))


@examples()
@given(fleets(), SEEDS)
def test_ledgers_of_hours_put_together_are_the_ledger_beside_the_hours_too(fleet: Fleet, seed: int) -> None:
    whole = settle(fleet, seed)
    pieces = [
        settle(fleet, seed, start_ms=start_ms, end_ms=end_ms)
        for start_ms, end_ms in split_at(fleet.start_ms, fleet.end_ms, HOUR_MS)
    ]
    assert [row for piece in pieces for row in piece.hours] == list(whole.hours)
    assert [row for piece in pieces for row in piece.commerce] == list(whole.commerce)
    for name in ("allotments", "unschedulable", "queues", "clusters"):
        rows = [row for piece in pieces for row in getattr(piece.allotted, name)]
        assert rows == list(getattr(whole.allotted, name))


@examples()
@given(fleets(), SEEDS)
def test_owners_are_given_no_more_of_a_state_than_there_was(fleet: Fleet, seed: int) -> None:
    ledger = settle(fleet, seed)
    left: Counter[tuple[int, str, str]] = Counter()
    for row in ledger.hours:
        for state in (State.BUSY, State.HELD, State.RESERVED):
            left[row.hour_ms, row.node, state.value] += row.account.slice_ms(state)
    for one in ledger.allotted.allotments:
        left[one.hour_ms, one.node, "busy"] -= one.busy_slice_ms
        left[one.hour_ms, one.node, "held"] -= one.held_slice_ms
        left[one.hour_ms, one.node, "reserved"] -= one.reserved_slice_ms
        named = one.busy_slice_ms + one.held_slice_ms + one.reserved_slice_ms
        assert named + one.untold_slice_ms <= one.slice_ms
    assert min(left.values(), default=0) >= 0


@examples()
@given(fleets(), SEEDS)
def test_what_was_free_while_jobs_wanted_it_is_neither_more_than_was_free_nor_than_was_wanted(
    fleet: Fleet, seed: int
) -> None:
    for row in settle(fleet, seed).allotted.clusters:
        assert 0 <= row.idle_wanted_slice_ms <= min(row.free_slice_ms, row.wanted_slice_ms)
        assert 0 < row.known_ms <= HOUR_MS
        assert row.known_ms % CELL_MS == 0
