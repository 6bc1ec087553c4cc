# SPDX-License-Identifier: Apache-2.0
"""The journal: sealed readings on disk, append-only, fsynced one by one, served by sequence number.

Segments of JSON lines under one directory, the oldest dropped first by age and size. What a crash cut short at the end
was never served, and is cut off on opening; a line damaged before the end is left as it is, passed over and said.
`journal.id` names the journal: one that was lost begins anew under a new name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger.errors import StorageError
from gpuledger.reading import GENESIS, digest

_log = logging.getLogger(__name__)

SEGMENT_BYTES_MAX = 4 << 20
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class _Entry:
    sequence: int
    segment: Path
    offset: int
    length: int


@dataclass(slots=True)
class _Segment:
    """One file: its size in whole lines, and the newest end of a reading in it (None: it holds none)."""

    size_bytes: int = 0
    end_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The newest sealed reading: what the next one has to follow."""

    sequence: int = 0
    end_ms: int | None = None
    hash: str = GENESIS


class Journal:
    """One writer (the agent's loop), any number of readers (requests)."""

    def __init__(self, directory: Path, age_ms_max: int, bytes_max: int) -> None:
        self._directory = directory
        self._age_ms_max = age_ms_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._segments: dict[Path, _Segment] = {}
        self.last = Last()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            paths = sorted(directory.glob("*.jsonl"))
            self.id = self._load_id(is_new=not paths)
            for path in paths:
                self._scan(path, is_last=path == paths[-1])
        except OSError as exc:
            raise StorageError(f"{exc.filename or directory}: cannot use the journal: {exc.strerror}") from exc

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self._segments.values())

    @property
    def first_sequence(self) -> int | None:
        with self._lock:
            return self._entries[0].sequence if self._entries else None

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write records ("sequence", "end_ms", "envelope", ...) with one fsync; raises StorageError, keeping none.

        A record that another of the same end follows, a part of the same reading, is marked `"more": true`, so that a
        reading of which a crash cut off parts is not taken for whole.
        """
        following = [record["end_ms"] for record in records[1:]] + [None]
        marked = [
            {**record, "more": True} if record["end_ms"] == end_ms else record
            for record, end_ms in zip(records, following, strict=True)
        ]
        lines = [json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n" for record in marked]
        data = b"".join(lines)
        path = self._path_for(len(data))
        is_new = path not in self._segments
        offset = 0 if is_new else self._segments[path].size_bytes
        try:
            _write_at(path, offset, data)
            if is_new:
                _sync_directory(self._directory)
        except OSError as exc:
            raise StorageError(f"{path}: cannot write a sealed reading: {exc.strerror}") from exc
        for record, line in zip(records, lines, strict=True):
            self._take(record, path, offset, len(line))
            offset += len(line)
        self._prune()

    def read(self, after: int, count_max: int, bytes_max: int) -> list[bytes]:
        """Return the records after sequence `after`, oldest first, as JSON bytes; at least one if there is any."""
        with self._lock:
            first = bisect_right(self._entries, after, key=lambda entry: entry.sequence)
            wanted = self._entries[first : first + count_max]
        lines: list[bytes] = []
        size = 0
        for entry in wanted:
            if lines and size + entry.length > bytes_max:
                break
            try:
                with entry.segment.open("rb") as file:
                    file.seek(entry.offset)
                    lines.append(file.read(entry.length).rstrip(b"\n"))
            except FileNotFoundError:
                continue  # pruned in the meantime
            size += entry.length
        return lines

    # ------------------------------------------------------------------------------------------ files

    def _load_id(self, *, is_new: bool) -> str:
        path = self._directory / "journal.id"
        if not is_new:
            with contextlib.suppress(FileNotFoundError):
                found = path.read_bytes().decode("ascii", "replace").strip()
                if _ID.fullmatch(found):
                    return found
        name = os.urandom(8).hex()
        beside = path.with_suffix(".new")
        _write_at(beside, 0, name.encode("ascii") + b"\n")
        beside.rename(path)
        _sync_directory(self._directory)
        return name

    def _path_for(self, length: int) -> Path:
        newest = max(self._segments, default=None)
        if newest is not None and self._segments[newest].size_bytes + length <= SEGMENT_BYTES_MAX:
            return newest
        return self._directory / f"{self.last.sequence + 1:012d}.jsonl"

    def _scan(self, path: Path, *, is_last: bool) -> None:
        """Take in one segment; cut off what a crash left unfinished at the end of the last one."""
        data = path.read_bytes()
        good_bytes = 0
        group: list[tuple[dict[str, Any], int, int]] = []
        damaged = 0
        offset = 0
        while offset < len(data):
            end = data.find(b"\n", offset) + 1
            length = (end if end > 0 else len(data)) - offset
            record = _parse(data[offset : offset + length]) if end > 0 else None
            newest = group[-1][0]["sequence"] if group else self.last.sequence
            if record is None or record["sequence"] <= newest:
                damaged += 1
            else:
                group.append((record, offset, length))
                if "more" not in record:
                    for whole in group:
                        self._take(whole[0], path, whole[1], whole[2])
                    group.clear()
                    good_bytes = offset + length
                    passed_over, damaged = damaged, 0
                    if passed_over > 0:
                        _log.error("journal_damaged", extra={"file": path, "lines": passed_over})
            offset += length
        if good_bytes < len(data):
            self._cut(path, good_bytes, len(data), is_last=is_last)

    def _cut(self, path: Path, good_bytes: int, size_bytes: int, *, is_last: bool) -> None:
        if not is_last:
            # Readings were sealed after this, so it is no crash's doing: it stays as evidence.
            _log.error("journal_damaged", extra={"file": path, "bytes": size_bytes - good_bytes})
            self._segments.setdefault(path, _Segment()).size_bytes = size_bytes
            return
        _log.warning("journal_tail_cut", extra={"file": path, "offset": good_bytes, "bytes": size_bytes - good_bytes})
        with path.open("r+b") as file:
            file.truncate(good_bytes)
            os.fsync(file.fileno())
        if good_bytes == 0:
            path.unlink()

    def _take(self, record: dict[str, Any], path: Path, offset: int, length: int) -> None:
        entry = _Entry(record["sequence"], path, offset, length)
        end_ms: int = record["end_ms"]
        with self._lock:
            self._entries.append(entry)
            segment = self._segments.setdefault(path, _Segment())
            segment.size_bytes = offset + length
            segment.end_ms = end_ms
        self.last = Last(sequence=entry.sequence, end_ms=end_ms, hash=digest(record["envelope"].encode("ascii")))

    def _prune(self) -> None:
        """Drop whole segments, oldest first, while the journal is over its age or size; the newest always stays."""
        while len(self._segments) > 1:
            oldest = min(self._segments)
            # A segment that holds no reading any more is as old as the one after it.
            ends_ms = (self._segments[path].end_ms for path in sorted(self._segments))
            end_ms, last_ms = next(end_ms for end_ms in ends_ms if end_ms is not None), self.last.end_ms
            is_old = last_ms is not None and last_ms - end_ms > self._age_ms_max
            if not is_old and self.size_bytes <= self._bytes_max:
                return
            try:
                oldest.unlink(missing_ok=True)
            except OSError as exc:
                _log.warning("journal_not_pruned", extra={"file": oldest, "why": exc.strerror})
                return
            with self._lock:
                self._entries = [entry for entry in self._entries if entry.segment != oldest]
                del self._segments[oldest]


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, or None where there is none that was ever sealed."""
    try:
        record: dict[str, Any] = json.loads(line)
        record["envelope"].encode("ascii")
        is_whole = isinstance(record["sequence"], int) and isinstance(record["end_ms"], int)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return record if is_whole else None


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Make `data` the durable end of the file at `offset`; where that fails nothing stays behind `offset`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # What an earlier failure may have left; unbuffered, so that nothing is written after the failure.
        os.ftruncate(descriptor, offset)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], offset + written)
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, offset)
            raise
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
