# SPDX-License-Identifier: Apache-2.0
"""The journal: sealed readings on disk, append-only, fsynced one by one, served by sequence number.

Segments of JSON lines under one directory, the oldest dropped first by age and size. A line that a crash cut short was
never served, and is cut off on opening. `journal.id` names the journal: one that was lost begins anew under a new name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger.errors import StorageError
from gpuledger.reading import GENESIS, digest

_log = logging.getLogger(__name__)

SEGMENT_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class _Entry:
    sequence: int
    segment: Path
    offset: int
    length: int
    end_ms: int


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
        self._entries: deque[_Entry] = deque()
        self._sizes: dict[Path, int] = {}
        self._ends_ms: dict[Path, int] = {}
        self.last = Last()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.id = self._load_id()
            for segment in sorted(directory.glob("*.jsonl")):
                self._scan(segment)
        except OSError as exc:
            raise StorageError(f"{exc.filename or directory}: cannot use the journal: {exc.strerror}") from exc

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes.values())

    @property
    def first_sequence(self) -> int | None:
        with self._lock:
            return self._entries[0].sequence if self._entries else None

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write records ("sequence", "end_ms", "envelope", ...) with one fsync; raises StorageError, keeping none."""
        lines = [json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n" for record in records]
        data = b"".join(lines)
        segment = self._segment_for(len(data))
        offset = self._sizes.get(segment, 0)
        is_new = segment not in self._sizes
        try:
            with segment.open("r+b" if not is_new else "w+b") as file:
                file.seek(offset)
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(offset)
                    raise
            if is_new:
                _sync_directory(self._directory)
        except OSError as exc:
            raise StorageError(f"{segment}: cannot write a sealed reading: {exc.strerror}") from exc
        for record, line in zip(records, lines, strict=True):
            self._take(record, segment, offset, len(line))
            offset += len(line)
        self._prune()

    def read(self, after: int, count_max: int, bytes_max: int) -> list[bytes]:
        """Return the records after sequence `after`, oldest first, as JSON bytes; at least one if there is any."""
        with self._lock:
            if not self._entries or after >= self._entries[-1].sequence:
                return []
            first = max(0, after - self._entries[0].sequence + 1)
            wanted = [self._entries[i] for i in range(first, min(len(self._entries), first + count_max))]
        lines: list[bytes] = []
        size = 0
        for entry in wanted:
            size += entry.length
            if lines and size > bytes_max:
                break
            try:
                with entry.segment.open("rb") as file:
                    file.seek(entry.offset)
                    lines.append(file.read(entry.length).rstrip(b"\n"))
            except FileNotFoundError:
                continue  # pruned in the meantime
        return lines

    # ------------------------------------------------------------------------------------------ files

    def _load_id(self) -> str:
        path = self._directory / "journal.id"
        has_segments = any(self._directory.glob("*.jsonl"))
        if path.exists() and has_segments:
            return path.read_text(encoding="ascii").strip()
        name = os.urandom(8).hex()
        beside = path.with_suffix(".new")
        beside.write_text(name + "\n", encoding="ascii")
        beside.rename(path)
        _sync_directory(self._directory)
        return name

    def _segment_for(self, length: int) -> Path:
        current = max(self._sizes, default=None)
        if current is not None and self._sizes[current] + length <= SEGMENT_BYTES_MAX:
            return current
        return self._directory / f"{self.last.sequence + 1:012d}.jsonl"

    def _scan(self, segment: Path) -> None:
        data = segment.read_bytes()
        offset = 0
        while offset < len(data):
            end = data.find(b"\n", offset)
            record = None
            if end >= 0:
                with contextlib.suppress(ValueError):
                    record = json.loads(data[offset:end])
            if not isinstance(record, dict):
                # Only the tail can be torn by a crash; it was never acknowledged.
                _log.warning("journal_tail_cut", extra={"file": segment, "offset": offset, "bytes": len(data) - offset})
                with segment.open("r+b") as file:
                    file.truncate(offset)
                    os.fsync(file.fileno())
                break
            self._sizes.setdefault(segment, 0)
            self._take(record, segment, offset, end + 1 - offset)
            offset = end + 1
        if offset == 0:
            segment.unlink()

    def _take(self, record: dict[str, Any], segment: Path, offset: int, length: int) -> None:
        entry = _Entry(record["sequence"], segment, offset, length, record["end_ms"])
        with self._lock:
            self._entries.append(entry)
            self._sizes[segment] = offset + length
            self._ends_ms[segment] = entry.end_ms
        self.last = Last(sequence=entry.sequence, end_ms=entry.end_ms, hash=digest(record["envelope"].encode("ascii")))

    def _prune(self) -> None:
        """Drop whole segments, oldest first, while the journal is over its age or size; the newest always stays."""
        while len(self._sizes) > 1:
            oldest = min(self._sizes)
            last_ms = self.last.end_ms
            is_old = last_ms is not None and last_ms - self._ends_ms[oldest] > self._age_ms_max
            if not is_old and self.size_bytes <= self._bytes_max:
                return
            with self._lock:
                while self._entries and self._entries[0].segment == oldest:
                    self._entries.popleft()
                del self._sizes[oldest]
                del self._ends_ms[oldest]
            oldest.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
