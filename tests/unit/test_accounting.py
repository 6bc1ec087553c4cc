# SPDX-License-Identifier: Apache-2.0
"""Figures against tables computed by hand, and the arithmetic of sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.accounting import Account, add
from gpuledger.states import ACTIVITY_EDGES_PPM, IDLE, OUT, THETAS_PPM, UNKNOWN, State, activity_bin
from tests.profiles import examples

Row = tuple[str, tuple[int, ...], int, tuple[int, int], tuple[int, int], int, float | None, int]
HUNDREDTHS: tuple[Row, ...] = (
    # busy held reserved free standby operator maintenance down unmeasured dark, D' of them: figures in percent
    ("all states", (30, 10, 5, 20, 5, 2, 3, 5, 8, 12), 6, (40, 60), (30, 50), 10, 12 / 94, 20),
    ("all busy", (100, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, (0, 0), (100, 100), 0, 0, 0),
    ("all held", (0, 100, 0, 0, 0, 0, 0, 0, 0, 0), 0, (100, 100), (0, 0), 0, 0, 0),
    ("all dark", (0, 0, 0, 0, 0, 0, 0, 0, 0, 100), 0, (0, 100), (0, 100), 0, 1, 100),
    ("all unmeasured", (0, 0, 0, 0, 0, 0, 0, 0, 100, 0), 0, (0, 100), (0, 100), 0, 0, 100),
    ("all down", (0, 0, 0, 0, 0, 0, 0, 100, 0, 0), 0, (0, 0), (0, 0), 100, 0, 0),
    ("all standby, none seen", (0, 0, 0, 0, 100, 0, 0, 0, 0, 0), 100, (100, 100), (0, 0), 0, None, 0),
    ("standby seen half the time", (0, 0, 0, 50, 50, 0, 0, 0, 0, 0), 50, (100, 100), (0, 0), 0, 0, 0),
    ("maintenance, half of it seen", (0, 0, 0, 0, 0, 0, 80, 0, 0, 20), 40, (0, 20), (0, 20), 80, 20 / 60, 20),
)
ORDER = (
    State.BUSY,
    State.HELD,
    State.RESERVED,
    State.FREE,
    State.STANDBY,
    State.OPERATOR,
    State.MAINTENANCE,
    State.DOWN,
    State.UNMEASURED,
    State.DARK,
)


@pytest.mark.parametrize("row", HUNDREDTHS, ids=[row[0] for row in HUNDREDTHS])
def test_figures_are_those_of_the_table(row: Row) -> None:
    _, amounts, declared, idle, busy, out, dark_share, unknown = row
    unit = 21_000
    account = Account(
        state_slice_ms={state: amount * unit for state, amount in zip(ORDER, amounts, strict=True) if amount > 0},
        declared_uncovered_slice_ms=declared * unit,
    )
    assert account.installed_slice_ms == 100 * unit
    assert account.idle is not None
    assert account.busy is not None
    assert (account.idle.low_slice_ms, account.idle.high_slice_ms) == (idle[0] * unit, idle[1] * unit)
    assert (account.busy.low_slice_ms, account.busy.high_slice_ms) == (busy[0] * unit, busy[1] * unit)
    assert (account.idle.low, account.idle.high) == pytest.approx((idle[0] / 100, idle[1] / 100))
    assert (account.busy.low, account.busy.high) == pytest.approx((busy[0] / 100, busy[1] / 100))
    assert account.out_ratio == pytest.approx(out / 100)
    assert account.declared_ratio == pytest.approx(declared / 100)
    assert account.measured == pytest.approx(1 - unknown / 100)
    assert account.coverage == (None if dark_share is None else pytest.approx(1 - dark_share))


def test_every_state_is_in_one_of_the_four_groups_of_the_figures() -> None:
    groups = [{State.BUSY}, IDLE, UNKNOWN, OUT]
    for state in State:
        assert sum(state in group for group in groups) == 1
    assert set(ORDER) == set(State)
    assert {State.FREE, State.RESERVED, State.HELD, State.STANDBY} == IDLE
    assert {State.DARK, State.UNMEASURED} == UNKNOWN
    assert {State.DOWN, State.MAINTENANCE, State.OPERATOR} == OUT


def test_percentages_are_quotients_of_sums_never_averages() -> None:
    # One GPU busy for 1 of 1 unit, another for 0 of 9: 10 %, not 50 %.
    both = add([Account(state_slice_ms={State.BUSY: 1}), Account(state_slice_ms={State.FREE: 9})])
    assert both.busy is not None
    assert both.busy.low == 0.1


def test_engine_active_is_a_share_of_installed_time_in_gpu_seconds() -> None:
    # One GPU, 1000 ms installed, half active for 400 ms: 0.2 GPU-seconds of 1.
    account = Account(state_slice_ms={State.BUSY: 2800, State.DARK: 4200}, active_ns=200_000_000)
    assert account.engine_active_ratio == pytest.approx(0.2)
    assert Account(state_slice_ms={State.FREE: 7}, active_ns=0).engine_active_ratio == 0.0
    assert Account(state_slice_ms={State.DARK: 7}).engine_active_ratio is None
    assert Account(state_slice_ms={}, active_ns=None).engine_active_ratio is None


def test_activity_that_was_never_known_does_not_become_zero_in_a_sum() -> None:
    unknown, known = Account(state_slice_ms={State.DARK: 7}), Account(state_slice_ms={State.FREE: 7}, active_ns=0)
    assert add([unknown, unknown]).active_ns is None
    assert add([unknown, known]).active_ns == add([known, unknown]).active_ns == 0


@pytest.mark.parametrize(
    ("activity_ppm", "expected"),
    [
        (0, 0),
        (1, 1),
        (10_000, 1),
        (10_001, 2),
        (50_000, 2),
        (50_001, 3),
        (100_000, 3),
        (100_001, 4),
        (250_000, 4),
        (500_000, 5),
        (500_001, 6),
        (750_000, 6),
        (750_001, 7),
        (1_000_000, 7),
    ],
)
def test_bins_are_closed_above_and_the_first_holds_zero_alone(activity_ppm: int, expected: int) -> None:
    assert activity_bin(activity_ppm) == expected


@pytest.mark.parametrize("activity_ppm", [-1, 1_000_001])
def test_activity_outside_the_physical_range_has_no_bin(activity_ppm: int) -> None:
    with pytest.raises(ValueError, match=str(activity_ppm)):
        activity_bin(activity_ppm)


def test_busy_time_at_each_threshold_is_what_lies_above_it() -> None:
    account = Account(state_slice_ms={State.HELD: 7, State.BUSY: 248}, bin_slice_ms=(1, 2, 4, 8, 16, 32, 64, 128))
    assert [account.busy_slice_ms_above(theta) for theta in THETAS_PPM] == [254, 252, 248, 240]
    with pytest.raises(ValueError, match="not in tuple"):
        account.busy_slice_ms_above(20_000)


ACCOUNTS = st.builds(
    Account,
    state_slice_ms=st.dictionaries(st.sampled_from(State), st.integers(0, 10**15)),
    bin_slice_ms=st.tuples(*[st.integers(0, 10**15)] * len(ACTIVITY_EDGES_PPM)),
    active_ns=st.none() | st.integers(0, 10**20),
    energy_mj=st.dictionaries(st.sampled_from(["busy", "held", "uncovered"]), st.integers(0, 10**15)),
    declared_uncovered_slice_ms=st.integers(0, 10**15),
)


@examples(3)
@given(st.lists(ACCOUNTS, max_size=5), st.integers(0, 5))
def test_sums_do_not_depend_on_how_they_are_grouped(accounts: list[Account], cut: int) -> None:
    whole = add(accounts)
    assert add([add(accounts[:cut]), add(accounts[cut:])]) == whole
    assert add(list(reversed(accounts))) == whole
    for state in State:
        assert whole.slice_ms(state) == sum(account.slice_ms(state) for account in accounts)
    assert whole.installed_slice_ms == sum(account.installed_slice_ms for account in accounts)
    assert whole.declared_uncovered_slice_ms == sum(account.declared_uncovered_slice_ms for account in accounts)
    assert sum(whole.bin_slice_ms) == sum(sum(account.bin_slice_ms) for account in accounts)
    assert sum(whole.energy_mj.values()) == sum(sum(account.energy_mj.values()) for account in accounts)


@examples(3)
@given(ACCOUNTS)
def test_the_identity_of_busy_idle_and_out_holds_for_any_account(account: Account) -> None:
    if account.installed_slice_ms == 0:
        assert account.idle is None
        return
    assert account.idle is not None
    assert account.busy is not None
    out = account.slice_ms(*OUT)
    assert account.busy.low_slice_ms + account.idle.high_slice_ms + out == account.installed_slice_ms
    assert account.idle.low_slice_ms <= account.idle.high_slice_ms <= account.installed_slice_ms
    assert 0.0 <= account.busy.low <= account.busy.high <= 1.0
