# SPDX-License-Identifier: Apache-2.0
"""The log, written: an append-only Merkle log in the layout of C2SP tlog-tiles; what was published never changes.

A batch is written, entries, tiles and checkpoint, and flushed; then the checkpoint takes its place, and it counts. Its
last entry, the clock entry, carries the tree that it completes under the log's key. So a start after a crash knows a
whole batch from a torn one: a whole one is published, which makes the same tree as it would have made, a torn one is
cut. Nothing is ever signed that does not continue every checkpoint signed before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from gpuledger.checkpoint import Checkpoint, check_origin, line_of, sign_checkpoint, verify_checkpoint
from gpuledger.errors import SealError, StorageError
from gpuledger.merkle import HASH_BYTES, TILE_BYTES, TILE_WIDTH, Frontier, fold_hashes, frontier_of, hash_leaf, tiles_of
from gpuledger.sealing import SigningKey
from gpuledger_collector.closing import LENGTH_BYTES, ClockEntry, closing_of, digest_beside, frame, seal_clock
from gpuledger_collector.disk import Disk
from gpuledger_collector.series import Series
from gpuledger_collector.tiles import CHECKPOINT, ENTRIES, OLD_FORM, RECORD_BYTES_MAX, WORKLOADS, LogReader

LOCK = "lock"
FLUSHES_MAX = 4
"""Files flushed at once: entries, what lies beside them, tiles, checkpoint."""

Record = tuple[bytes, bytes | None]
"""An entry, and what lies beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who signs a log: its origin and its key."""

    origin: str
    key: SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """How far somebody else knows the log."""

    size: int
    root: str
    """In hexadecimal."""


def refuse_old_form(directory: Path) -> None:
    """Raise StorageError where the directory holds a log that was written before there was a tree."""
    old = directory / OLD_FORM
    if old.exists():
        raise StorageError(
            f"{old}: a log of an earlier form, which this version does not read: begin with an empty state_dir (agents "
            "still hold journal.days of readings)"
        )


class LogInUseError(StorageError):
    """Another program writes this log."""


class LogWriter(LogReader):
    """The one process that appends. `known` is how far the index knows the log: it must be there, and be the same.

    `public_key` is the key that the log was signed with so far, where that is not the identity's.
    """

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        *,
        known: Known | None = None,
        public_key: bytes | None = None,
        disk: Disk | None = None,
    ) -> None:
        super().__init__(directory)
        self._disk = Disk() if disk is None else disk
        self._mutex = threading.Lock()
        self.identity = identity
        self._public_key = identity.key.public_bytes if public_key is None else public_key
        check_origin(identity.origin)
        self._size = 0
        self._note = b""
        self._frontier = Frontier()
        self._edges: dict[int, bytes] = {}
        """The hashes of the last tile of each level, while it is not full."""
        self._ends = 0, 0
        """Where the settled entries, and what lies beside them, end in the last bundle; as of the opening."""
        self.refusal: str | None = None
        """Why nothing is appended any more; None while all is well."""
        self._tiles: dict[int, Series] = {}
        self._lock = self._lock_out_others()
        self._threads = ThreadPoolExecutor(max_workers=FLUSHES_MAX, thread_name_prefix="flush")
        self._entries, self._workloads = (Series(directory / name, self._disk) for name in (ENTRIES, WORKLOADS))
        try:
            self._load()
            self._roll_forward()
            self._compare(known)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for series in (self._entries, self._workloads, *self._tiles.values()):
            series.close()
        self._threads.shutdown(wait=True)
        os.close(self._lock)

    @property
    def size(self) -> int:
        return self._size

    @property
    def root(self) -> bytes:
        """Return the root of the published tree."""
        return self._frontier.root()

    @property
    def line(self) -> str | None:
        """Return the published checkpoint in one line, as agents are shown it; None before the first."""
        note = self._note
        return line_of(note.decode("utf-8")) if note else None

    def note(self) -> bytes | None:
        return self._note or None

    # ------------------------------------------------------------------------------------------ appending

    def append(self, batch: Sequence[Record], at_ms: int, *, successor: Identity | None = None) -> ClockEntry:
        """Log the entries and the clock entry that closes them; return that, whose index is its `size`, once published.

        With a `successor` it closes and signs from here on. Raises StorageError where they cannot be stored; then none
        of them is, and the log is as before.
        """
        identity = self.identity if successor is None else successor
        if not all(data and max(len(data), len(beside or b"")) <= RECORD_BYTES_MAX for data, beside in batch):
            raise StorageError(f"{self.path}: an entry is empty, or has more than {RECORD_BYTES_MAX} bytes")
        with self._mutex:
            if self.refusal is not None:
                raise StorageError(self.refusal)
            frontier = self._frontier.copy()
            hashes = [hash_leaf(data) for data, _ in batch]
            for leaf in hashes:
                frontier.append(leaf)
            beside = [record or b"" for _, record in batch]
            clock = ClockEntry(
                at_ms=at_ms, size=frontier.size, root=frontier.root().hex(), beside=digest_beside(beside)
            )
            closing = seal_clock(clock, identity.key)
            hashes.append(hash_leaf(closing))
            frontier.append(hashes[-1])
            with self._all_or_nothing():
                self._entries.write([frame(data) for data, _ in batch] + [frame(closing)])
                self._workloads.write([frame(record) for record in (*beside, b"")])
                self._publish(hashes, frontier, identity)
            return clock

    def refuse(self, reason: str) -> None:
        """Append nothing from here on."""
        with self._mutex:
            self.refusal = reason

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, StorageError) as exc:
            for series in (self._entries, self._workloads, *self._tiles.values()):
                series.take_back()
            if isinstance(exc, OSError):
                raise StorageError(f"{self.path}: cannot append to the log: {exc.strerror}") from exc
            raise
        except BaseException:
            # It may have come after the checkpoint: what is published then is for the next start to find out.
            self.refusal = f"{self.path}: the last append was broken off; restart the collector"
            raise

    def _publish(self, hashes: Sequence[bytes], frontier: Frontier, identity: Identity) -> None:
        """Flush the entries that were written and the tiles brought up to them, and put the checkpoint in its place."""
        edges, touched = self._write_tiles(hashes)
        checkpoint = Checkpoint(origin=identity.origin, size=frontier.size, root=frontier.root())
        note = sign_checkpoint(checkpoint, identity.key).encode("utf-8")
        target = self.path / CHECKPOINT
        beside = target.with_suffix(".new")
        file = self._disk.open(beside)
        try:
            self._disk.truncate(file, 0)
            if self._disk.write(file, note, 0) != len(note):
                raise OSError(0, "the file system takes no more")
            written = (self._entries, self._workloads, *touched)
            self._flush([*(series.sync for series in written), lambda: self._disk.sync(file)])
        finally:
            os.close(file)
        # The last step, and not flushed: if a power cut takes it back, the batch proves itself on the next start.
        self._disk.rename(beside, target)
        for series in (self._entries, self._workloads, *self._tiles.values()):
            series.settle()
        self._edges, self._frontier, self.identity = edges, frontier, identity
        self._note, self._size = note, frontier.size

    def _write_tiles(self, hashes: Sequence[bytes]) -> tuple[dict[int, bytes], list[Series]]:
        """Write the hashes of new leaves and what they complete; return the tiles not full then, and those written."""
        edges, touched = dict(self._edges), []
        level = 0
        new = list(hashes)
        while new:
            if level not in self._tiles:
                self._tiles[level] = Series(self.path / f"tile/{level}", self._disk)
            self._tiles[level].write(new)
            touched.append(self._tiles[level])
            data = edges.get(level, b"") + b"".join(new)
            whole = len(data) // TILE_BYTES
            edges[level] = data[whole * TILE_BYTES :]
            new = [fold_hashes(data[tile * TILE_BYTES : (tile + 1) * TILE_BYTES]) for tile in range(whole)]
            level += 1
        return edges, touched

    def _flush(self, steps: Sequence[Callable[[], None]]) -> None:
        """Do them at once, as a file system flushes several files in the time of one; raise what any of them raised."""
        done = [self._threads.submit(step) for step in steps]
        wait(done)
        for one in done:
            one.result()

    # ------------------------------------------------------------------------------------------ opening

    def _lock_out_others(self) -> int:
        refuse_old_form(self.path)
        lock = self.path / LOCK
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._disk.sync_directory(self.path.parent)
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as exc:
            raise StorageError(f"{lock}: cannot open the log: {exc.strerror}") from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(file)
            raise LogInUseError(f"{lock}: another collector is writing this log; one state_dir serves one") from exc
        return file

    def _load(self) -> None:
        """Take up the tree of the checkpoint; its root is computed again from the tiles."""
        note = super().note()
        if note is None:
            return
        path = self.path / CHECKPOINT
        try:
            found = verify_checkpoint(note, self._public_key)
        except SealError as exc:
            raise StorageError(f"{path}: {exc}: the checkpoint or the log's key is not this log's") from exc
        if found.origin != self.identity.origin:
            raise StorageError(f"{path}: the log is {found.origin}, and {self.identity.origin} was expected")
        frontier = frontier_of(found.size, self.node)
        if frontier.root() != found.root:
            raise StorageError(
                f"{path}: the tiles do not have the root that was signed at {found.size} entries: restore the log's "
                "files from one and the same copy"
            )
        self._note, self._size, self._frontier = note, found.size, frontier
        for level, count in tiles_of(found.size):
            number, width = divmod(count, TILE_WIDTH)
            self._edges[level] = self.hashes(level, number, width) if width > 0 else b""
            self._tiles[level] = Series(self.path / f"tile/{level}", self._disk, count=count, end=width * HASH_BYTES)
        # The bundle that goes on growing, compared with the tree.
        last = list(self.iterate(found.size - found.size % TILE_WIDTH))
        entries_end = sum(LENGTH_BYTES + len(leaf.data) for leaf in last)
        workloads_end = sum(LENGTH_BYTES + len(leaf.beside or b"") for leaf in last)
        self._entries = Series(self.path / ENTRIES, self._disk, count=found.size, end=entries_end)
        self._workloads = Series(self.path / WORKLOADS, self._disk, count=found.size, end=workloads_end)
        self._ends = entries_end, workloads_end

    def _roll_forward(self) -> None:
        """Publish batches that lie whole behind the checkpoint: a crash came before theirs, or an older was put back.

        The same entries make the same tree: whoever saw its checkpoint sees no other.
        """
        frontier, hashes = self._frontier.copy(), list[bytes]()
        lengths, beside = list[tuple[int, int]](), list[bytes]()
        good: tuple[Frontier, int] | None = None
        for data, record in self._tail():
            clock = closing_of(data, self._public_key)
            if clock is not None:
                if (clock.size, clock.root, clock.beside) != (
                    frontier.size,
                    frontier.root().hex(),
                    digest_beside(beside),
                ):
                    break
                beside = []
            else:
                beside.append(record)
            hashes.append(hash_leaf(data))
            frontier.append(hashes[-1])
            lengths.append((LENGTH_BYTES + len(data), LENGTH_BYTES + len(record)))
            if clock is not None:
                good = frontier.copy(), len(hashes)
        if good is None:
            return
        with self._all_or_nothing():
            self._entries.adopt([length for length, _ in lengths[: good[1]]])
            self._workloads.adopt([length for _, length in lengths[: good[1]]])
            self._publish(hashes[: good[1]], good[0], self.identity)

    def _tail(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield what lies whole behind the checkpoint: entries, each with what is beside it."""
        index, ends = self._size, self._ends
        while True:
            paths = self.file(ENTRIES, index // TILE_WIDTH), self.file(WORKLOADS, index // TILE_WIDTH)
            if not all(path.exists() for path in paths):
                return
            bundles = [self._bytes(path, end) for path, end in zip(paths, ends, strict=True)]
            places = [0, 0]
            for _ in range(TILE_WIDTH - index % TILE_WIDTH):
                records = [_record_at(data, place) for data, place in zip(bundles, places, strict=True)]
                data, record = records
                if data is None or record is None or data == b"":
                    return
                yield data, record
                places = [place + LENGTH_BYTES + len(one) for place, one in zip(places, (data, record), strict=True)]
                index += 1
            ends = 0, 0

    def _compare(self, known: Known | None) -> None:
        if known is None:
            return
        if known.size > self._size:
            raise StorageError(
                f"{self.path}: the log ends at {self._size} entries, and the index knows {known.size}: an older copy "
                "of the log was put back; put the right one back, or begin a new origin (gpuledger log new-origin)"
            )
        if self.root_at(known.size).hex() != known.root:
            raise StorageError(
                f"{self.path}: the log is not the one that the index knows: their first {known.size} entries differ; "
                "put the right files back, or begin a new origin (gpuledger log new-origin)"
            )


def _record_at(data: bytes, place: int) -> bytes | None:
    end = place + LENGTH_BYTES + int.from_bytes(data[place : place + LENGTH_BYTES], "big")
    return data[place + LENGTH_BYTES : end] if place + LENGTH_BYTES <= len(data) and end <= len(data) else None
