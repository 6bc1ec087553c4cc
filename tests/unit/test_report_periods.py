# SPDX-License-Identifier: Apache-2.0
"""ISO weeks: names, edges and the week a report is about by default."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.errors import ConfigurationError
from gpuledger_collector.report.languages import ENGLISH
from gpuledger_collector.report.periods import (
    PeriodKind,
    default_span,
    default_week,
    iso,
    month_named,
    span_before,
    span_named,
    week_at,
    week_before,
    week_named,
)
from tests.fakes.ledger_rows import MONDAY_MS


def test_a_week_runs_from_monday_to_monday_utc() -> None:
    week = week_named("2026-W47")
    assert (week.start_ms, week.end_ms) == (MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    assert ENGLISH.minute(week.start_ms) == "Mon 16 Nov 2026 00:00"


@pytest.mark.parametrize(
    ("day", "name"),
    [("2026-12-31", "2026-W53"), ("2027-01-03", "2026-W53"), ("2024-12-30", "2025-W01"), ("2026-11-16", "2026-W47")],
)
def test_the_turn_of_the_year_belongs_to_the_iso_year(day: str, name: str) -> None:
    noon_ms = int(datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp() * 1000)
    assert week_at(noon_ms).name == name


@pytest.mark.parametrize(
    "name", ["", "2026", "2026-47", "2026W47", "W47", "2026-w47", "26-W47", "2026-W4", "２０２６-W47"]
)
def test_what_is_not_a_week_is_refused_with_its_value_and_the_legal_form(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        week_named(name)
    assert repr(name) in str(caught.value)
    assert "2026-W47" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "last"), [("2025-W53", "2025-W52"), ("2026-W54", "2026-W53"), ("2026-W00", "2026-W53")]
)
def test_a_week_that_the_year_does_not_have_is_refused_with_those_it_has(name: str, last: str) -> None:
    with pytest.raises(ConfigurationError, match=last):
        week_named(name)


@given(st.integers(min_value=40_000_000_000, max_value=250_000_000_000_000))
def test_every_time_is_in_the_week_that_python_says(time_ms: int) -> None:
    week = week_at(time_ms)
    assert week.start_ms <= time_ms < week.end_ms
    assert week.name == datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%G-W%V")
    assert week_named(week.name) == week
    assert week_before(week).end_ms == week.start_ms


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "name"),
    [
        (MONDAY_MS - 30 * DAY_MS, MONDAY_MS, "2026-W46"),
        (MONDAY_MS - 30 * DAY_MS, MONDAY_MS + 3 * DAY_MS, "2026-W46"),
        (MONDAY_MS - HOUR_MS, MONDAY_MS + HOUR_MS, "2026-W46"),
        (MONDAY_MS, MONDAY_MS + HOUR_MS, "2026-W47"),
        (MONDAY_MS + DAY_MS, MONDAY_MS + 7 * DAY_MS, "2026-W47"),
    ],
)
def test_the_default_is_the_last_week_that_the_ledger_ends_else_the_one_it_is_in(
    start_ms: int, end_ms: int, name: str
) -> None:
    assert default_week((start_ms, end_ms)).name == name


def test_times_are_written_alike_everywhere() -> None:
    assert iso(MONDAY_MS) == "2026-11-16T00:00:00Z"
    assert iso(MONDAY_MS + 1) == "2026-11-16T00:00:00.001Z"


def test_a_month_runs_to_the_first_of_the_next() -> None:
    month = month_named("2026-02")
    assert (iso(month.start_ms), iso(month.end_ms)) == ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")
    before = span_before(month_named("2027-01"))
    assert before is not None
    assert (before.name, before.kind) == ("2026-12", PeriodKind.MONTH)


@pytest.mark.parametrize("name", ["2026-00", "2026-13", "2026-1", "26-11", "2026-11-01"])
def test_what_is_not_a_month_is_refused_with_its_value(name: str) -> None:
    with pytest.raises(ConfigurationError, match=repr(name)):
        month_named(name)


@pytest.mark.parametrize("name", ["2026-W47", "2026-11", "2026-11-16--2026-11-18", "2026-11-16--2026-11-18T08"])
def test_a_period_is_found_by_the_name_it_has(name: str) -> None:
    assert span_named(name).name == name


def test_the_default_month_is_the_last_that_the_ledger_ends() -> None:
    extent = (MONDAY_MS - 60 * DAY_MS, MONDAY_MS)
    assert default_span(extent, PeriodKind.MONTH).name == "2026-10"
