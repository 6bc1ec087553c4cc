# SPDX-License-Identifier: Apache-2.0
"""What workloads were for, in the report: kinds that sum, weeks, hours of the week, in every language."""

import json
from dataclasses import replace

import pytest

from gpuledger.cells import HOUR_MS
from gpuledger_collector.classify.demand import WEEK_MS, Demand, KindHour, summarise
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.report.languages import TAGS, language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import week_named
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.use_tables import use_section
from gpuledger_collector.report.weekly import LedgerMovedError, build_weekly
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import OPENINGS, two_weeks

W47 = week_named("2026-W47")
GPU_HOUR = 7 * HOUR_MS


def demand(start_ms: int, end_ms: int) -> Demand:
    """Training on two GPUs all of both weeks, inference on one by day, in the second week."""
    hours = [
        KindHour(
            hour_ms=hour_ms,
            site="north",
            kind=Kind.TRAINING,
            busy_slice_ms=2 * GPU_HOUR,
            held_slice_ms=0,
            whole_slice_ms=2 * GPU_HOUR,
        )
        for hour_ms in range(start_ms - WEEK_MS, end_ms, HOUR_MS)
    ]
    hours += [
        KindHour(hour_ms=hour_ms, site="north", kind=Kind.INFERENCE, busy_slice_ms=GPU_HOUR, held_slice_ms=0)
        for hour_ms in range(start_ms, end_ms, HOUR_MS)
        if 6 <= hour_ms // HOUR_MS % 24 < 18
    ]
    earlier = [one for one in hours if one.hour_ms < start_ms]
    return summarise(hours, start_ms, end_ms, (start_ms - WEEK_MS, end_ms), earlier)


def report() -> Weekly:
    hours, holders, findings = two_weeks()
    return build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), W47, use=demand)


@pytest.mark.parametrize("tag", TAGS)
def test_the_section_has_kinds_weeks_and_hours(tag: str) -> None:
    section = use_section(report(), language(tag))
    kinds, weeks, bands = section.tables
    assert [row[1].text for row in kinds.rows] == ["336.0", "84.0", "0.0", "0.0", "0.0"]
    assert [row[3].text for row in kinds.rows][:2] == ["80.0 %", "20.0 %"]
    assert [row[4].text for row in kinds.rows][:2] == ["336.0", "0.0"]
    assert [row[6].text for row in kinds.rows] == ["0 %", "100 %", "–", "–", "–"]
    assert [row[1].small for row in weeks.rows] == ["100.0 %", "80.0 %"]
    assert [row[2].text for row in bands.rows] == ["0.0", "1.0", "1.0", "0.0"] * 2


def test_json_has_every_hour_of_the_week() -> None:
    use = json.loads(weekly_to_json(report()))["use"]
    assert len(use["hours"]) == 168
    assert use["kinds"][0]["kind"] == "training"
    assert use["kinds"][0]["busy_gpu_hours"] == 336.0


def test_a_report_without_verdicts_says_so() -> None:
    section = use_section(replace(report(), use=None), language("en"))
    assert section.lines == ("Not given: it needs verdicts on workloads, which this source or extract does not have.",)


def test_a_ledger_that_moved_is_read_again() -> None:
    def moved(start_ms: int, end_ms: int) -> Demand:
        raise ValueError(f"more is known from {start_ms} to {end_ms} than there is")

    hours, holders, findings = two_weeks()
    with pytest.raises(LedgerMovedError):
        build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), W47, use=moved)
