# SPDX-License-Identifier: Apache-2.0
"""Kinds sum exactly to what they divide; weeks, whole nodes and hours of the week."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import HOUR_MS
from gpuledger_collector.classify.demand import WEEK_MS, KindHour, complete, summarise, week_start
from gpuledger_collector.classify.kinds import Kind
from tests.fakes.readings import MONDAY_MS

AMOUNTS = st.integers(0, 10**9)


def hour(index: int, kind: Kind, busy: int, held: int = 0, whole: int = 0, site: str = "east") -> KindHour:
    return KindHour(
        hour_ms=MONDAY_MS + index * HOUR_MS,
        site=site,
        kind=kind,
        busy_slice_ms=busy,
        held_slice_ms=held,
        whole_slice_ms=whole,
    )


@given(
    known=st.dictionaries(
        st.tuples(st.integers(0, 400), st.sampled_from(Kind), st.sampled_from(["east", "west"])),
        st.tuples(AMOUNTS, AMOUNTS),
        max_size=40,
    ),
    rest=st.dictionaries(
        st.tuples(st.integers(0, 400), st.sampled_from(["east", "west"])), st.tuples(AMOUNTS, AMOUNTS), max_size=20
    ),
)
def test_kinds_sum_exactly_to_the_busy_and_held_time_they_divide(
    known: dict[tuple[int, Kind, str], tuple[int, int]], rest: dict[tuple[int, str], tuple[int, int]]
) -> None:
    hours = [hour(index, kind, *amounts, site=site) for (index, kind, site), amounts in known.items()]
    totals: dict[tuple[int, str], tuple[int, int]] = {}
    for (index, site), (busy, held) in [*rest.items(), *(((i, s), a) for (i, _, s), a in known.items())]:
        key = MONDAY_MS + index * HOUR_MS, site
        before = totals.get(key, (0, 0))
        totals[key] = before[0] + busy, before[1] + held
    found = complete(hours, totals)
    for key, (busy, held) in totals.items():
        mine = [one for one in found if (one.hour_ms, one.site) == key]
        assert (sum(one.busy_slice_ms for one in mine), sum(one.held_slice_ms for one in mine)) == (busy, held)
    demand = summarise(found, MONDAY_MS, MONDAY_MS + 3 * WEEK_MS, (MONDAY_MS, MONDAY_MS + 3 * WEEK_MS))
    everything = sum(map(sum, totals.values()))
    assert sum(one.slice_ms for one in demand.kinds) == everything
    assert sum(sum(week.slice_ms.values()) for week in demand.weeks) == everything


def test_more_of_a_kind_than_there_is_time_is_two_states_of_a_ledger() -> None:
    with pytest.raises(ValueError, match="more training time is known"):
        complete([hour(0, Kind.TRAINING, 10)], {(MONDAY_MS, "east"): (9, 0)})


def test_demand_that_never_changes_has_no_bursts_and_a_single_hour_has_many() -> None:
    even = [hour(index, Kind.TRAINING, 100) for index in range(10)]
    extent = (MONDAY_MS, MONDAY_MS + 10 * HOUR_MS)
    kinds = {one.kind: one for one in summarise(even, *extent, extent).kinds}
    assert kinds[Kind.TRAINING].burstiness == 0
    assert kinds[Kind.INFERENCE].burstiness is None
    kinds = {one.kind: one for one in summarise(even[:1], *extent, extent).kinds}
    assert kinds[Kind.TRAINING].burstiness == pytest.approx(3)


def test_hours_of_the_week_are_means_of_the_hours_that_the_ledger_has() -> None:
    hours = [hour(2, Kind.INFERENCE, 100), hour(2 + 168, Kind.INFERENCE, 300)]
    extent = (MONDAY_MS, MONDAY_MS + WEEK_MS + 10 * HOUR_MS)
    demand = summarise(hours, *extent, extent)
    assert demand.hours_of_week[2] is not None
    assert demand.hours_of_week[2][Kind.INFERENCE] == 200
    assert demand.hours_of_week[100] == dict.fromkeys(Kind, 0)
    short = summarise(hours[:1], MONDAY_MS, MONDAY_MS + WEEK_MS, (MONDAY_MS, MONDAY_MS + 5 * HOUR_MS))
    assert short.hours_of_week[100] is None
    assert [week.is_whole for week in demand.weeks] == [True, False]


def test_weeks_begin_on_mondays() -> None:
    assert week_start(MONDAY_MS) == MONDAY_MS
    assert week_start(MONDAY_MS - 1) == MONDAY_MS - WEEK_MS
