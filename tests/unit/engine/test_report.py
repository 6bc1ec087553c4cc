# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report weekly --source prometheus`: a report without roster, agent or collector, and what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS
from gpuledger.cli import main
from gpuledger.errors import EngineError
from gpuledger.states import State
from gpuledger_collector.engine.config import EngineConfig
from gpuledger_collector.report import source_words, words
from gpuledger_collector.report.from_engine import read_from_engine
from gpuledger_collector.report.languages import ENGLISH
from gpuledger_collector.report.method_words import method_lines
from gpuledger_collector.report.model import NoComparison, TrustLevel, Weekly
from gpuledger_collector.report.periods import span_between, week_named
from gpuledger_collector.report.to_csv import idle_list_to_csv, states_to_csv
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.to_markdown import weekly_to_markdown
from tests.fakes.engines import FakeEngine
from tests.fakes.gauges import MONDAY_MS, a_morning, add_dcgm, busy, dcgm_labels, free, uuid_of

MORNING = ("--from", "2026-11-16", "--to", "2026-11-16T06:00Z")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", "weekly", "--source", "prometheus", *arguments])


def report_of(engine: FakeEngine, *, span: tuple[str, str] | None = None, **settings: object) -> Weekly:
    week = span_between(*(("2026-11-16", "2026-11-16T06:00Z") if span is None else span))
    with engine.serving_beside() as url:
        return read_from_engine(EngineConfig(url=url, **settings), week, is_compared=True)  # type: ignore[arg-type]


def test_the_first_report_needs_an_address_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with a_morning().serving_beside() as url:
        result = run("--url", url, "--profile", "dcgm", *MORNING)
    assert result.exit_code == 0, result.output
    *paths, headline = result.stdout.splitlines()
    stem = "reports/weekly-2026-11-16--2026-11-16T06"
    assert paths == [
        f"{stem}.md",
        f"{stem}.html",
        f"{stem}.csv",
        f"{stem}-idle.csv",
        f"{stem}-days.csv",
        f"{stem}.json",
    ]
    assert headline.startswith(
        "2026-11-16 to 2026-11-16T06: at least 50.0 % and at most 72.2 % of 18.0 installed GPU-hours (3 GPUs) stood "
        "idle, with coverage 77.8 %; what was out of service is not told. Sampled gauges (profile dcgm, sampled every "
        "30 s): ± 0.1 percentage points."
    )


@pytest.mark.golden
def test_the_report_is_as_in_the_golden_file(golden: Callable[[str, str], None]) -> None:
    golden("engine-weekly.md", weekly_to_markdown(report_of(a_morning())))


def test_two_reports_of_one_engine_are_the_same_bytes() -> None:
    one, other = (report_of(a_morning()) for _ in range(2))
    for form in (weekly_to_markdown, weekly_to_html, weekly_to_json, states_to_csv, idle_list_to_csv):
        assert form(one) == form(other)


# -------------------------------------------------------------------------------------------------- what it says


def test_what_gauges_do_not_tell_is_no_figure_and_not_zero() -> None:
    report = report_of(a_morning())
    assert report.source is not None
    assert report.headline is not None
    assert (report.headline.out, report.headline.declared_uncovered) == (None, None)
    told = {time.state for time in report.headline.states}
    assert told == set(State) - {State.STANDBY, State.OPERATOR, State.MAINTENANCE, State.DOWN}
    assert "standby, operator, maintenance, down" in weekly_to_markdown(report)
    states = [row.split(",")[7] for row in states_to_csv(report).splitlines()[1:]]
    assert "down" not in states
    assert json.loads(weekly_to_json(report))["headline"]["out"] is None
    assert (report.method.readings_trust, report.method.roster_trust) == (TrustLevel.L0, TrustLevel.L0)


def test_without_allocation_labels_reserved_is_not_told_from_free() -> None:
    engine = FakeEngine(now_ms=MONDAY_MS + DAY_MS)
    free(engine, dcgm_labels(0, "n1"), MONDAY_MS, MONDAY_MS + 6 * HOUR_MS)
    report = report_of(engine)
    assert report.source is not None
    assert State.RESERVED in report.source.untold
    assert "so reserved is not told from free" in weekly_to_markdown(report)


def test_every_figure_is_marked_with_the_profile_and_how_it_was_sampled() -> None:
    report = report_of(a_morning())
    mark = "rofile dcgm, sampled every 30 s"
    html = weekly_to_html(report)
    # Headline, three tiles, days, places, the idle list; the threshold and the change are of the same figures.
    assert html.count(mark) >= 7
    assert weekly_to_markdown(report).count(mark) >= 4
    rows = [row.split(",") for row in states_to_csv(report).splitlines()]
    assert {row[rows[0].index("profile")] for row in rows[1:]} == {"dcgm"}
    assert all(float(row[rows[0].index("sampling_error_points")]) > 0 for row in rows[1:])
    document = json.loads(weekly_to_json(report))
    assert (document["source"]["profile"], document["sampling_error_points"]) == ("dcgm", 0.1)


def test_a_mean_that_is_seen_whole_is_off_by_its_changes_alone() -> None:
    report = report_of(a_morning())
    assert report.source is not None
    assert report.headline is not None
    # One change, 30 s of 18 GPU-hours: 0.046 %, rounded up.
    assert report.source.changes == 1
    assert source_words.error_tenths(report, report.headline) == 1
    assert not source_words.is_between_unseen(report, report.source)
    assert "nothing is added for what was between samples" in weekly_to_markdown(report)


def test_samples_of_moments_are_off_by_two_standard_errors_more() -> None:
    engine = FakeEngine(now_ms=MONDAY_MS + DAY_MS)
    add_dcgm(engine, dcgm_labels(0, "n1"), MONDAY_MS, MONDAY_MS + 6 * HOUR_MS, utilisation=90, memory_mib=70_000)
    report = report_of(engine)
    assert report.source is not None
    assert report.headline is not None
    points = 6 * 120
    assert report.source.points == points
    assert source_words.error_tenths(report, report.headline) == math.ceil(1000 / math.sqrt(points)) == 38
    text = weekly_to_markdown(report)
    assert "1 / √n (here n = 720)" in text
    assert "Load in step with the sampling may be off by more" in text
    assert "DCGM\\_FI\\_DEV\\_GPU\\_UTIL: each sample is of a moment" in text.replace("_", "\\_").replace(
        "\\\\_", "\\_"
    )


def test_a_mean_that_is_sampled_more_rarely_than_it_is_made_is_seen_in_part() -> None:
    engine = FakeEngine(now_ms=MONDAY_MS + DAY_MS)
    labels = dcgm_labels(0, "n1")
    add_dcgm(engine, labels, MONDAY_MS, MONDAY_MS + 6 * HOUR_MS, active=0.9, memory_mib=70_000, interval_ms=60_000)
    report = report_of(engine)
    assert report.source is not None
    assert source_words.is_between_unseen(report, report.source)


def test_each_row_has_an_error_of_its_own() -> None:
    engine = FakeEngine(now_ms=MONDAY_MS + DAY_MS)
    for number, site in ((0, "a"), (1, "a"), (2, "a"), (3, "a"), (4, "b")):
        labels = dcgm_labels(number, "n1", site=site)
        add_dcgm(engine, labels, MONDAY_MS, MONDAY_MS + 6 * HOUR_MS, utilisation=90, memory_mib=70_000)
    report = report_of(engine)
    errors = {
        place.site: source_words.error_tenths(report, place.totals, place=(place.site, place.model))
        for place in report.places
    }
    assert errors == {"a": 19, "b": 38}


def test_a_stuck_gauge_and_missing_memory_are_said_before_any_figure() -> None:
    engine = FakeEngine(now_ms=MONDAY_MS + DAY_MS)
    add_dcgm(engine, dcgm_labels(0, "n1"), MONDAY_MS, MONDAY_MS + HOUR_MS, active=0.0, utilisation=100, memory_mib=9)
    add_dcgm(engine, dcgm_labels(1, "n1"), MONDAY_MS, MONDAY_MS + HOUR_MS, active=0.0)
    add_dcgm(engine, dcgm_labels(2, "n1"), MONDAY_MS, MONDAY_MS + HOUR_MS, active=7.0, memory_mib=9)
    report = report_of(engine, span=("2026-11-16", "2026-11-16T01:00Z"))
    said = " ".join(words.notices(report))
    assert "At 120 samples DCGM_FI_PROF_GR_ENGINE_ACTIVE said that nothing was active and DCGM_FI_DEV_GPU_UTIL" in said
    assert "At 120 samples memory in use was not known" in said
    assert ("Rejected", "120 samples outside what they can be; counted as unknown.") in method_lines(report, ENGLISH)


# ------------------------------------------------------------------------------------------------- which period


def weeks(now_ms: int, *spans: tuple[int, int]) -> FakeEngine:
    engine = FakeEngine(now_ms=now_ms)
    for start_ms, end_ms in spans:
        add_dcgm(engine, dcgm_labels(0, "n1"), start_ms, end_ms, active=0.0, memory_mib=4, interval_ms=300_000)
    return engine


def read(engine: FakeEngine, *, is_compared: bool = True, week: str | None = None) -> Weekly:
    with engine.serving_beside() as url:
        asked = None if week is None else week_named(week)
        return read_from_engine(EngineConfig(url=url), asked, is_compared=is_compared)


def test_the_last_whole_week_is_reported_by_default_and_compared_with_the_one_before() -> None:
    end_ms = MONDAY_MS + 7 * DAY_MS
    report = read(weeks(end_ms + HOUR_MS, (MONDAY_MS - 7 * DAY_MS, end_ms)))
    assert report.period.name == "2026-W47"
    assert (report.period.is_complete, report.period.is_from_start) == (True, True)
    assert report.comparison.absent is None
    idle = next(change for change in report.comparison.changes if change.figure == "idle_low")
    assert idle.difference_tenths == 0 or idle.before != idle.now


def test_an_engine_that_is_younger_than_a_week_has_the_week_that_goes_on_reported() -> None:
    report = read(weeks(MONDAY_MS + 2 * DAY_MS, (MONDAY_MS + DAY_MS, MONDAY_MS + 2 * DAY_MS)))
    assert report.period.name == "2026-W47"
    assert (report.period.is_complete, report.period.is_from_start) == (False, False)
    assert report.period.figures_to_ms == MONDAY_MS + 2 * DAY_MS - CELL_MS
    said = words.notices(report)
    assert "The ledger begins within this week: figures from Tue 17 Nov 2026 00:00 UTC." in said
    assert "Week not complete: figures to Tue 17 Nov 2026 23:55 UTC." in said


def test_the_week_before_is_not_read_unless_it_is_compared_with() -> None:
    end_ms = MONDAY_MS + 7 * DAY_MS
    engine = weeks(end_ms + HOUR_MS, (MONDAY_MS - 7 * DAY_MS, end_ms))
    report = read(engine, is_compared=False, week="2026-W47")
    assert report.comparison.absent is NoComparison.NOT_ASKED_FOR
    starts = [float(values["start"]) for path, values in engine.asked if path == "query_range"]
    assert min(starts) * 1000 >= MONDAY_MS
    assert report.headline is not None
    assert report.headline.installed_slice_ms == 7 * DAY_MS * 7


def test_a_week_that_has_not_begun_is_an_error() -> None:
    with pytest.raises(EngineError, match="has not begun"):
        read(weeks(MONDAY_MS + HOUR_MS, (MONDAY_MS, MONDAY_MS + HOUR_MS)), week="2026-W50")


def test_a_span_of_many_days_has_a_bar_for_each() -> None:
    engine = FakeEngine(now_ms=MONDAY_MS + 30 * DAY_MS)
    add_dcgm(
        engine, dcgm_labels(0, "n1"), MONDAY_MS, MONDAY_MS + 12 * DAY_MS, active=0.0, memory_mib=4, interval_ms=300_000
    )
    report = report_of(engine, span=("2026-11-16", "2026-11-28"))
    assert len(report.days) == 12
    assert report.comparison.absent is NoComparison.NONE_BEFORE
    html = weekly_to_html(report)
    assert "States by day, 2026-11-16 to 2026-11-28" in html
    assert "Mon 16 Nov" in html


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--state-dir", "s"], "--config and --state-dir are the collector's"),
        (["--week", "2026-W47", "--from", "2026-11-16"], "give either --week, or --from and --to"),
        (["--from", "2026-11-16"], "--from and --to go together"),
        (["--from", "2026-11-16", "--to", "tomorrow"], "--to: 'tomorrow' is not a time like 2026-11-02"),
        (["--from", "2026-11-16T00:30", "--to", "2026-11-17"], "--from: '2026-11-16T00:30' is not a whole hour of UTC"),
        (["--from", "2026-11-17", "--to", "2026-11-16"], "give a span that ends after it begins, of 62 days at most"),
        (["--from", "2026-01-01", "--to", "2026-12-31"], "of 62 days at most"),
        (["--profile", "dcm"], "profile: 'dcm' is not one of dcgm, nvitop"),
        (["--match", "cluster"], "--match: 'cluster' is not LABEL=VALUE"),
        (["--header", "X-Scope-OrgID"], "--header: 'X-Scope-OrgID' is not 'NAME: VALUE'"),
        (["--url", "localhost:9090"], "url: 'localhost:9090' is not http://HOST:PORT/PATH"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_engines_flags_without_an_engine_are_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", "weekly", "--state-dir", str(tmp_path), "--url", "http://a"])
    assert result.exit_code == 2
    assert "--url is about an engine: say --source prometheus too" in result.stderr


def test_an_engine_that_fails_leaves_no_file(tmp_path: Path) -> None:
    engine = a_morning()
    engine.beside = {"warnings": ["a store did not answer"]}
    with engine.serving_beside() as url:
        result = run("--url", url, *MORNING, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "warns that its answer may not be whole" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_labels_headers_and_pace_are_handed_on(tmp_path: Path) -> None:
    engine = a_morning()
    more = ["--match", "hostname=n2", "--header", "X-Scope-OrgID: team", "--scrape-interval", "60"]
    with engine.serving_beside() as url:
        result = run("--url", url, *MORNING, "--out", str(tmp_path), *more)
    assert result.exit_code == 0, result.output
    assert "(1 GPU)" in result.stdout
    assert "sampled every 60 s" in result.stdout
    assert {headers["X-Scope-OrgID"] for headers in engine.headers} == {"team"}


def test_names_from_labels_are_escaped_in_every_form() -> None:
    engine = FakeEngine(now_ms=MONDAY_MS + DAY_MS)
    evil = {"pod": "<script>alert(1)</script>", "namespace": "=cmd()", "site": "a|b"}
    add_dcgm(engine, dcgm_labels(0, "n1", **evil), MONDAY_MS, MONDAY_MS + 6 * HOUR_MS, active=0.0, memory_mib=9000)
    report = report_of(engine)
    assert "<script>" not in weekly_to_html(report)
    assert "\\<script\\>" in weekly_to_markdown(report)
    assert "'=cmd()" in idle_list_to_csv(report)


def test_a_gpu_under_any_name_is_in_the_report_once() -> None:
    engine = a_morning()
    busy(engine, dcgm_labels(1, "n1", UUID=uuid_of(1).upper(), prometheus="b"), MONDAY_MS, MONDAY_MS + HOUR_MS)
    report = report_of(engine)
    assert report.headline is not None
    assert report.headline.gpus == 3
