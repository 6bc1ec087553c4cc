# SPDX-License-Identifier: Apache-2.0
"""The journal: what was appended is there after anything, whole and once, and nothing else is."""

from __future__ import annotations

import json
import logging
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuledger.errors import StorageError
from gpuledger.reading import GENESIS, digest
from gpuledger_agent import journal as journal_module
from gpuledger_agent.journal import Journal

CELL_MS = 300_000
BIG = 1 << 40


def record(sequence: int, envelope_bytes: int = 6) -> dict[str, Any]:
    return {"sequence": sequence, "end_ms": sequence * CELL_MS, "envelope": f"{sequence:x}".rjust(envelope_bytes, "e")}


def open_journal(directory: Path, *, age_ms: int = BIG, size: int = BIG) -> Journal:
    return Journal(directory / "journal", age_ms, size)


def filled(directory: Path, *groups: list[int]) -> Journal:
    journal = open_journal(directory)
    for group in groups:
        journal.append([record(sequence) for sequence in group])
    return journal


def sequences(journal: Journal, after: int = 0, count: int = 10_000, size: int = BIG) -> list[int]:
    return [json.loads(line)["sequence"] for line in journal.read(after, count, size)]


def files(directory: Path) -> list[Path]:
    return sorted((directory / "journal").glob("*.jsonl"))


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel's own limit: a write beyond it is cut short, the next one fails (EFBIG), as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES_MAX", 150)


def test_an_empty_journal_starts_from_genesis_and_serves_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    assert (journal.last.sequence, journal.last.end_ms, journal.last.hash) == (0, None, GENESIS)
    assert journal.first_sequence is None
    assert journal.read(0, 10, BIG) == []


def test_what_was_appended_is_there_after_opening_again(tmp_path: Path) -> None:
    before = filled(tmp_path, [1], [2, 3], [4])
    after = open_journal(tmp_path)
    assert after.last == before.last
    assert after.last.hash == digest(record(4)["envelope"].encode())
    assert sequences(after) == [1, 2, 3, 4]
    assert after.id == before.id
    assert after.size_bytes == before.size_bytes == files(tmp_path)[0].stat().st_size


def test_only_the_owner_may_read_the_journal_for_it_holds_names(tmp_path: Path) -> None:
    filled(tmp_path, [1])
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
    assert stat.S_IMODE(files(tmp_path)[0].stat().st_mode) == 0o600


def test_a_tail_cut_short_at_any_byte_costs_the_last_append_and_no_more(tmp_path: Path) -> None:
    filled(tmp_path, [1], [2])
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        journal = open_journal(tmp_path)
        assert sequences(journal) == [1]
        assert path.read_bytes() == whole[:first]
        journal.append([record(2)])
        assert path.read_bytes() == whole


def test_parts_of_a_reading_cut_short_at_any_byte_are_not_taken_for_whole(tmp_path: Path) -> None:
    journal = filled(tmp_path, [1])
    journal.append([record(number) | {"end_ms": 2 * CELL_MS} for number in (2, 3)])
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        assert open_journal(tmp_path).last.sequence == 1
    path.write_bytes(whole)
    assert open_journal(tmp_path).last.sequence == 3


def test_of_readings_written_together_those_before_the_cut_are_whole(tmp_path: Path) -> None:
    filled(tmp_path, [1, 2, 3])
    path = files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert sequences(open_journal(tmp_path)) == [1, 2]


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\0" * 50 + b"\n", b"{}\n", b"[]\n", b'{"sequence": 2}\n', b"\xff\n"])
def test_garbage_that_a_power_loss_left_at_the_end_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    filled(tmp_path, [1])
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert sequences(open_journal(tmp_path)) == [1]
    assert path.read_bytes() == whole


def test_a_line_damaged_before_the_end_is_said_and_passed_over_and_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, [1], [2], [3], [4])
    path = files(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"x" * (len(lines[1]) - 1) + b"\n"
    damaged = b"".join(lines)
    path.write_bytes(damaged)
    with caplog.at_level(logging.ERROR):
        journal = open_journal(tmp_path)
    assert "journal_damaged" in caplog.messages
    assert sequences(journal) == [1, 3, 4]
    assert sequences(journal, after=1) == [3, 4]
    assert sequences(journal, after=2) == [3, 4]
    assert path.read_bytes() == damaged


@pytest.mark.usefixtures("small_segments")
def test_a_segment_damaged_at_its_end_stays_when_readings_were_sealed_after_it(tmp_path: Path) -> None:
    filled(tmp_path, *([sequence] for sequence in range(1, 10)))
    first = files(tmp_path)[0]
    held = len(first.read_bytes().splitlines())
    damaged = first.read_bytes()[:-5]
    first.write_bytes(damaged)
    journal = open_journal(tmp_path)
    assert sequences(journal) == [*range(1, held), *range(held + 1, 10)]
    assert first.read_bytes() == damaged
    journal.append([record(10)])
    assert sequences(open_journal(tmp_path), after=8) == [9, 10]


@pytest.mark.usefixtures("small_segments")
def test_segments_follow_each_other_when_one_is_full(tmp_path: Path) -> None:
    journal = filled(tmp_path, *([sequence] for sequence in range(1, 10)))
    assert len(files(tmp_path)) > 2
    assert all(path.stat().st_size <= 150 for path in files(tmp_path))
    assert sequences(journal) == sequences(open_journal(tmp_path)) == list(range(1, 10))


@pytest.mark.usefixtures("small_segments")
def test_the_oldest_segments_go_when_they_are_too_old_and_the_newest_stays(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, age_ms=5 * CELL_MS)
    for sequence in range(1, 20):
        journal.append([record(sequence)])
    kept = sequences(journal)
    assert kept[-1] == 19
    assert set(range(14, 20)) <= set(kept)
    assert kept[0] > 10
    assert journal.first_sequence == kept[0]
    assert sequences(open_journal(tmp_path, age_ms=5 * CELL_MS)) == kept
    journal.append([record(10_000)])
    assert sequences(journal)[-1] == 10_000


@pytest.mark.usefixtures("small_segments")
def test_the_oldest_segments_go_when_there_is_too_much_and_the_newest_stays(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, size=400)
    for sequence in range(1, 20):
        journal.append([record(sequence)])
        assert journal.size_bytes <= 400
    assert journal.size_bytes == sum(path.stat().st_size for path in files(tmp_path))
    assert sequences(journal)[-1] == 19
    journal.append([record(20, envelope_bytes=5_000)])
    assert sequences(journal) == [20]


@pytest.mark.usefixtures("small_segments")
def test_a_segment_that_cannot_be_deleted_stays_and_nothing_else_suffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    journal = open_journal(tmp_path, size=400)
    for sequence in range(1, 20):
        journal.append([record(sequence)])
    assert sequences(journal) == list(range(1, 20))


def test_a_journal_whose_segments_are_gone_has_another_name(tmp_path: Path) -> None:
    before = filled(tmp_path, [1])
    assert open_journal(tmp_path).id == before.id
    for path in files(tmp_path):
        path.unlink()
    after = open_journal(tmp_path)
    assert after.id != before.id
    assert after.last.sequence == 0


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"not a name\n"])
def test_a_journal_whose_name_is_damaged_gets_another(tmp_path: Path, text: bytes) -> None:
    before = filled(tmp_path, [1])
    (tmp_path / "journal" / "journal.id").write_bytes(text)
    after = open_journal(tmp_path)
    assert len(after.id) == 16
    assert after.id != before.id
    assert sequences(after) == [1]
    assert open_journal(tmp_path).id == after.id


def test_pages_end_at_the_count_or_at_the_bytes_but_hold_one_reading_at_least(tmp_path: Path) -> None:
    journal = filled(tmp_path, *([sequence] for sequence in range(1, 8)))
    line = len(journal.read(6, 1, BIG)[0]) + 1
    assert sequences(journal, after=2, count=3) == [3, 4, 5]
    assert sequences(journal, after=4, size=2 * line) == [5, 6]
    assert sequences(journal, after=4, size=2 * line - 1) == [5]
    assert sequences(journal, after=2, size=0) == [3]
    assert sequences(journal, after=6) == [7]
    assert sequences(journal, after=7) == []
    assert sequences(journal, after=2**63) == []


def test_readers_see_whole_readings_while_the_journal_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES_MAX", 500)
    journal = open_journal(tmp_path, size=4_000)
    done = threading.Event()
    wrong: list[str] = []

    def follow() -> None:
        after = 0
        while not (done.is_set() and after >= 150):
            found = sequences(journal, after=after, count=7)
            if found != sorted(set(found)) or any(sequence <= after for sequence in found):
                wrong.append(f"after {after}: {found}")
            after = found[-1] if found else after

    readers = [threading.Thread(target=follow) for _ in range(2)]
    for reader in readers:
        reader.start()
    for sequence in range(1, 151):
        journal.append([record(sequence)])
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_a_disk_that_is_full_at_any_byte_leaves_no_half_reading(tmp_path: Path) -> None:
    journal = filled(tmp_path, [1])
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    last = journal.last
    for room in range(0, 3 * len(whole), 7):
        with no_file_larger_than(len(whole) + room), pytest.raises(StorageError, match="cannot write a sealed reading"):
            journal.append([record(2), record(3), record(4)])
        assert path.read_bytes() == whole
        assert journal.last == last
        assert sequences(journal) == sequences(open_journal(tmp_path)) == [1]
    journal.append([record(2), record(3), record(4)])
    assert sequences(journal) == sequences(open_journal(tmp_path)) == [1, 2, 3, 4]


def test_a_disk_that_is_full_at_the_first_reading_of_a_segment_leaves_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for room in (0, 1, 50):
        with no_file_larger_than(room), pytest.raises(StorageError):
            journal.append([record(1)])
    assert open_journal(tmp_path).last.sequence == 0
    journal.append([record(1)])
    assert sequences(open_journal(tmp_path)) == [1]


@pytest.mark.parametrize("failing", ["fsync", "ftruncate"])
def test_a_device_that_fails_leaves_what_was_sealed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    journal = filled(tmp_path, [1])

    def fail(descriptor: int, *rest: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, failing, fail)
        with pytest.raises(StorageError, match="Input/output error"):
            journal.append([record(2, envelope_bytes=500)])
    assert sequences(journal) == [1]
    journal.append([record(2)])
    assert sequences(journal) == sequences(open_journal(tmp_path)) == [1, 2]


def test_a_journal_that_is_not_a_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("")
    with pytest.raises(StorageError, match=r"journal: cannot use the journal: File exists"):
        open_journal(tmp_path)
