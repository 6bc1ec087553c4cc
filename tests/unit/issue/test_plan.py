# SPDX-License-Identifier: Apache-2.0
"""Which periods are due: each once, oldest first, in the site's time, however often and late anybody looks."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.errors import ConfigurationError
from gpuledger_collector.issue.plan import (
    Delivery,
    Issued,
    Plan,
    due_spans,
    next_due_ms,
    stuck,
    to_look_at_again,
    unsent,
)
from gpuledger_collector.report.periods import PeriodKind, Span, check_zone, span_after, week_at, week_named
from tests.fakes.issuing import OPS


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def record(number: int, span: Span, **more: object) -> Issued:
    return Issued(
        number=number,
        kind=span.kind,
        period=span.name,
        issued_ms=span.end_ms,
        digest="d",
        **more,  # type: ignore[arg-type]
    )


def names(plan: Plan, issued: list[Issued], extent: tuple[int, int] | None, now: str) -> list[str]:
    return [span.name for span in due_spans(plan, issued, extent, ms(now))]


YEAR = (ms("2025-12-01"), ms("2026-12-01"))


def test_the_first_run_issues_the_last_week_that_is_over_and_nothing_older() -> None:
    assert names(Plan(), [], YEAR, "2026-11-25T12:00") == ["2026-W47"]


def test_a_first_period_that_is_named_brings_all_since() -> None:
    assert names(Plan(first="2026-W44"), [], YEAR, "2026-11-25T12:00") == [f"2026-W{week}" for week in (44, 45, 46, 47)]


def test_missed_weeks_are_issued_oldest_first() -> None:
    issued = [record(1, week_named("2026-W44"))]
    assert names(Plan(), issued, YEAR, "2026-11-25T12:00") == ["2026-W45", "2026-W46", "2026-W47"]


def test_a_week_waits_for_its_grace_and_for_the_ledger() -> None:
    issued = [record(1, week_named("2026-W46"))]
    assert names(Plan(), issued, YEAR, "2026-11-23T05:59") == []
    assert names(Plan(), issued, YEAR, "2026-11-23T06:00") == ["2026-W47"]
    behind = (YEAR[0], ms("2026-11-22T23:55"))
    assert names(Plan(), issued, behind, "2026-11-24T00:00") == []
    assert next_due_ms(Plan(), issued, behind, ms("2026-11-24")) == ms("2026-11-23T06:00")


def test_the_first_week_may_be_a_part_of_one() -> None:
    extent = (ms("2026-11-18T10:00"), ms("2026-11-24"))
    assert names(Plan(), [], extent, "2026-11-24T00:00") == ["2026-W47"]
    assert names(Plan(), [], (ms("2026-11-23T10:00"), ms("2026-11-24")), "2026-11-24T00:00") == []


def test_an_empty_ledger_makes_nothing_due() -> None:
    assert names(Plan(), [], None, "2026-11-24T00:00") == []
    assert next_due_ms(Plan(), [], None, 0) is None


def test_months_come_after_the_weeks_that_end_before_them() -> None:
    plan = Plan(kinds=(PeriodKind.WEEK, PeriodKind.MONTH), first="2026-W40")
    found = names(plan, [], YEAR, "2026-11-10T00:00")
    assert found == [
        "2026-09", "2026-W40", "2026-W41", "2026-W42", "2026-W43", "2026-10", "2026-W44", "2026-W45"
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------- local time


@pytest.mark.parametrize(
    ("week", "zone", "hours"),
    [
        ("2026-W13", "Europe/Berlin", 167),
        ("2026-W43", "Europe/Berlin", 169),
        ("2026-W20", "Europe/Berlin", 168),
        ("2026-W10", "America/New_York", 167),
        ("2026-W44", "America/New_York", 169),
        ("2026-W13", "Asia/Shanghai", 168),
    ],
)
def test_a_week_has_the_hours_that_its_clocks_showed(week: str, zone: str, hours: int) -> None:
    span = week_named(week, zone)
    assert (span.end_ms - span.start_ms) // HOUR_MS == hours
    begins = datetime.fromtimestamp(span.start_ms / 1000, ZoneInfo(zone))
    assert (begins.isoweekday(), begins.hour, begins.minute) == (1, 0, 0)


@given(st.integers(ms("2010-01-01"), ms("2040-01-01")), st.sampled_from(["UTC", "Europe/Berlin", "Asia/Shanghai"]))
def test_weeks_join_without_a_gap_and_their_names_lead_back(time_ms: int, zone: str) -> None:
    span = week_at(time_ms, zone)
    assert span.start_ms <= time_ms < span.end_ms
    assert week_named(span.name, zone) == span
    following = span_after(span)
    assert following is not None
    assert following.start_ms == span.end_ms


def test_there_is_a_week_53() -> None:
    assert week_at(ms("2027-01-01")).name == "2026-W53"
    following = span_after(week_named("2026-W53"))
    assert following is not None
    assert following.name == "2027-W01"


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Australia/Lord_Howe", "Mars/Olympus", "../etc/passwd", ""])
def test_a_zone_that_cannot_be_reported_in_is_refused_in_a_sentence(zone: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^zone '.*' is not a "):
        check_zone(zone)


def test_a_year_of_runs_with_outages_and_clock_changes_issues_each_week_once() -> None:
    """Runs come at odd times, some not for weeks; the ledger lags; the machine is off for a month."""
    rng = Random(3)
    plan = Plan(zone="Europe/Berlin", first="2025-W50")
    issued: list[Issued] = []
    now_ms = ms("2025-12-10T00:00")
    while now_ms < ms("2026-12-31T00:00"):
        extent = YEAR[0], now_ms - rng.choice((0, HOUR_MS, 3 * DAY_MS))
        for span in due_spans(plan, issued, extent, now_ms):
            issued.append(record(len(issued) + 1, span))
        now_ms += rng.choice((60_000, 5 * HOUR_MS, DAY_MS, 9 * DAY_MS, 31 * DAY_MS if rng.random() < 0.1 else DAY_MS))
    found = [one.period for one in issued]
    week: Span | None = week_named("2025-W50", "Europe/Berlin")
    expected = []
    while week is not None and week.name != found[-1]:
        expected.append(week.name)
        week = span_after(week)
    assert found == [*expected, found[-1]]
    assert len(found) > 50


# ------------------------------------------------------------------------------------------------- what was issued


def test_the_newest_word_on_the_last_periods_is_looked_at_again() -> None:
    weeks = [week_named(f"2026-W{number}") for number in range(30, 45)]
    issued = [record(number, span) for number, span in enumerate(weeks, start=1)]
    issued.append(record(16, weeks[-1], restates=15))
    found = to_look_at_again(Plan(), issued)
    assert [one.number for one in found] == [8, 9, 10, 11, 12, 13, 14, 16]
    assert to_look_at_again(Plan(is_restated=False), issued) == []


def test_a_channel_that_is_new_gets_the_newest_report_and_not_the_past() -> None:
    issued = [record(number, week_named(f"2026-W0{number}")) for number in (1, 2, 3)]
    assert [one.number for one, _ in unsent(Plan(channels=(OPS,)), issued)] == [3]


def test_what_failed_is_sent_again_and_what_may_have_arrived_is_not() -> None:
    states = (Delivery.SENT, Delivery.FAILED, Delivery.SENDING)
    issued = [
        record(number, week_named(f"2026-W0{number}"), delivered={"ops": state})
        for number, state in enumerate(states, start=1)
    ]
    plan = Plan(channels=(OPS,))
    assert [one.number for one, _ in unsent(plan, issued)] == [2]
    assert [one.number for one, _ in stuck(plan, issued)] == [3]
