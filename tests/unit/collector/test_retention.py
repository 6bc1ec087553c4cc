# SPDX-License-Identifier: Apache-2.0
"""What the policy takes out is said in the log before it goes, and no figure changes: not now, not by any rebuild."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.errors import ConfigurationError, StorageError
from gpuledger.merkle import TILE_WIDTH
from gpuledger_collector import columns, ledger_files
from gpuledger_collector.config import Policy, load
from gpuledger_collector.entries import Pruned
from gpuledger_collector.pruning import check_final
from gpuledger_collector.retention import describe_plan, plan
from gpuledger_collector.tiles import ENTRIES, WORKLOADS
from tests.fakes.programs import run_python
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.retention import (
    EDGE_MS,
    KEPT_DAYS,
    LATER_MS,
    POLICY,
    check,
    digest,
    prune,
    prunings,
)
from tests.fakes.storage import Storage

# ---------------------------------------------------------------------------------------------- what goes


def test_readings_go_and_no_figure_changes_and_the_log_holds(old: Storage) -> None:
    before, count = digest(old), old.store.count_readings()
    roots = [old.catalog.log.root_at(size) for size in range(1, old.catalog.log.size)]
    done = prune(old)
    (cut,) = done.cuts
    assert (cut.what, cut.first, cut.before_ms) == (Pruned.READINGS, 0, EDGE_MS)
    assert cut.end % TILE_WIDTH == 0
    assert 0 < count - old.store.count_readings() <= cut.end
    for number in range(cut.end // TILE_WIDTH):
        assert not old.catalog.log.file(ENTRIES, number).exists()
        assert not old.catalog.log.file(WORKLOADS, number).exists()
    assert [old.catalog.log.root_at(size) for size in range(1, len(roots) + 1)] == roots
    checked = check(old)
    assert (checked.failures, checked.findings) == ([], [])
    (said,) = checked.pruned
    assert "readings, all of before 2026-11-04, on 2026-11-06: their hashes are proved, and no more" in said
    old.refresh()
    assert digest(old) == before
    assert old.store.retained.final_ms() == EDGE_MS
    old.reopen()
    old.refresh()
    assert digest(old) == before
    assert prune(old).cuts == ()


def test_the_log_says_what_went_with_the_digest_of_the_hours_that_are_final(old: Storage) -> None:
    wanted = old.files.digest(MONDAY_MS, EDGE_MS)
    prune(old)
    (entry,) = prunings(old)
    assert (entry.from_ms, entry.before_ms, entry.ledger) == (MONDAY_MS, EDGE_MS, wanted)
    (said,) = check(old).pruned
    assert said.endswith(f"digest of the hours since 2026-11-02: {wanted}")
    assert check_final(old.catalog.log, old.files) == ["Final hours of 2026-11-02 to 2026-11-04: as the log says."]
    old.files.drop(MONDAY_MS + DAY_MS, ["holders"])
    assert "NOT as the log says" in check_final(old.catalog.log, old.files)[0]
    old.files.drop(MONDAY_MS + DAY_MS, ["hours"])
    assert check_final(old.catalog.log, old.files) == ["Final hours of 2026-11-02 to 2026-11-04: not in the ledger."]


def test_a_rebuild_keeps_final_hours_and_makes_the_others_anew(old: Storage) -> None:
    before = digest(old)
    roster, claims = old.store.roster(), old.store.claims()
    prune(old)
    done = old.keeper.rebuild()
    assert done.hours == (LATER_MS - EDGE_MS) // HOUR_MS
    assert (old.store.roster(), old.store.claims()) == (roster, claims)
    assert digest(old) == before
    assert not old.refresh().hours
    assert old.files.extent() == (MONDAY_MS, LATER_MS)


def test_a_ledger_that_is_lost_begins_after_the_hours_that_are_final_and_has_no_empty_ones(old: Storage) -> None:
    rest = old.files.digest(EDGE_MS, LATER_MS)
    prune(old)
    shutil.rmtree(old.directory / "ledger")
    old.keeper.rebuild()
    assert old.files.extent() == (EDGE_MS, LATER_MS)
    assert old.files.rows(0, EDGE_MS) == []
    assert old.files.digest(0, LATER_MS) == rest


def test_an_index_that_is_lost_is_made_from_what_is_left_and_the_roster_stays(old: Storage) -> None:
    before, roster = digest(old), old.store.roster()
    prune(old)
    old.close()
    for path in old.directory.glob("collector.sqlite*"):
        path.unlink()
    old.open()
    old.refresh()
    assert old.store.roster().entries == roster.entries
    assert digest(old) == before
    assert old.store.retained.final_ms() == EDGE_MS


def test_a_damaged_extent_is_made_anew_unless_hours_are_final(old: Storage) -> None:
    before = digest(old)
    path = old.directory / "ledger" / "extent.json"
    path.write_text("{}")
    old.keeper.rebuild()
    old.refresh()
    assert digest(old) == before
    prune(old)
    path.write_text("{}")
    with pytest.raises(StorageError, match="not an extent"):
        old.keeper.rebuild()
    assert len(old.files.rows(0, EDGE_MS)) > 0


def test_an_older_ledger_put_back_that_lacks_final_hours_is_refused_in_one_sentence(
    old: Storage, tmp_path: Path
) -> None:
    prune(old)
    old.files.write_extent(MONDAY_MS, EDGE_MS - DAY_MS)
    with pytest.raises(StorageError, match="ends at 2026-11-03T00:00Z, and the readings of the hours until 2026-11-04"):
        old.refresh()


def test_a_late_change_of_the_roster_does_not_touch_final_hours(
    old: Storage, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    final = old.files.digest(MONDAY_MS, EDGE_MS)
    prune(old)
    roster = tmp_path / "roster.csv"
    lines = ["uuid,node,from,site", *(f"GPU-node-{n}-0,node-{n},2026-11-01,elsewhere" for n in (1, 2))]
    roster.write_text("\n".join(lines) + "\n")
    old.close()
    with Storage(old.directory, roster=roster) as changed:
        changed.now_ms = LATER_MS
        changed.refresh()
        assert changed.files.digest(MONDAY_MS, EDGE_MS) == final
        assert {row.site for row in changed.files.rows(EDGE_MS, LATER_MS)} == {"elsewhere"}
        assert changed.files.extent() == (MONDAY_MS, LATER_MS)
    assert "final_hours_kept" in [record.message for record in caplog.records]
    old.open()


def test_what_is_not_settled_yet_is_not_pruned(old: Storage) -> None:
    node = FakeNode("node-3", gpus=1)
    node.seal(MONDAY_MS + DAY_MS)
    old.take(node, node.sealed, now_ms=MONDAY_MS + 2 * DAY_MS)
    wanted = plan(POLICY, old.catalog.log, old.store, old.files, LATER_MS)
    assert wanted.settled_ms == MONDAY_MS + DAY_MS
    assert all(cut.before_ms == MONDAY_MS + DAY_MS for cut in wanted.cuts)
    old.refresh()
    wanted = plan(POLICY, old.catalog.log, old.store, old.files, LATER_MS)
    # The one that came late lies in the last file, which is still growing.
    assert [cut.before_ms for cut in wanted.cuts] == [EDGE_MS]


def test_nothing_goes_without_a_policy_or_a_ledger(old: Storage) -> None:
    wanted = prune(old, Policy())
    assert (wanted.cuts, wanted.hours_before_ms, wanted.findings_before_ms) == ((), None, None)
    shutil.rmtree(old.directory / "ledger")
    assert prune(old).cuts == ()
    assert prunings(old) == []


# ---------------------------------------------------------------------------------------------- workloads


def test_workloads_go_before_their_readings_and_hours_are_final_from_then_on(old: Storage) -> None:
    before = digest(old)
    (cut,) = prune(old, Policy(workload_days=KEPT_DAYS)).cuts
    assert cut.what is Pruned.WORKLOADS
    assert old.catalog.log.file(ENTRIES, 0).exists()
    assert not old.catalog.log.file(WORKLOADS, 0).exists()
    assert old.store.retained.final_ms() == EDGE_MS
    checked = check(old)
    assert (checked.failures, checked.findings, len(checked.pruned)) == ([], [], 1)
    assert "what lay beside readings" in checked.pruned[0]
    old.keeper.rebuild()
    assert digest(old) == before
    # The readings follow, later.
    prune(old)
    checked = check(old)
    assert (checked.failures, len(checked.pruned)) == ([], 2)
    assert [entry.ledger is None for entry in prunings(old)] == [False, True]
    old.keeper.rebuild()
    assert digest(old) == before


# ---------------------------------------------------------------------------------------------- ledger and findings


def test_hours_and_findings_older_than_the_policy_go_and_do_not_come_back(old: Storage) -> None:
    policy = Policy(ledger_days=KEPT_DAYS + 1, finding_days=KEPT_DAYS)
    rest = old.files.digest(MONDAY_MS + DAY_MS, LATER_MS)
    wanted = prune(old, policy)
    assert wanted.hours_before_ms == MONDAY_MS + DAY_MS
    for _ in range(2):
        assert old.files.extent() == (MONDAY_MS + DAY_MS, LATER_MS)
        assert old.files.digest(0, LATER_MS) == rest
        old.reopen()
        old.refresh()
    assert prune(old, policy).hours_before_ms is None


# ---------------------------------------------------------------------------------------------- columns, settings


def test_final_hours_in_columns_of_an_earlier_version_are_kept_and_brought_to_those_of_now(
    old: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(old)
    prune(old)
    old.close()
    later, schemas = columns.SCHEMA + 1, dict(ledger_files._SCHEMAS)
    for table, known in schemas.items():
        fields = [*known, ("colour", pa.string()), ("weight", pa.int64())] if table == "hours" else [*known]
        schemas[table] = pa.schema(fields, metadata=known.metadata | {b"gpuledger_schema": str(later)})
    monkeypatch.setattr(columns, "SCHEMA", later)
    monkeypatch.setattr(columns, "ADDED", columns.ADDED | {later: {"colour": None, "weight": 7}})
    monkeypatch.setattr(ledger_files, "_SCHEMAS", schemas)
    old.open()
    assert old.files.is_outdated()
    old.refresh()
    assert not old.files.is_outdated()
    assert old.files.digest(0, LATER_MS) != before
    assert old.files.digest(0, LATER_MS, later - 1) == before
    (row, *_) = old.files._records("hours", 0, EDGE_MS)
    assert (row["colour"], row["weight"]) == (None, 7)
    assert check_final(old.catalog.log, old.files) == ["Final hours of 2026-11-02 to 2026-11-04: as the log says."]


@pytest.mark.parametrize("key", ["reading_days", "workload_days"])
def test_readings_cannot_go_while_others_of_their_hour_may_come(key: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"retention\.{key}: 89 days are less than limits\.reading_age_days, 90"
    ):
        load(None, {f"GPULEDGER_COLLECTOR_RETENTION_{key.upper()}": "89"}, {})
    loaded = load(None, {f"GPULEDGER_COLLECTOR_RETENTION_{key.upper()}": "90"}, {})
    assert getattr(loaded.value, key) == 90


def test_the_plan_is_said_in_sentences_and_does_nothing(old: Storage) -> None:
    policy = Policy(reading_days=KEPT_DAYS, ledger_days=KEPT_DAYS + 1, finding_days=KEPT_DAYS)
    size = old.catalog.log.size
    wanted = plan(policy, old.catalog.log, old.store, old.files, LATER_MS)
    text = "\n".join(describe_plan(policy, wanted, old.store.retained))
    assert "To go: the readings of entries 0 to" in text
    assert "To go: the ledger's hours before 2026-11-03" in text
    assert "To go: findings of before 2026-11-04." in text
    assert old.catalog.log.size == size
    prune(old)
    text = "\n".join(describe_plan(Policy(), prune(old, Policy()), old.store.retained))
    assert "Final: the hours before 2026-11-04." in text
    assert "Nothing goes: retention.* is not set." in text


def test_the_command_tells_the_plan(filled: Path) -> None:
    done = run_python("-m", "gpuledger", "collector", "retention", "--state-dir", str(filled))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Nothing goes: retention.* is not set.\n"
