# SPDX-License-Identifier: Apache-2.0
"""The log: nothing acknowledged is lost, nothing half-written stays, damage is named and never cut away."""

import errno
import os
import resource
import struct
import zlib
from pathlib import Path

import pytest

from gpuledger.errors import StorageError
from gpuledger_collector.log import MAGIC, MARKER, Kind, LogReader, LogWriter, encode_frame
from tests.fakes.programs import run_python

BATCH = [(Kind.READING, b"first"), (Kind.READING, b""), (Kind.CLOCK, b"third" * 1000)]


def payloads(log: LogReader) -> list[bytes]:
    return [frame.payload for frame in log.iterate()]


def log_file(directory: Path) -> Path:
    return directory / "entries.log"


def write(directory: Path, batches: int = 1) -> list[int]:
    offsets = []
    with LogWriter(directory) as log:
        for _ in range(batches):
            offsets += log.append(BATCH)
    return offsets


def test_what_was_appended_is_read_at_its_offset_and_in_order(tmp_path: Path) -> None:
    with LogWriter(tmp_path) as log:
        offsets = log.append(BATCH)
        later = log.append([(Kind.ROSTER, b"later")])
        assert [(log.read(offset).kind, log.read(offset).payload) for offset in offsets] == BATCH
        assert payloads(log) == [b"first", b"", b"third" * 1000, b"later"]
        assert [frame.offset for frame in log.iterate(later[0])] == later
        assert log.read(later[0]).end == log.end


def test_a_reader_beside_the_writer_sees_every_finished_append(tmp_path: Path) -> None:
    with LogWriter(tmp_path) as log, LogReader(tmp_path) as reader:
        assert payloads(reader) == []
        log.append(BATCH)
        assert payloads(reader) == payloads(log)


def test_a_log_is_continued_after_it_was_closed(tmp_path: Path) -> None:
    first = write(tmp_path)
    with LogWriter(tmp_path, known_end=first[1]) as log:
        log.append([(Kind.CLOCK, b"again")])
        assert payloads(log) == [b"first", b"", b"third" * 1000, b"again"]


@pytest.mark.parametrize("kept", [1, 5, 12, 13, 14, 2000])
def test_a_torn_last_entry_is_cut_on_open(tmp_path: Path, kept: int) -> None:
    offsets = write(tmp_path)
    os.truncate(log_file(tmp_path), offsets[2] + kept)
    with LogWriter(tmp_path) as log:
        assert payloads(log) == [b"first", b""]
        assert log_file(tmp_path).stat().st_size == offsets[2]
        assert log.append([(Kind.CLOCK, b"new")]) == [offsets[2]]
        assert payloads(log) == [b"first", b"", b"new"]


def test_a_last_entry_whose_checksum_is_wrong_is_cut_on_open(tmp_path: Path) -> None:
    offsets = write(tmp_path)
    with log_file(tmp_path).open("r+b") as file:
        file.seek(offsets[2] + 100)
        file.write(b"X")
    with LogWriter(tmp_path) as log:
        assert payloads(log) == [b"first", b""]


def test_a_file_that_a_power_cut_left_with_zeros_at_its_end_is_cut(tmp_path: Path) -> None:
    offsets = write(tmp_path)
    with log_file(tmp_path).open("ab") as file:
        file.write(bytes(10_000))
    with LogWriter(tmp_path) as log:
        assert len(payloads(log)) == 3
        assert log_file(tmp_path).stat().st_size == log.end > offsets[2]


@pytest.mark.parametrize("place", [0, 5, 14])
def test_damage_before_a_whole_entry_names_file_and_offset_and_is_not_cut(tmp_path: Path, place: int) -> None:
    offsets = write(tmp_path, batches=2)
    with log_file(tmp_path).open("r+b") as file:
        file.seek(offsets[3] + place)
        file.write(b"\x7f")
    size = log_file(tmp_path).stat().st_size
    with pytest.raises(StorageError, match=rf"entries\.log: damaged at offset {offsets[3]}: .* from {offsets[4]} on"):
        LogWriter(tmp_path)
    with LogReader(tmp_path) as reader, pytest.raises(StorageError, match=f"damaged at offset {offsets[3]}"):
        payloads(reader)
    assert log_file(tmp_path).stat().st_size == size


def test_reading_where_no_entry_begins_names_file_and_offset(tmp_path: Path) -> None:
    write(tmp_path)
    with LogReader(tmp_path) as reader:
        with pytest.raises(StorageError, match=r"entries\.log: damaged at offset 17"):
            reader.read(17)
        with pytest.raises(StorageError, match="damaged at offset 99999"):
            reader.read(99_999)


def test_a_payload_that_contains_a_whole_entry_is_not_mistaken_for_one(tmp_path: Path) -> None:
    assert b"\xff" in MARKER  # which no UTF-8 text has
    with LogWriter(tmp_path) as log:
        offsets = log.append([(Kind.READING, "ÿGLþ".encode())])
    os.truncate(log_file(tmp_path), log_file(tmp_path).stat().st_size - 1)
    with LogWriter(tmp_path) as log:
        assert log.end == offsets[0]


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    log_file(tmp_path).write_bytes(b"some other file, long enough")
    with pytest.raises(StorageError, match=r"entries\.log: not a log of this version"):
        LogWriter(tmp_path)


def test_an_entry_of_an_unknown_kind_is_refused_and_not_skipped(tmp_path: Path) -> None:
    write(tmp_path)
    frame = bytearray(encode_frame(Kind.CLOCK, b""))
    frame[4] = 99
    frame[9:13] = struct.pack(">I", zlib.crc32(struct.pack(">BI", 99, 0)))
    with log_file(tmp_path).open("ab") as file:
        file.write(frame)
    with pytest.raises(StorageError, match="entry of kind 99 at"):
        LogWriter(tmp_path)


def test_a_log_shorter_than_its_index_knows_is_refused(tmp_path: Path) -> None:
    offsets = write(tmp_path)
    os.truncate(log_file(tmp_path), offsets[1])
    with pytest.raises(StorageError, match=r"entries\.log: ends at \d+, and the index knows it up to"):
        LogWriter(tmp_path, known_end=offsets[2])
    log_file(tmp_path).unlink()
    with pytest.raises(StorageError, match=r"entries\.log: the log is empty, and the index knows it up to"):
        LogWriter(tmp_path, known_end=offsets[2])


def test_an_entry_over_the_limit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with LogWriter(tmp_path) as log:
        with pytest.raises(StorageError, match="at most 16777216 are allowed"):
            log.append([(Kind.CLOCK, b"ok"), (Kind.READING, bytes(17 << 20))])
        assert payloads(log) == []


def test_a_second_writer_is_told_that_another_collector_is_at_work(tmp_path: Path) -> None:
    code = "import sys, pathlib, gpuledger_collector.log as log; log.LogWriter(pathlib.Path(sys.argv[1]))"
    with LogWriter(tmp_path):
        done = run_python("-c", code, str(tmp_path))
    assert done.returncode == 1
    assert "entries.log: another collector is writing this log; one state_dir serves one" in done.stderr


class FullDisk:
    """A disk that takes `room` more bytes, then is full, as write(2) and fsync(2) tell it."""

    def __init__(self, room: int, *, fails_on_sync: bool = False) -> None:
        self.room = room
        self.fails_on_sync = fails_on_sync

    def write(self, file: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(file, data[: self.room])
        self.room -= written
        return written

    def sync(self, file: int) -> None:
        if self.fails_on_sync and self.room == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(file)


@pytest.mark.parametrize("room", [0, 1, 20, 2000])
def test_a_full_disk_leaves_the_log_as_it_was_and_says_so(tmp_path: Path, room: int) -> None:
    offsets = write(tmp_path)
    size = log_file(tmp_path).stat().st_size
    disk = FullDisk(room)
    with LogWriter(tmp_path, write=disk.write, sync=disk.sync) as log:
        with pytest.raises(StorageError, match=r"entries\.log: cannot append to the log: No space left on device"):
            log.append(BATCH)
        assert log_file(tmp_path).stat().st_size == size
        assert len(payloads(log)) == len(offsets)
        disk.room = 100_000
        log.append(BATCH)
        assert payloads(log) == [payload for _, payload in BATCH] * 2


def test_a_log_that_cannot_even_be_cut_back_takes_nothing_more(tmp_path: Path) -> None:
    disk = FullDisk(len(MAGIC))
    with LogWriter(tmp_path, write=disk.write, sync=disk.sync) as log:
        disk.fails_on_sync = True
        with pytest.raises(StorageError, match="cannot append to the log: No space left"):
            log.append(BATCH)
        disk.room, disk.fails_on_sync = 100_000, False
        with pytest.raises(StorageError, match="cannot be cut back to its last entry"):
            log.append(BATCH)


def test_a_file_that_may_not_grow_is_a_full_disk_to_the_real_log(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gpuledger_collector.log import Kind, LogWriter\n"
        "log = LogWriter(Path(sys.argv[1]))\n"
        "log.append([(Kind.READING, b'kept')])\n"
        "log.append([(Kind.READING, bytes(5000))])\n"
    )
    limit = (4096, 4096)
    done = run_python("-c", code, str(tmp_path), before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert "cannot append to the log: File too large" in done.stderr
    with LogReader(tmp_path) as log:
        assert payloads(log) == [b"kept"]
        assert log.size() == list(log.iterate())[-1].end


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/log/entries\.log: cannot open the log: Not a directory"):
        LogWriter(tmp_path / "file" / "log")
    with pytest.raises(StorageError, match=r"none/entries\.log: cannot open the log: No such file or directory"):
        LogReader(tmp_path / "none")
