# SPDX-License-Identifier: Apache-2.0
"""Once an hour: what policy takes out, and how much of the disk is used; a disk that refuses costs one turn."""

import logging
import os
from pathlib import Path

import pytest

from gpuledger.cells import DAY_MS
from gpuledger.errors import StorageError
from gpuledger_collector import upkeep as upkeep_module
from gpuledger_collector.disk_use import disk_use
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage


def put(path: Path, size_bytes: int, age_days: float, now_ms: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size_bytes))
    written_s = (now_ms - age_days * DAY_MS) / 1000
    os.utime(path, (written_s, written_s))


def test_each_part_has_its_bytes_and_what_a_day_adds_is_the_mean_of_seven(tmp_path: Path) -> None:
    now_ms = MONDAY_MS
    put(tmp_path / "log/tile/entries/000", 1 << 20, 20, now_ms)
    for day in range(7):
        put(tmp_path / f"log/tile/entries/00{day + 1}", 1 << 20, day + 0.5, now_ms)
        put(tmp_path / f"log/tile/0/00{day + 1}", 8192, day + 0.5, now_ms)
        put(tmp_path / f"log/workloads/00{day + 1}", 1 << 16, day + 0.5, now_ms)
        put(tmp_path / f"ledger/hours/{day}.parquet", 1 << 17, day + 0.5, now_ms)
    put(tmp_path / "log/pruned/workloads/000", 512, 1, now_ms)
    put(tmp_path / "collector.sqlite", 1 << 21, 0, now_ms)
    put(tmp_path / "collector.sqlite-wal", 1 << 21, 0, now_ms)
    put(tmp_path / "log/checkpoint", 200, 0, now_ms)
    found = disk_use(tmp_path, now_ms)
    assert found.part_bytes == {
        "entries": 8 << 20,
        "tiles": 7 * 8192,
        "workloads": 7 << 16,
        "pruned": 4096,
        "ledger": 7 << 17,
        "index": 4 << 20,
        "other": 4096,
    }
    assert found.day_bytes == {
        "entries": 1 << 20,
        "tiles": 8192,
        "workloads": 1 << 16,
        "ledger": 1 << 17,
        "index": (4 << 20) / 8,
    }
    assert found.free_bytes > 0


def test_in_its_first_day_nothing_is_said_about_what_a_day_adds(tmp_path: Path) -> None:
    put(tmp_path / "log/tile/entries/000", 1 << 20, 0.9, MONDAY_MS)
    assert disk_use(tmp_path, MONDAY_MS).day_bytes == {}


def test_a_turn_tells_what_the_disk_holds(storage: Storage) -> None:
    node = FakeNode()
    node.seal_cells(MONDAY_MS, 3)
    storage.take(node)
    assert storage.upkeep.figures.disk is None
    storage.upkeep.turn(storage.now_ms)
    figures = storage.upkeep.figures
    assert figures.disk is not None
    assert figures.disk.part_bytes["entries"] > 0
    assert (figures.pruned_entries, figures.final_ms) == ({}, None)


def test_a_disk_that_refuses_is_said_once_and_tried_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def refuse(state_dir: Path, now_ms: int) -> object:
        raise StorageError("disk: cannot be looked through: Input/output error")

    with monkeypatch.context() as context:
        context.setattr(upkeep_module, "disk_use", refuse)
        for _ in range(2):
            storage.upkeep.turn(storage.now_ms)
    assert [record.message for record in caplog.records].count("upkeep_failed") == 1
    storage.upkeep.turn(storage.now_ms)
    assert storage.upkeep.figures.disk is not None
