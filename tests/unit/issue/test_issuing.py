# SPDX-License-Identifier: Apache-2.0
"""Issuing: each period once, whatever ends a run and wherever; numbered, restated, sent once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.cells import DAY_MS
from gpuledger.errors import StorageError
from gpuledger_collector.issue.issued_files import AlreadyIssuingError, IssuedFiles
from gpuledger_collector.issue.issuing import digest_of, issue_due, numbered
from gpuledger_collector.issue.plan import Delivery, Issued, Plan
from gpuledger_collector.report.periods import week_named
from tests.fakes.issuing import OPS, FakeReading, PostOffice, PowerCutError, a_report

W46, W47 = week_named("2026-W46"), week_named("2026-W47")
LONG_AGO = W46.start_ms - 60 * DAY_MS
NOW_MS = W47.end_ms + DAY_MS
PLAN = Plan(first="2026-W46", formats=("json", "md"), channels=(OPS,))


def reading() -> FakeReading:
    return FakeReading((LONG_AGO, NOW_MS))


def names(files: IssuedFiles) -> list[tuple[int, str, int | None]]:
    return [(one.number, one.period, one.restates) for one in files.read()]


def test_what_is_due_is_issued_once_and_numbered(tmp_path: Path) -> None:
    files, post = IssuedFiles(tmp_path), PostOffice()
    outcome = issue_due(PLAN, reading(), files, post, NOW_MS)
    assert [one.number for one in outcome.issued] == [1, 2]
    assert names(files) == [(1, "2026-W46", None), (2, "2026-W47", None)]
    assert post.arrived == [(2, "ops")]
    assert sorted(post.files[0]) == ["weekly-2026-W47.json", "weekly-2026-W47.md"]
    assert outcome.exit_code == 0
    again = issue_due(PLAN, reading(), files, post, NOW_MS)
    assert (again.is_quiet, again.exit_code) == (True, 0)
    assert post.arrived == [(2, "ops")]
    said = json.loads((tmp_path / "weekly-2026-W47.json").read_text(encoding="utf-8"))
    assert said["issue"] == {"number": 2, "restates": None}
    assert "Report number 2." in said["notices"]


def test_late_data_that_change_a_figure_make_a_restatement_beside_the_first_issue(tmp_path: Path) -> None:
    files, post, source = IssuedFiles(tmp_path), PostOffice(), reading()
    issue_due(PLAN, source, files, post, NOW_MS)
    first = (tmp_path / "weekly-2026-W47.json").read_bytes()
    source.extent_ms = (LONG_AGO, NOW_MS + DAY_MS)
    assert issue_due(PLAN, source, files, post, NOW_MS).is_quiet  # more readings, and no other figure
    source.changes["2026-W47"] = 1
    outcome = issue_due(PLAN, source, files, post, NOW_MS)
    assert names(files)[2:] == [(3, "2026-W47", 2)]
    assert [one.restates for one in outcome.issued] == [2]
    assert (tmp_path / "weekly-2026-W47.json").read_bytes() == first
    text = (tmp_path / "weekly-2026-W47-r3.md").read_text(encoding="utf-8")
    assert "it restates report 2" in text
    assert post.arrived == [(2, "ops"), (3, "ops")]
    assert issue_due(PLAN, source, files, post, NOW_MS).is_quiet


def test_low_coverage_is_issued_and_said(tmp_path: Path) -> None:
    source = reading()
    source.uncovered.add("2026-W47")
    outcome = issue_due(PLAN, source, IssuedFiles(tmp_path), PostOffice(), NOW_MS)
    assert ([one.is_covered for one in outcome.issued], outcome.exit_code) == ([True, False], 1)


def test_a_delivery_that_fails_keeps_the_report_and_is_tried_again(tmp_path: Path) -> None:
    files, post = IssuedFiles(tmp_path), PostOffice(fails={"ops"})
    outcome = issue_due(PLAN, reading(), files, post, NOW_MS)
    assert (outcome.exit_code, len(outcome.failed)) == (4, 1)
    assert (tmp_path / "weekly-2026-W47.json").exists()
    post.fails.clear()
    assert issue_due(PLAN, reading(), files, post, NOW_MS).sent == [(2, "ops")]
    assert post.arrived == [(2, "ops")]


def test_what_may_have_arrived_is_never_sent_again_by_itself(tmp_path: Path) -> None:
    files, post = IssuedFiles(tmp_path), PostOffice(hangs_up={"ops"})
    assert issue_due(PLAN, reading(), files, post, NOW_MS).exit_code == 4
    post.hangs_up.clear()
    outcome = issue_due(PLAN, reading(), files, post, NOW_MS)
    assert (outcome.sent, outcome.stuck) == ([], [(2, "ops")])
    assert post.arrived == [(2, "ops")]


class CutFiles(IssuedFiles):
    """The power goes off before, or after, the n-th record is written."""

    def __init__(self, reports: Path, cut_at: int, *, is_after: bool) -> None:
        super().__init__(reports)
        self.left, self.is_after = cut_at, is_after

    def write(self, record: Issued) -> None:
        self.left -= 1
        if self.left == 0 and not self.is_after:
            raise PowerCutError
        super().write(record)
        if self.left == 0:
            raise PowerCutError


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("cut_at", range(1, 6))
def test_a_run_that_is_killed_anywhere_is_taken_up_and_nothing_is_posted_twice(
    tmp_path: Path, cut_at: int, is_after: bool
) -> None:
    post = PostOffice()
    cut = False
    try:
        issue_due(PLAN, reading(), CutFiles(tmp_path, cut_at, is_after=is_after), post, NOW_MS)
    except PowerCutError:
        cut = True
    files = IssuedFiles(tmp_path)
    issue_due(PLAN, reading(), files, post, NOW_MS)
    assert names(files) == [(1, "2026-W46", None), (2, "2026-W47", None)]
    assert post.arrived.count((2, "ops")) <= 1
    (state,) = {one.delivered.get("ops") for one in files.read()} - {None}
    # Cut while it was being sent, it may have arrived or not: a person has to look.
    is_unknown = cut and (cut_at, is_after) in {(3, True), (4, False)}
    assert state is (Delivery.SENDING if is_unknown else Delivery.SENT)


def test_a_second_run_beside_the_first_is_locked_out(tmp_path: Path) -> None:
    files = IssuedFiles(tmp_path)
    with files.locked(), pytest.raises(AlreadyIssuingError) as refused, IssuedFiles(tmp_path).locked():
        pass
    assert refused.value.exit_code == 75
    with files.locked():
        pass


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"number": 1}', "\xff"])
def test_a_record_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "000001.json").write_text(text, encoding="latin-1")
    with pytest.raises(StorageError, match=r"000001.json: not a record of an issued report"):
        IssuedFiles(tmp_path).read()


def test_a_record_that_was_taken_away_is_noticed(tmp_path: Path) -> None:
    files = IssuedFiles(tmp_path)
    issue_due(PLAN, reading(), files, PostOffice(), NOW_MS)
    (tmp_path / "records" / "000001.json").unlink()
    with pytest.raises(StorageError, match="the numbers have a gap"):
        files.read()


def test_the_digest_is_of_what_is_said_and_not_of_the_number() -> None:
    report = a_report()
    assert digest_of(numbered(report, 7, 3)) == digest_of(report)
    moved = replace(report, method=replace(report.method, ledger_digest="other"))
    assert digest_of(moved) == digest_of(report)
    changed = replace(report, method=replace(report.method, hang_suspicion_ms=1))
    assert digest_of(changed) != digest_of(report)
