# SPDX-License-Identifier: Apache-2.0
"""State directories that earlier versions wrote are opened, proved, brought up to date and written on."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.errors import StorageError
from gpuledger.states import State
from gpuledger_collector import columns, schema
from gpuledger_collector import store as store_module
from gpuledger_collector.check import check_log
from gpuledger_collector.ledger_files import open_reader
from tests.fakes.programs import run_python
from tests.fakes.storage import Storage
from tests.fakes.stores import CELLS, START_MS, STORES, nodes, restore, rows_of

NOW_MS = START_MS + CELLS * CELL_MS
RECORDED = sorted(path.name for path in STORES.iterdir())
Rows = dict[str, list[dict[str, Any]]]


def assert_kept(found: Rows, expected: Rows) -> None:
    """Whatever was in the rows is in them still; later versions may say more."""
    for table, records in expected.items():
        assert len(found[table]) == len(records)
        for record, before in zip(found[table], records, strict=True):
            assert record | before == record


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_store_is_opened_holds_and_has_the_rows_that_it_had(tmp_path: Path, name: str) -> None:
    expected = restore(name, tmp_path / "state")
    with Storage(tmp_path / "state") as storage:
        storage.now_ms = NOW_MS
        checked = check_log(storage.catalog.log)
        assert (checked.failures, checked.entries["reading"]) == ([], 2 * CELLS - 1)
        storage.refresh()
        assert_kept(rows_of(storage.files), expected)
        digest = storage.files.digest(0, NOW_MS)
        storage.keeper.rebuild()
        assert storage.files.digest(0, NOW_MS) == digest
        assert_kept(rows_of(storage.files), expected)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_store_is_written_on_with_late_readings_and_new_ones(tmp_path: Path, name: str) -> None:
    restore(name, tmp_path / "state")
    with Storage(tmp_path / "state") as storage, Storage(tmp_path / "fresh") as fresh:
        whole = nodes(is_whole=True)
        for node in whole:
            node.seal(NOW_MS, states_ms={State.BUSY: 5})
        for one in (storage, fresh):
            one.now_ms = NOW_MS + CELL_MS
            for node in whole:
                one.take(node, target=f"http://{node.name}:9400")
            one.refresh()
        assert storage.store.count_readings() == fresh.store.count_readings() == 2 * CELLS + 2
        assert storage.files.digest(0, 2**62) == fresh.files.digest(0, 2**62)
        assert check_log(storage.catalog.log).failures == []


def test_a_ledger_in_columns_of_an_earlier_version_is_made_anew_from_the_log(tmp_path: Path) -> None:
    state = tmp_path / "state"
    restore(RECORDED[0], state)
    with Storage(state) as storage:
        storage.now_ms = NOW_MS
        storage.refresh()
        digest = storage.files.digest(0, NOW_MS)
        extent = json.loads((state / "ledger" / "extent.json").read_text())
        (state / "ledger" / "extent.json").write_text(json.dumps(extent | {"schema": columns.SCHEMA - 1}))
        (state / "ledger" / "hours" / "2026-11-01.parquet").write_bytes(b"other columns")
        assert storage.files.is_outdated()
        storage.refresh()
        assert not storage.files.is_outdated()
        assert storage.files.digest(0, NOW_MS) == digest


def test_an_index_that_a_later_version_fills_anew_is_read_again_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(RECORDED[0], tmp_path / "state")
    later = ("a later version", (*schema.REINDEX, "CREATE TABLE colour (gpu TEXT PRIMARY KEY)"))
    with sqlite3.connect(tmp_path / "state" / "collector.sqlite") as db:
        before = db.execute("SELECT digest, log_index FROM reading ORDER BY 1").fetchall()
        cursors = db.execute("SELECT * FROM cursor ORDER BY 1").fetchall()
    db.close()
    monkeypatch.setattr(store_module, "MIGRATIONS", (*schema.MIGRATIONS, later))
    with Storage(tmp_path / "state") as storage:
        assert storage.store._rows("SELECT digest, log_index FROM reading ORDER BY 1") == before
        assert storage.store._rows("SELECT * FROM cursor ORDER BY 1") == cursors
        assert storage.store._rows("SELECT name FROM migration ORDER BY position DESC LIMIT 1") == [
            ("a later version",)
        ]


def spoil_index(state: Path) -> None:
    with sqlite3.connect(state / "collector.sqlite") as db:
        db.execute("INSERT INTO migration VALUES (99, 'from the future')")
    db.close()


def spoil_ledger(state: Path) -> None:
    extent = json.loads((state / "ledger" / "extent.json").read_text())
    (state / "ledger" / "extent.json").write_text(json.dumps(extent | {"schema": columns.SCHEMA + 1}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_index, "collector.sqlite: a newer version of gpuledger wrote this index (from the future;"),
        (spoil_ledger, "ledger: a newer version of gpuledger wrote this ledger (columns"),
    ],
    ids=["index", "ledger"],
)
def test_what_a_newer_version_wrote_is_refused_in_one_sentence_and_left_as_it_is(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    restore(RECORDED[0], tmp_path / "state")
    spoil(tmp_path / "state")
    before = {path: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()}
    done = run_python("-m", "gpuledger", "ledger", "rebuild", "--state-dir", str(tmp_path / "state"))
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    kept = [path for path in before if "sqlite" not in path.name]
    assert [path for path in kept if path.read_bytes() != before[path]] == []


def test_nothing_recorded_has_a_private_key_in_it() -> None:
    assert [path for path in STORES.rglob("*") if path.name == "log.key" or b"PRIVATE" in read(path)] == []


def read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_a_report_reads_no_ledger_of_a_newer_version(tmp_path: Path) -> None:
    restore(RECORDED[0], tmp_path / "state")
    spoil_ledger(tmp_path / "state")
    with pytest.raises(StorageError, match="newer version"):
        open_reader(tmp_path / "state").extent()
