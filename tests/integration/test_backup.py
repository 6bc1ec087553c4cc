# SPDX-License-Identifier: Apache-2.0
"""A backup is a copy of files, in any order, while the collector writes: it is restored, and nothing forks."""

import shutil
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from gpuledger.cells import CELL_MS
from gpuledger.checkpoint import note_of, read_checkpoint
from gpuledger.errors import StorageError
from gpuledger.states import State
from gpuledger_collector.check import check_log
from gpuledger_collector.entries import ReadingEntry
from gpuledger_collector.restoration import restore
from gpuledger_collector.succession import begin_new_origin
from gpuledger_collector.tiles import LogReader
from tests.fakes.programs import run_python
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

pytestmark = pytest.mark.slow
CELLS = 250
NODES = 2


def nodes() -> list[FakeNode]:
    found = [FakeNode(f"node-{number}", gpus=1) for number in range(NODES)]
    for node in found:
        for index in range(CELLS):
            node.seal(MONDAY_MS + index * CELL_MS, states_ms={State.BUSY: 1_000 * index})
    return found


def copy_in_any_order(source: Path, target: Path, chance: Random, pause: threading.Event) -> None:
    """Copy every file as it is at that moment, in an order of its own, with pauses in which the collector writes."""
    paths = [path for path in source.rglob("*") if path.is_file()]
    chance.shuffle(paths)
    for path in paths:
        beside = target / path.relative_to(source)
        beside.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(path, beside)
        except FileNotFoundError:
            continue  # It was replaced by another meanwhile.
        pause.wait(chance.choice((0, 0.005, 0.02)))


def write_on(storage: Storage, found: list[FakeNode], stop: threading.Event) -> None:
    for first in range(0, CELLS, 2):
        if stop.is_set():
            return
        for node in found:
            storage.take(node, node.sealed[first : first + 2], place=("fra1", "train", "h100"))
        if first % 20 == 0:
            storage.refresh()


def take_backup(folder: Path, seed: int, found: list[FakeNode]) -> tuple[Path, str]:
    """Copy while all readings are taken in; returns the copy, and what agents were shown in the end."""
    chance, stop, copy = Random(seed), threading.Event(), folder / "copy"
    with Storage(folder / "state") as storage:
        storage.now_ms = MONDAY_MS + CELLS * CELL_MS
        storage.take(found[0], found[0].sealed[: 50 * (seed % 3)])
        writer = threading.Thread(target=write_on, args=(storage, found, stop))
        writer.start()
        threading.Event().wait(chance.uniform(0, 0.3))
        copy_in_any_order(folder / "state", copy, chance, threading.Event())
        stop.set()
        writer.join()
        storage.take(found[0], found[0].sealed)
        line = storage.catalog.log.line
        assert line is not None
    (copy / "log.key").chmod(0o600)
    return copy, line


def covered(copy: Path, found: list[FakeNode]) -> list[str]:
    """The digests of the readings in a log."""
    with Storage(copy) as storage:
        return [entry.digest for entry in storage.logged() if isinstance(entry, ReadingEntry)]


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_in_any_order_gives_the_ledger_of_what_it_covers_and_never_a_fork(tmp_path: Path, seed: int) -> None:
    found = nodes()
    copy, shown = take_backup(tmp_path, seed, found)
    with Storage(tmp_path / "state") as storage:
        original = LogReader(storage.catalog.log.path)
        done = run_python("-m", "gpuledger", "log", "restore", "--state-dir", str(copy)) if seed == 0 else None
        assert done is None or done.returncode == 0, done
        config = replace(storage.config, state_dir=copy)
        restored = restore(config)
        # What it is now, the original was: the same entries, the same tree.
        assert LogReader(copy / "log").root_at(restored.size) == original.root_at(restored.size)
    there = set(covered(copy, found))
    with Storage(copy) as storage, Storage(tmp_path / "fresh") as fresh:
        assert check_log(LogReader(copy / "log")).failures == []
        for one in (storage, fresh):
            one.now_ms = MONDAY_MS + CELLS * CELL_MS
        for node in found:
            fresh.take(
                node, [sealed for sealed in node.sealed if sealed.digest in there], place=("fra1", "train", "h100")
            )
        for one in (storage, fresh):
            one.refresh()
        assert storage.files.digest(0, 2**62) == fresh.files.digest(0, 2**62)
        size = storage.catalog.log.size
        if size < read_checkpoint(note_of(shown)).size:
            # Agents were shown more than the copy has: it signs nothing that would contradict that.
            with pytest.raises(StorageError, match="an older copy was put back"):
                storage.intake.accept_batch(found[0].answer(checkpoints=[shown]), now_ms=storage.now_ms)
            assert storage.catalog.log.size == size
    begin_new_origin(config, MONDAY_MS + CELLS * CELL_MS)
    with Storage(copy) as storage, Storage(tmp_path / "state") as first:
        for one in (storage, first):
            one.now_ms = MONDAY_MS + CELLS * CELL_MS
            for node in found:
                one.take(node, place=("fra1", "train", "h100"))
            one.refresh()
        checked = check_log(storage.catalog.log)
        assert (checked.failures, checked.repeated) == ([], 0)
        assert storage.files.digest(0, 2**62) == first.files.digest(0, 2**62)


def test_an_index_that_was_copied_in_two_moments_is_put_aside(tmp_path: Path) -> None:
    found = nodes()
    with Storage(tmp_path) as storage:
        storage.take(found[0], now_ms=MONDAY_MS + CELLS * CELL_MS)
        config = storage.config
    path = tmp_path / "collector.sqlite"
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 6] = bytes(4096 * 3)
    path.write_bytes(data)
    assert restore(config).is_index_lost
    assert (tmp_path / "damaged-collector.sqlite").exists()
    with Storage(tmp_path) as storage:
        assert storage.store.count_readings() == CELLS
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    db.close()


def test_a_copy_without_a_key_or_a_whole_batch_is_refused_in_one_sentence(tmp_path: Path) -> None:
    found = nodes()
    with Storage(tmp_path) as storage:
        storage.take(found[0])
        config = storage.config
    key = (tmp_path / "log.key").read_bytes()
    (tmp_path / "log.key").unlink()
    with pytest.raises(StorageError, match=r"log\.key: the log's key is missing: it belongs to every copy"):
        restore(config)
    (tmp_path / "log.key").touch(mode=0o600)
    (tmp_path / "log.key").write_bytes(key)
    (tmp_path / "log" / "tile" / "entries" / "000").write_bytes(b"")
    with pytest.raises(StorageError, match="no whole batch is there"):
        restore(config)
