# SPDX-License-Identifier: Apache-2.0
"""Log and index together: whatever the index missed it learns from the log, and nothing counts twice."""

import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.errors import StorageError
from gpuledger.states import State
from gpuledger_collector.beside import Beside
from gpuledger_collector.closing import ClockEntry
from gpuledger_collector.entries import EnrolmentEntry, OwnEntry, ReadingEntry, RosterEntry, encode
from gpuledger_collector.identity import open_identity
from gpuledger_collector.indexed import put_meta
from gpuledger_collector.log import Known, LogWriter
from gpuledger_collector.roster import Entry
from gpuledger_collector.state import open_state
from gpuledger_collector.store import Store
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage


def fill(storage: Storage) -> FakeNode:
    node = FakeNode(gpus=2)
    node.seal_cells(MONDAY_MS, 4, {State.BUSY: 100_000})
    node.seal_cells(MONDAY_MS + 6 * CELL_MS, 2)
    storage.take(node, node.sealed[:3], target="http://node-1:9400", place=("fra1", "train", "h100"))
    storage.take(node, [node.sealed[5]])
    return node


def append(directory: Path, entries: Sequence[ReadingEntry | OwnEntry]) -> None:
    """Append to the log of a state directory behind its index's back, as after a crash between the two."""
    identity = open_identity(directory, None, is_simulated=False)
    with LogWriter(directory / "log", identity) as log:
        log.append([encode(entry, identity.key) for entry in entries], 0)


def taken(storage: Storage) -> list[ReadingEntry | OwnEntry]:
    """What intake logged, without what stands around it."""
    return [entry for entry in storage.logged() if isinstance(entry, ReadingEntry | EnrolmentEntry)]


def derived(store: Store) -> list[object]:
    return [
        store.log_known(),
        store.origin(),
        store.clock_ms(),
        store.enrolments(),
        store.claims(),
        store.last_seen(),
        store.readings(0, 2**62),
        store.findings(),
        store.roster(),
        store.dirty()[0],
    ]


def test_the_index_is_the_same_when_it_is_read_again_from_the_log(storage: Storage) -> None:
    fill(storage)
    storage.refresh()
    storage.store.clear_dirty(10**9)
    before = derived(storage.store)
    storage.catalog.reindex()
    assert derived(storage.store)[:-1] == before[:-1]
    assert storage.store.places() == {"node-1": ("fra1", "train", "h100")}


def test_an_index_that_was_lost_is_made_again_from_the_log_with_the_places_of_nodes(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        fill(storage)
        storage.refresh()
        before = derived(storage.store)
    for path in tmp_path.glob("collector.sqlite*"):
        path.unlink()
    with Storage(tmp_path) as storage:
        assert derived(storage.store)[:-1] == before[:-1]
        storage.catalog.reindex()
        assert storage.store.places() == {"node-1": ("fra1", "train", "h100")}


def test_a_crash_between_log_and_index_is_made_good_on_the_next_start(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        node = fill(storage)
    with Storage(tmp_path / "other") as other:
        other.take(node)
        append(tmp_path, taken(other))
    with Storage(tmp_path) as storage:
        log = storage.catalog.log
        assert storage.store.log_known() == Known(size=log.size, root=log.root.hex())
        assert storage.store.count_readings() == 6
        assert len(storage.store.enrolments()) == 1


def test_an_older_index_beside_a_newer_log_catches_up_and_asks_again_for_what_is_known(tmp_path: Path) -> None:
    with Storage(tmp_path / "state") as storage:
        node = fill(storage)
    older = (tmp_path / "state" / "collector.sqlite").read_bytes()
    with Storage(tmp_path / "state") as storage:
        storage.take(node)
        before = derived(storage.store)[:-1]
    (tmp_path / "state" / "collector.sqlite").write_bytes(older)
    with Storage(tmp_path / "state") as storage:
        assert derived(storage.store)[:-1] == before
        again = storage.take(node)
        assert (again.accepted, again.duplicates, again.cursor) == (0, 6, 6)
        assert storage.catalog.log.size == before[0].size  # type: ignore[attr-defined]


def test_an_index_that_belongs_to_another_log_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with Storage(tmp_path / name) as storage:
            fill(storage)
    for path in (tmp_path / "one").glob("collector.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "other" / "collector.sqlite", tmp_path / "one")
    with pytest.raises(StorageError, match="not the one that the index knows: their first 10 entries differ"):
        Storage(tmp_path / "one")


def test_a_log_that_names_itself_otherwise_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    with Storage(tmp_path):
        pass
    with Store(tmp_path) as store, store._writing() as db:
        put_meta(db, "origin", "somebody else")
    with pytest.raises(StorageError, match="the log names itself somebody else, and its checkpoint gpuledger/"):
        Storage(tmp_path)


def test_an_index_that_fails_after_the_log_took_a_batch_catches_up_by_itself(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3)
    storage.take(node, node.sealed[:1])
    storage.store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StorageError, match=r"collector\.sqlite: cannot write the store"):
        storage.take(node, node.sealed[:2])
    storage.store._db.execute("PRAGMA query_only = OFF")
    again = storage.take(node)
    assert (again.cursor, storage.store.count_readings()) == (3, 3)
    indexes = [item.index for item in storage.store.readings(0, 2**62)]
    assert len(set(indexes)) == 3


def test_a_transaction_that_fails_leaves_nothing_of_itself(storage: Storage) -> None:
    fill(storage)
    before = derived(storage.store)
    sealed = FakeNode(name="node-9").seal(MONDAY_MS)
    entry = RosterEntry(is_declared=True, added=(Entry(gpu="GPU-x", node="n", from_ms=MONDAY_MS),))
    broken = replace(entry, added=(replace(entry.added[0], gpu=None),))  # type: ignore[arg-type]
    clock = ClockEntry(at_ms=1, size=18, root="", beside="")
    with pytest.raises(StorageError, match="NOT NULL constraint failed"):
        storage.store.index([(16, entry), (17, broken), (18, clock)], Known(size=19, root=""))
    assert derived(storage.store) == before
    assert not storage.store.is_known(sealed.digest)


def test_the_same_reading_logged_twice_is_indexed_once(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        fill(storage)
        again = taken(storage)
    append(tmp_path, again)
    with Storage(tmp_path) as storage:
        assert storage.store.count_readings() == 4


def test_a_mark_made_while_the_ledger_was_refreshed_is_not_cleared_with_the_older_ones(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 2)
    storage.take(node, node.sealed[:1])
    _, mark = storage.store.dirty()
    storage.take(node, [node.seal(MONDAY_MS, span_ms=1000)])
    storage.store.clear_dirty(mark)
    assert storage.store.dirty()[0] == [(MONDAY_MS, MONDAY_MS + CELL_MS)]


def test_readings_of_one_name_are_found_wherever_they_are(storage: Storage) -> None:
    node = FakeNode()
    first = node.seal(MONDAY_MS)
    second = node.seal(MONDAY_MS + 2 * HOUR_MS, sequence=1)
    storage.now_ms = MONDAY_MS + 3 * HOUR_MS
    storage.take(node, [first])
    storage.store.clear_dirty(10**9)
    storage.take(node, [second])
    assert storage.store.dirty()[0] == [(cell, cell + CELL_MS) for cell in (MONDAY_MS, MONDAY_MS + 2 * HOUR_MS)]
    found = storage.store.readings(MONDAY_MS, MONDAY_MS + HOUR_MS)
    assert {item.digest for item in found} == {first.digest, second.digest}


def test_names_are_found_by_digest_only(storage: Storage) -> None:
    storage.store.put_besides([Beside(openings={"ab" * 32: "alice"})])
    assert storage.store.names(["ab" * 32, "cd" * 32, "rest", "z" * 64]) == {"ab" * 32: "alice"}
    assert storage.store.names([]) == {}
    assert len(storage.store.names([f"{number:064x}" for number in range(2000)])) == 0


def test_counters_and_their_end_move_together(storage: Storage) -> None:
    assert storage.store.settled() == (None, {})
    storage.store.add_settled(MONDAY_MS, {("fra1", "H100", "busy"): 5})
    storage.store.add_settled(MONDAY_MS + CELL_MS, {("fra1", "H100", "busy"): 2, ("fra1", "H100", "free"): 1})
    storage.reopen()
    assert storage.store.settled() == (
        MONDAY_MS + CELL_MS,
        {("fra1", "H100", "busy"): 7, ("fra1", "H100", "free"): 1},
    )


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "collector.sqlite") as db:
        db.execute("INSERT INTO migration VALUES (99, 'from the future')")
    db.close()
    for read_only in (False, True):
        with pytest.raises(StorageError, match=r"a newer version of gpuledger wrote this index \(from the future"):
            Store(tmp_path, read_only=read_only)


def test_a_store_that_is_not_there_or_no_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"collector\.sqlite: cannot open the store"):
        Store(tmp_path, read_only=True)
    (tmp_path / "collector.sqlite").write_text("this is not a database, and long enough to be seen as none" * 9)
    with pytest.raises(StorageError, match=r"collector\.sqlite: cannot open the store: file is not a database"):
        Store(tmp_path)


def test_a_second_collector_on_the_same_state_directory_is_refused_in_one_sentence(storage: Storage) -> None:
    with (
        pytest.raises(StorageError, match="log/lock: another collector is writing this log"),
        open_state(storage.config, storage.now_ms),
    ):
        pass
    assert storage.take(FakeNode(), []).cursor == 0


def test_a_reader_sees_names_and_findings_while_the_collector_writes(storage: Storage) -> None:
    fill(storage)
    with Store(storage.directory, read_only=True) as reader:
        assert reader.findings() == storage.store.findings() != []
        with pytest.raises(StorageError, match="cannot write the store"):
            reader.put_besides([Beside(openings={"ab" * 32: "x"})])
