# SPDX-License-Identifier: Apache-2.0
"""The log: an append-only file of framed entries behind its door; what was written once is never changed.

Layout of `entries.log`: the 16 bytes of MAGIC, then frames. A frame is MARKER (4), kind (1), payload length (4, big
endian), CRC-32 of kind, length and payload (4), payload. The marker holds bytes that no UTF-8 text has, so that the
search for whole frames behind a damaged one never mistakes a payload for a frame.

One process appends (flock); any number read. An append is one fsync; until it returned, nothing of it counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from gpuledger.errors import StorageError

MAGIC = b"gpuledger-log 1\n"
MARKER = b"\xffGL\xfe"
PAYLOAD_BYTES_MAX = 16 << 20
FILE_NAME = "entries.log"
_HEAD = struct.Struct(">4sBII")
_SUMMED = struct.Struct(">BI")
_CHUNK_BYTES = 4 << 20


class Kind(IntEnum):
    """What a frame holds; the number is on disk and never reused."""

    READING = 1
    ENROLMENT = 2
    ROSTER = 3
    DECLARATION = 4
    CLOCK = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One entry as it lies in the log, at [offset, end)."""

    offset: int
    end: int
    kind: Kind
    payload: bytes


class _DamageError(Exception):
    """No whole frame begins at the offset; `wanted` bytes were too few, or what is there does not add up."""


def encode_frame(kind: Kind, payload: bytes) -> bytes:
    """Return the frame's bytes; raises StorageError above PAYLOAD_BYTES_MAX."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise StorageError(f"log: an entry of {len(payload)} bytes, and at most {PAYLOAD_BYTES_MAX} are allowed")
    return _HEAD.pack(MARKER, kind, len(payload), _checksum(kind, payload)) + payload


def _checksum(kind: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_SUMMED.pack(kind, len(payload))))


def _frame_at(data: bytes, position: int, base: int) -> Frame:
    """Return the frame at data[position]; `base` is the file offset of data[0]."""
    if position + _HEAD.size > len(data):
        raise _DamageError
    marker, kind, length, checksum = _HEAD.unpack_from(data, position)
    start = position + _HEAD.size
    if marker != MARKER or length > PAYLOAD_BYTES_MAX or start + length > len(data):
        raise _DamageError
    payload = data[start : start + length]
    if _checksum(kind, payload) != checksum:
        raise _DamageError
    try:
        named = Kind(kind)
    except ValueError as exc:
        raise StorageError(f"log: entry of kind {kind} at {base + position} is not known to this version") from exc
    return Frame(offset=base + position, end=base + start + length, kind=named, payload=payload)


class LogReader:
    """Reads frames; safe beside a writer in this or another process, and from several threads."""

    def __init__(self, directory: Path, *, writable: bool = False) -> None:
        self.path = directory / FILE_NAME
        try:
            if writable:
                directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY, 0o640)
        except OSError as exc:
            raise StorageError(f"{self.path}: cannot open the log: {exc.strerror}") from exc

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def first_offset(self) -> int:
        """Return where the first frame begins."""
        return len(MAGIC)

    def read(self, offset: int) -> Frame:
        """Return the frame that begins at `offset`; raises StorageError naming file and offset where none does."""
        head = self._pread(_HEAD.size, offset)
        length = _HEAD.unpack(head)[2] if len(head) == _HEAD.size else 0
        try:
            return _frame_at(head + self._pread(min(length, PAYLOAD_BYTES_MAX), offset + _HEAD.size), 0, offset)
        except _DamageError as exc:
            raise StorageError(f"{self.path}: damaged at offset {offset}: no whole entry begins there") from exc

    def iterate(self, from_offset: int | None = None) -> Iterator[Frame]:
        """Yield the frames from `from_offset` on, up to the last whole one at the time of the call.

        An unfinished last frame ends the iteration; damage before a whole frame is a StorageError.
        """
        self._check_magic()
        end = self._readable_end()
        base = self.first_offset if from_offset is None else from_offset
        data = b""
        position = 0
        while True:
            try:
                frame = _frame_at(data, position, base)
            except _DamageError:
                base, data, position = base + position, data[position:], 0
                more = self._pread(min(_CHUNK_BYTES, max(end - base - len(data), 0)), base + len(data))
                if more:
                    data += more
                    if len(data) < _HEAD.size + PAYLOAD_BYTES_MAX:
                        continue
                self._refuse_damage_before_a_frame(base, end)
                return
            yield frame
            position = frame.end - base

    def _refuse_damage_before_a_frame(self, offset: int, end: int) -> None:
        """Raise StorageError if a whole frame lies in (offset, end): then the damage is not a torn tail."""
        step = max(_CHUNK_BYTES, _HEAD.size + PAYLOAD_BYTES_MAX)
        base = offset + 1
        while base < end:
            data = self._pread(min(2 * step, end - base), base)
            position = data.find(MARKER)
            while 0 <= position < step:
                with contextlib.suppress(_DamageError):
                    found = _frame_at(data, position, base)
                    raise StorageError(
                        f"{self.path}: damaged at offset {offset}: the entries from {found.offset} on are whole, so "
                        "this is no torn end; restore the file from a copy"
                    )
                position = data.find(MARKER, position + 1)
            base += step

    def _check_magic(self) -> None:
        found = self._pread(len(MAGIC), 0)
        if found != MAGIC:
            raise StorageError(f"{self.path}: not a log of this version (it begins with {found!r})")

    def _readable_end(self) -> int:
        return self.size()

    def size(self) -> int:
        """Return the file's length in bytes, whole entries or not."""
        return os.fstat(self._file).st_size

    def _pread(self, length: int, offset: int) -> bytes:
        parts = []
        while length > 0:
            try:
                part = os.pread(self._file, length, offset)
            except OSError as exc:
                raise StorageError(f"{self.path}: cannot be read at offset {offset}: {exc.strerror}") from exc
            if not part:
                break
            parts.append(part)
            length -= len(part)
            offset += len(part)
        return b"".join(parts)


class LogWriter(LogReader):
    """The one process that appends.

    Opening cuts an unfinished last frame (nobody was told that it was stored). `known_end` is how far the index knows
    the log; a log that ends before that lost what was acknowledged, which is a StorageError.
    `write` and `sync` are the doors to the disk.
    """

    def __init__(
        self,
        directory: Path,
        *,
        known_end: int | None = None,
        write: Callable[[int, bytes], int] = os.write,
        sync: Callable[[int], None] = os.fsync,
    ) -> None:
        super().__init__(directory, writable=True)
        self._write = write
        self._sync = sync
        self._mutex = threading.Lock()
        self._broken: str | None = None
        self.end = 0
        try:
            self._lock_out_others()
            self.end = self._recover(known_end)
        except BaseException:
            os.close(self._file)
            raise

    def _lock_out_others(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageError(f"{self.path}: another collector is writing this log; one state_dir serves one") from exc

    def _recover(self, known_end: int | None) -> int:
        if self.size() < len(MAGIC):
            if known_end is not None and known_end > self.first_offset:
                raise StorageError(f"{self.path}: the log is empty, and the index knows it up to {known_end}")
            self._truncate(0)
            self._put(MAGIC)
            self._sync_directory()
            return len(MAGIC)
        start = self.first_offset if known_end is None else max(known_end, self.first_offset)
        if self.size() < start:
            raise StorageError(f"{self.path}: ends at {self.size()}, and the index knows it up to {known_end}")
        self.end = self.size()
        end = start
        for frame in self.iterate(start):
            end = frame.end
        self._truncate(end)
        return end

    def _readable_end(self) -> int:
        # Not the file's size: another thread may be in the middle of an append.
        return self.end

    def append(self, batch: Sequence[tuple[Kind, bytes]]) -> list[int]:
        """Write the entries and return their offsets, when they are on disk.

        Raises StorageError where they cannot be stored; then none of them is, and the file is as before.
        """
        frames = [encode_frame(kind, payload) for kind, payload in batch]
        with self._mutex:
            if self._broken is not None:
                raise StorageError(self._broken)
            offsets = []
            end = self.end
            for frame in frames:
                offsets.append(end)
                end += len(frame)
            try:
                self._put(b"".join(frames))
            except OSError as exc:
                self._take_back()
                raise StorageError(f"{self.path}: cannot append to the log: {exc.strerror}") from exc
            except BaseException:
                self._take_back()
                raise
            self.end = end
            return offsets

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._write(self._file, bytes(view)) :]
        self._sync(self._file)

    def _take_back(self) -> None:
        try:
            self._truncate(self.end)
        except OSError as exc:
            # What is behind `end` may be half an entry: appending after it would bury it.
            self._broken = f"{self.path}: cannot be cut back to its last entry: {exc.strerror}; restart the collector"

    def _truncate(self, end: int) -> None:
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)
        self._sync(self._file)

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
