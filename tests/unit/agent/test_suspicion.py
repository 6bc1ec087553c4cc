# SPDX-License-Identifier: Apache-2.0
"""When a hang or a fault is suspected of a GPU that nobody is seen to work on, and what becomes of its state."""

from __future__ import annotations

from itertools import product

import pytest

from gpuledger.states import State
from gpuledger_agent.decision import Decision, decide
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder

SOMEBODY = (Holder(workload="w", user=None, memory_bytes=None),)
OPERATOR = (Holder(workload="burn", user=None, memory_bytes=None, is_operator=True),)
LIMIT_MW = 700_000


def decided(
    *,
    activity_ppm: int | None = 0,
    high_ms: int | None = 60_000,
    power_mw: float | None = 145_000,
    floor_mw: float | None = None,
    holders: tuple[Holder, ...] | None = SOMEBODY,
    sm_ppm: int | None = None,
    limit_mw: int | None = LIMIT_MW,
    health: Health = Health.CLEAN,
) -> Decision:
    seen = GpuSnapshot(
        activity_ppm=activity_ppm,
        sm_active_ppm=sm_ppm,
        high_activity_ms=high_ms,
        holders=holders,
        health=health,
        power_limit_mw=limit_mw,
    )
    return decide(seen, power_mw, floor_mw)


@pytest.mark.parametrize(
    ("holders", "activity_ppm", "state"),
    [
        (SOMEBODY, 0, State.HELD),
        (SOMEBODY, 50_000, State.HELD),
        (SOMEBODY, None, State.UNMEASURED),
        ((), 0, State.FREE),
        ((), None, State.FREE),
        ((), 1_000_000, State.UNMEASURED),
    ],
)
def test_at_idle_power_the_state_stays_what_the_best_source_says_and_the_suspicion_is_noted(
    holders: tuple[Holder, ...], activity_ppm: int | None, state: State
) -> None:
    decision = decided(holders=holders, activity_ppm=activity_ppm)
    assert (decision.state, decision.is_hang_suspected) == (state, True)
    # Activity of a state that is not known is not to be counted either.
    assert decision.is_activity_believed is (state is not State.UNMEASURED)


def test_gpm_is_not_believed_where_engines_draw_their_power() -> None:
    decision = decided(power_mw=175_000)
    assert decision == Decision(State.UNMEASURED, is_hang_suspected=False, is_activity_believed=False)
    assert decided(power_mw=174_999) == Decision(State.HELD, is_hang_suspected=True)
    assert decided(power_mw=175_000, holders=()).state is State.UNMEASURED


def test_what_says_itself_that_it_works_without_a_process_keeps_its_activity_at_working_power() -> None:
    assert decided(activity_ppm=1_000_000, holders=(), power_mw=400_000) == Decision(State.UNMEASURED)


@pytest.mark.parametrize(("holders", "high_ms"), [(SOMEBODY, 9_999), ((), 59_999), (SOMEBODY, None), ((), None)])
def test_it_takes_ten_seconds_with_a_process_and_a_minute_without(
    holders: tuple[Holder, ...], high_ms: int | None
) -> None:
    decision = decided(holders=holders, high_ms=high_ms)
    assert not decision.is_hang_suspected
    assert decision.is_activity_believed
    assert high_ms is None or decided(holders=holders, high_ms=high_ms + 1).is_hang_suspected


def test_sms_that_are_active_are_no_hang() -> None:
    assert not decided(sm_ppm=10_000).is_hang_suspected
    assert decided(sm_ppm=9_999).is_hang_suspected
    # Nor are they any reason to disbelieve GPM.
    assert decided(sm_ppm=10_000, power_mw=500_000) == Decision(State.HELD)


def test_without_power_or_a_measure_of_it_nothing_is_suspected() -> None:
    assert decided(power_mw=None) == Decision(State.HELD)
    assert decided(limit_mw=None) == Decision(State.HELD)
    assert decided(limit_mw=None, power_mw=600_000) == Decision(State.HELD)


@pytest.mark.parametrize(("power_mw", "is_suspected"), [(105_000.0, True), (105_001.0, False)])
def test_power_at_the_learnt_floor_is_idle_power_whatever_the_limit(power_mw: float, is_suspected: bool) -> None:
    assert decided(limit_mw=None, floor_mw=100_000, power_mw=power_mw).is_hang_suspected is is_suspected
    low = decided(limit_mw=300_000, floor_mw=100_000, power_mw=power_mw)
    assert (low.is_hang_suspected, low.is_activity_believed) == (is_suspected, is_suspected)


def test_busy_down_operator_and_unknown_holders_are_never_suspected_for_what_utilisation_insists_on() -> None:
    assert decided(activity_ppm=800_000) == Decision(State.BUSY)
    assert decided(health=Health.LOST) == Decision(State.DOWN)
    assert decided(holders=OPERATOR) == Decision(State.OPERATOR)
    assert decided(holders=None) == Decision(State.UNMEASURED)


def test_no_suspicion_ever_makes_anything_busy_or_idle_that_was_not() -> None:
    powers = (None, 0.0, 100_000.0, 174_999.0, 175_000.0, 700_000.0)
    for activity, high_ms, power_mw, holders in product(
        (None, 0, 50_000, 50_001, 1_000_000), (None, 0, 10_000, 60_000), powers, (None, (), SOMEBODY, OPERATOR)
    ):
        plain = decided(activity_ppm=activity, high_ms=None, power_mw=power_mw, holders=holders)
        found = decided(activity_ppm=activity, high_ms=high_ms, power_mw=power_mw, holders=holders)
        assert found.state in (plain.state, State.UNMEASURED)
        assert (found.state is State.BUSY) == (plain.state is State.BUSY)
