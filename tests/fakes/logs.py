# SPDX-License-Identifier: Apache-2.0
"""Logs without a collector, under a key that is always the same, and disks that end the program or fail."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from gpuledger_collector.closing import ClockEntry
from gpuledger_collector.disk import Disk
from gpuledger_collector.log import Identity, Known, LogWriter
from gpuledger_collector.tiles import LogReader
from tests.fakes.readings import key_of

IDENTITY = Identity(origin="log.example/fra1", key=key_of("log"))


class HastyDisk(Disk):
    """Flushes nothing: only a power cut would know, and no test waits for one."""

    def sync(self, file: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


def open_log(directory: Path, *, known: Known | None = None, disk: Disk | None = None) -> LogWriter:
    return LogWriter(directory, IDENTITY, known=known, disk=HastyDisk() if disk is None else disk)


def some_batch(first: int, count: int) -> list[tuple[bytes, bytes | None]]:
    """Entries that are told apart by their number; every other has something beside it."""
    return [(b"entry %d" % n * (1 + n % 7), b"beside %d" % n if n % 2 else None) for n in range(first, first + count)]


def append(log: LogWriter, count: int, at_ms: int = 0) -> ClockEntry:
    return log.append(some_batch(log.size, count), at_ms)


def entries(log: LogReader) -> list[bytes]:
    """The published entries, without what lies beside them."""
    return [leaf.data for leaf in log.iterate()]


def fill(directory: Path, *counts: int) -> list[bytes]:
    """Append a batch of each size; return the root at every size."""
    with open_log(directory) as log:
        for count in counts:
            append(log, count)
        return [log.root_at(size) for size in range(log.size + 1)]


class CountingDisk(Disk):
    """Counts what is done, and before each step calls `before(number, what)`; a write may be cut to `part`."""

    def __init__(self, before: Callable[[int, str], float | None] = lambda number, what: None) -> None:
        self.steps: list[str] = []
        self._before = before
        self._mutex = threading.Lock()

    def _step(self, what: str) -> float | None:
        # Files are flushed at once, in threads.
        with self._mutex:
            self.steps.append(what)
            return self._before(len(self.steps), what)

    def create_directory(self, path: Path) -> None:
        self._step("create_directory")
        super().create_directory(path)

    def open(self, path: Path) -> int:
        self._step("open")
        return super().open(path)

    def write(self, file: int, data: bytes, offset: int) -> int:
        part = self._step("write")
        if part is not None:
            super().write(file, data[: int(len(data) * part)], offset)
            end_here()
        return super().write(file, data, offset)

    def truncate(self, file: int, size: int) -> None:
        self._step("truncate")
        super().truncate(file, size)

    def sync(self, file: int) -> None:
        self._step("sync")
        super().sync(file)

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory")
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)


def end_here() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(Disk):
    """A disk that takes `room` more bytes, then is full; `fails_on` names a step that fails instead."""

    def __init__(self, room: int = 1 << 40, *, fails_on: str | None = None) -> None:
        self.room = room
        self.fails_on = fails_on

    def _fail(self, what: str, number: int = errno.EIO) -> None:
        if self.fails_on == what:
            raise OSError(number, os.strerror(number))

    def write(self, file: int, data: bytes, offset: int) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(file, data[: self.room], offset)
        self.room -= written
        return written

    def sync(self, file: int) -> None:
        self._fail("sync")
        super().sync(file)

    def rename(self, source: Path, target: Path) -> None:
        self._fail("rename")
        super().rename(source, target)

    def truncate(self, file: int, size: int) -> None:
        self._fail("truncate")
        super().truncate(file, size)
