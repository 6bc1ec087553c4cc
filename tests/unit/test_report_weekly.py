# SPDX-License-Identifier: Apache-2.0
"""The weekly report as data: figures worked out by hand, bounds, lists, partial and empty weeks."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuledger.accounting import add
from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.states import IDLE, State
from gpuledger_collector.figures import Group, Key
from gpuledger_collector.ledger import HourRow
from gpuledger_collector.report import words
from gpuledger_collector.report.idle_model import FreeKind
from gpuledger_collector.report.languages import ENGLISH
from gpuledger_collector.report.model import NoComparison, Weekly, Withheld
from gpuledger_collector.report.periods import week_named
from gpuledger_collector.report.shares import share_down, share_up
from gpuledger_collector.report.to_csv import idle_list_to_csv, states_to_csv
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.to_markdown import weekly_to_markdown
from gpuledger_collector.report.weekly import LedgerMovedError, build_weekly
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import ALICE, MINUTE_SLICE_MS, MONDAY_MS, OPENINGS, hour_row, two_weeks

W47 = week_named("2026-W47")
HOUR_SLICE_MS = 60 * MINUTE_SLICE_MS


@cache
def fleet_report() -> Weekly:
    hours, holders, findings = two_weeks()
    return build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), W47)


def one_week(minutes: Mapping[State, int], **more: int) -> Weekly:
    rows = [hour_row(MONDAY_MS + h * HOUR_MS, "n1", "GPU-1", minutes, **more) for h in range(168)]  # type: ignore[arg-type]
    return build_weekly(FakeLedger(rows), W47)


# 40 GPUs x 168 h = 6720 GPU-hours. Busy: train 8 x 168 x 0.9 = 1209.6, serve 8 x 168 x 0.5 = 672: 1881.6.
# Held: train 134.4, held-1 1344: 1478.4. Dark: south 8 x 60 h = 480. Down: one GPU, Wed 00:00 to Fri 12:00 = 60.
# Free: serve 672, free-1 1344, south 8 x 108 - 60 = 804: 2820. Sum: 6720.
EXPECTED_HOURS = {State.BUSY: 1881.6, State.HELD: 1478.4, State.FREE: 2820, State.DOWN: 60, State.DARK: 480}


def test_the_states_of_a_fleet_worked_out_by_hand() -> None:
    totals = fleet_report().headline
    assert totals is not None
    assert totals.gpus == 40
    assert totals.installed_slice_ms == 6720 * HOUR_SLICE_MS
    found = {time.state: time.slice_ms / HOUR_SLICE_MS for time in totals.states}
    assert found == {state: EXPECTED_HOURS.get(state, 0) for state in State}


def test_the_headline_of_a_fleet_worked_out_by_hand() -> None:
    totals = fleet_report().headline
    assert totals is not None
    # Idle: 4298.4 / 6720 = 63.964..., with 480 dark 4778.4 / 6720 = 71.107...: outward to 63.9 and 71.2.
    assert (totals.idle.low.tenths, totals.idle.high.tenths) == (639, 712)
    assert totals.coverage is not None
    assert totals.coverage.tenths == 928  # 6240 / 6720 = 92.857
    assert totals.out is not None
    assert totals.out.tenths == 9  # 60 / 6720 = 0.892
    assert totals.declared_uncovered is not None
    assert totals.declared_uncovered.tenths == 0
    assert totals.engine_active is not None
    assert totals.engine_active.tenths == 168  # 1881.6 x 60 % / 6720


def test_the_idle_list_of_a_fleet_worked_out_by_hand() -> None:
    idle = fleet_report().idle_list
    assert [(row.node, row.kind, row.free_slice_ms // HOUR_SLICE_MS) for row in idle.free] == [
        ("free-1", FreeKind.ALL_WEEK, 1344),
        ("south-1", FreeKind.PARTLY, 804),
        ("serve-1", FreeKind.PARTLY, 672),
    ]
    assert [(row.node, row.user_name, row.held_slice_ms) for row in idle.held] == [
        ("held-1", None, 1344 * HOUR_SLICE_MS),
        ("train-1", "alice", 8 * 168 * 6 * MINUTE_SLICE_MS),
    ]
    assert idle.held_without_holder_slice_ms == 0
    (dark,) = idle.dark
    friday_noon_ms = MONDAY_MS + 4 * DAY_MS + 12 * HOUR_MS
    assert (dark.node, dark.dark_slice_ms) == ("south-1", 480 * HOUR_SLICE_MS)
    assert (dark.first_dark_hour_ms, dark.dark_since_ms) == (friday_noon_ms, friday_noon_ms)
    assert dark.last_seen_hour_ms == friday_noon_ms - HOUR_MS
    assert [(row.gpu, row.down_slice_ms) for row in idle.down] == [("GPU-south-1-3", 60 * HOUR_SLICE_MS)]


def test_the_change_is_the_difference_of_printed_figures() -> None:
    changes = {change.figure: change for change in fleet_report().comparison.changes}
    # The week before: idle 4838.4 / 6720 = 72.0 % on both bounds, nothing dark.
    assert changes["idle_low"].difference_tenths == 639 - 720
    assert changes["idle_high"].difference_tenths == 712 - 720
    assert changes["coverage"].difference_tenths == 928 - 1000
    assert changes["busy_low"].difference_tenths is None  # withheld this week


def test_thresholds_move_time_between_held_and_busy_only() -> None:
    report = one_week({State.BUSY: 30, State.HELD: 12, State.FREE: 18})
    rows = {row.theta_ppm: row for row in report.sensitivity}
    # Busy is at 60 % and held at up to 1 %: over 0 all of it works, over 1 % and more only the busy time does.
    assert [row.is_in_force for row in report.sensitivity] == [False, False, True, False]
    busy_over_0, busy_over_5 = rows[0].busy, rows[50_000].busy
    assert busy_over_0 is not None
    assert busy_over_5 is not None
    assert (busy_over_0.low.tenths, rows[0].idle.low.tenths) == (700, 300)
    assert (busy_over_5.low.tenths, rows[50_000].idle.low.tenths) == (500, 500)


def test_findings_about_one_subject_are_one_row() -> None:
    (group,) = fleet_report().findings
    assert (group.kind, group.count) == ("foreign_claim", 3)
    assert group.last_ms - group.first_ms == 2 * HOUR_MS


@pytest.mark.parametrize(
    ("dark", "unmeasured", "withheld"),
    [
        (3, 0, ()),  # exactly 95 % is enough
        (4, 0, (Withheld.OCCUPANCY, Withheld.USED, Withheld.BUSY)),
        (0, 3, ()),
        (0, 4, (Withheld.USED, Withheld.BUSY)),
        (2, 2, (Withheld.USED, Withheld.BUSY)),
    ],
)
def test_words_are_withheld_under_95_percent(dark: int, unmeasured: int, withheld: tuple[Withheld, ...]) -> None:
    rest = 60 - dark - unmeasured
    report = one_week({State.BUSY: rest, State.DARK: dark, State.UNMEASURED: unmeasured})
    assert report.withheld == withheld
    assert report.headline is not None
    assert (report.headline.busy is None) == (Withheld.BUSY in withheld)


def test_a_fleet_on_standby_has_no_coverage_and_is_wholly_idle() -> None:
    report = one_week({State.STANDBY: 60}, declared_minutes=60)
    assert report.headline is not None
    assert report.headline.coverage is None
    assert report.headline.engine_active is None
    assert report.headline.idle.low.tenths == 1000
    assert Withheld.OCCUPANCY in report.withheld


def test_a_node_that_was_dark_for_a_while_was_free_whenever_observed() -> None:
    rows = [hour_row(MONDAY_MS + h * HOUR_MS, "n1", "GPU-1", {State.FREE: 59, State.DARK: 1}) for h in range(168)]
    report = build_weekly(FakeLedger(rows), W47)
    assert [row.kind for row in report.idle_list.free] == [FreeKind.WHEN_OBSERVED]
    assert words.free_nodes(report, ENGLISH) == "No whole node was free all week, and 1 more whenever observed."


def test_a_node_installed_in_midweek_was_not_free_all_week() -> None:
    rows = [hour_row(MONDAY_MS + h * HOUR_MS, "old", "GPU-1", {State.FREE: 60}) for h in range(168)]
    rows += [hour_row(MONDAY_MS + h * HOUR_MS, "new", "GPU-2", {State.FREE: 60}) for h in range(100, 168)]
    report = build_weekly(FakeLedger(rows), W47)
    assert {row.node: row.kind for row in report.idle_list.free} == {
        "old": FreeKind.ALL_WEEK,
        "new": FreeKind.WHEN_OBSERVED,
    }


def test_a_node_seen_in_its_last_hour_is_not_dark_now() -> None:
    dark = {State.DARK: 60}
    rows = [hour_row(MONDAY_MS + h * HOUR_MS, "n1", "GPU-1", dark if h == 3 else {State.FREE: 60}) for h in range(168)]
    (row,) = build_weekly(FakeLedger(rows), W47).idle_list.dark
    assert (row.first_dark_hour_ms, row.dark_since_ms) == (MONDAY_MS + 3 * HOUR_MS, None)
    assert row.last_seen_hour_ms == MONDAY_MS + 167 * HOUR_MS


def test_held_time_without_a_holder_is_a_row_of_its_own() -> None:
    hours, holders, _ = two_weeks()
    report = build_weekly(FakeLedger(hours, [row for row in holders if row.user == ALICE]), W47)
    assert report.idle_list.held_without_holder_slice_ms == 1344 * HOUR_SLICE_MS


def test_an_empty_ledger_gives_a_sentence_and_no_figures() -> None:
    report = build_weekly(FakeLedger([]), W47)
    assert report.headline is None
    assert words.headline(report) == "Week 2026-W47: no figures, because the ledger is empty."
    for text in (weekly_to_markdown(report), weekly_to_html(report)):
        assert "the ledger is empty" in text
        assert "0.0" not in text
    assert states_to_csv(report).count("\r\n") == 1
    assert idle_list_to_csv(report).count("\r\n") == 1


def test_a_week_outside_the_ledger_names_what_the_ledger_holds() -> None:
    hours, holders, _ = two_weeks()
    report = build_weekly(FakeLedger(hours, holders), week_named("2026-W30"))
    assert report.headline is None
    assert "Mon 9 Nov 2026 00:00 UTC to Mon 23 Nov 2026 00:00 UTC" in words.headline(report)


def test_a_week_that_is_not_over_is_marked_and_not_compared() -> None:
    hours, holders, _ = two_weeks()
    to_ms = MONDAY_MS + 2 * DAY_MS + 10 * HOUR_MS + 300_000
    cut = [row for row in hours if row.hour_ms < to_ms - 300_000]
    ledger = FakeLedger(cut, [row for row in holders if row.hour_ms < to_ms - 300_000], extent=(MONDAY_MS, to_ms))
    report = build_weekly(ledger, W47)
    assert not report.period.is_complete
    assert words.notices(report) == ["Week not complete: figures to Wed 18 Nov 2026 10:05 UTC."]
    assert report.comparison.absent is NoComparison.NOT_WHOLE
    assert "free all the time the ledger covers" in words.free_nodes(report, ENGLISH)
    assert [day.day_ms for day in report.days] == [MONDAY_MS + n * DAY_MS for n in range(3)]
    assert weekly_to_html(report).count("no figures</text>") == 4


@pytest.mark.parametrize(
    ("first_day", "reason"),
    [
        (-7, None),
        (-3, NoComparison.PREVIOUS_NOT_WHOLE),
        (0, NoComparison.PREVIOUS_NOT_IN_LEDGER),
        (2, NoComparison.NOT_WHOLE),
    ],
)
def test_only_whole_weeks_are_compared(first_day: int, reason: NoComparison | None) -> None:
    hours, _, _ = two_weeks()
    report = build_weekly(FakeLedger([row for row in hours if row.hour_ms >= MONDAY_MS + first_day * DAY_MS]), W47)
    assert report.comparison.absent is reason
    assert (words.no_comparison(report, ENGLISH) is None) == (reason is None)
    assert (report.comparison.changes == ()) == (reason is not None)


def test_mixed_sampling_intervals_are_flagged() -> None:
    rows = [hour_row(MONDAY_MS, f"n{ms}", f"GPU-{ms}", {State.BUSY: 60}, interval_ms=ms) for ms in (1000, 5000)]
    report = build_weekly(FakeLedger(rows), W47)
    assert report.method.intervals_ms == (1000, 5000)
    assert report.method.are_intervals_mixed
    assert any(line.startswith("Mixed sampling intervals (1 s, 5 s)") for line in words.notices(report))


def test_a_ledger_that_changes_meanwhile_is_noticed() -> None:
    class Moving(FakeLedger):
        def sum_by(self, keys: Sequence[Key], start_ms: int, end_ms: int) -> list[Group]:
            if "day_ms" in keys:
                self.hours.append(hour_row(MONDAY_MS, "n2", "GPU-2", {State.FREE: 60}))
            return super().sum_by(keys, start_ms, end_ms)

    with pytest.raises(LedgerMovedError, match="changed while"):
        build_weekly(Moving([hour_row(MONDAY_MS, "n1", "GPU-1", {State.BUSY: 60})]), W47)


def forms_of(report: Weekly) -> list[str]:
    forms = (weekly_to_json, weekly_to_markdown, weekly_to_html, states_to_csv, idle_list_to_csv)
    return [form(report) for form in forms]


def test_the_order_of_rows_changes_no_byte() -> None:
    hours, holders, findings = two_weeks()
    first = forms_of(fleet_report())
    assert forms_of(build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), W47)) == first
    for rows in (hours, holders, findings):
        random.Random(47).shuffle(rows)
    assert forms_of(build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), W47)) == first


# ------------------------------------------------------------------------------------------------------- laws


@given(part=st.integers(min_value=0, max_value=10**15), rest=st.integers(min_value=0, max_value=10**15))
def test_a_rounded_bound_stays_a_bound(part: int, rest: int) -> None:
    whole = part + rest
    if whole == 0:
        return
    low, high = share_down(part, whole), share_up(part, whole)
    assert low.tenths * whole <= part * 1000 <= high.tenths * whole
    assert high.tenths - low.tenths in (0, 1)


minutes_of_hour = st.lists(st.sampled_from(State), min_size=12, max_size=12).map(
    lambda states: {state: 5 * states.count(state) for state in set(states)}
)
gpu_hours = st.tuples(st.integers(min_value=0, max_value=167), st.integers(min_value=0, max_value=4), minutes_of_hour)


@settings(max_examples=60)
@given(st.lists(gpu_hours, min_size=1, max_size=30, unique_by=lambda item: item[:2]))
def test_every_table_sums_to_the_headline(drawn: list[tuple[int, int, Mapping[State, int]]]) -> None:
    rows = [
        hour_row(
            MONDAY_MS + hour * HOUR_MS, f"node-{index % 3}", f"GPU-{index}", minutes, site=f"s{index % 2}", model=None
        )
        for hour, index, minutes in drawn
    ]
    report = build_weekly(FakeLedger(rows), W47)
    check_sums(report, rows)


def check_sums(report: Weekly, rows: list[HourRow]) -> None:
    headline, idle = report.headline, report.idle_list
    assert headline is not None
    truth = add([row.account for row in rows])
    want = {time.state: time.slice_ms for time in headline.states}
    assert want == {state: truth.slice_ms(state) for state in State}
    for table in (report.places, report.sites, report.days):
        for time in headline.states:
            found = [row.totals.states[list(State).index(time.state)].slice_ms for row in table]
            assert sum(found) == time.slice_ms
        assert sum(row.totals.installed_slice_ms for row in table) == headline.installed_slice_ms
    assert headline.idle.low.part_slice_ms == sum(want[state] for state in IDLE)
    assert sum(row.free_slice_ms for row in idle.free) == want[State.FREE]
    assert sum(row.dark_slice_ms for row in idle.dark) == want[State.DARK]
    assert sum(row.down_slice_ms for row in idle.down) == want[State.DOWN]
    held = sum(row.held_slice_ms for row in idle.held) + idle.held_without_holder_slice_ms
    assert held == want[State.HELD]
    unknown = want[State.DARK] + want[State.UNMEASURED]
    assert headline.idle.high.part_slice_ms - headline.idle.low.part_slice_ms == unknown
