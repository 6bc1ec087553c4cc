# SPDX-License-Identifier: Apache-2.0
"""The log's files, read: entries in bundles, the tree's hashes in tiles, and the checkpoint that says what counts.

checkpoint             the signed note; whatever lies behind its size is not published and may yet be cut
tile/entries/000, ...  256 entries each, with their lengths (C2SP tlog-tiles)
tile/0/000, ...        256 hashes each, by level
workloads/000, ...     what came beside each entry and is not in the tree: a reading's workloads, or nothing
pruned/tile/entries/000, pruned/workloads/000, ...  what is left of a file that was pruned: nothing in place of a record

The last file of each kind is still growing; the others never change.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from gpuledger.checkpoint import Checkpoint, read_checkpoint
from gpuledger.errors import SealError, StorageError
from gpuledger.merkle import (
    HASH_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    hash_leaf,
    nodes_of_tiles,
    number_path,
    root_of,
)
from gpuledger_collector.closing import LENGTH_BYTES

CHECKPOINT = "checkpoint"
ENTRIES = "tile/entries"
WORKLOADS = "workloads"
PRUNED = "pruned"
OLD_FORM = "entries.log"
RECORD_BYTES_MAX = (1 << 8 * LENGTH_BYTES) - 1
BUNDLES_KNOWN_MAX = 64
"""Bundles of which the places of entries are remembered: some 10 KB each."""


Found = TypeVar("Found")


class MissingError(StorageError):
    """A file that the log has is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """An entry of the log, and what came beside it."""

    index: int
    data: bytes
    beside: bytes | None = None


class LogReader:
    """Reads a log; safe beside a writer in this or another process, and from several threads.

    Every entry is compared with its hash in the tree whenever it is read.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.node = nodes_of_tiles(self.hashes)
        self._places: OrderedDict[Path, list[int]] = OrderedDict()
        self._places_mutex = threading.Lock()

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ checkpoint

    def note(self) -> bytes | None:
        """Return the published checkpoint; None before the first."""
        try:
            return (self.path / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"{self.path / CHECKPOINT}: cannot be read: {exc.strerror}") from exc

    def checkpoint(self) -> Checkpoint | None:
        """Return what the published checkpoint says, its signature unverified; None before the first."""
        note = self.note()
        if note is None:
            return None
        try:
            return read_checkpoint(note)
        except SealError as exc:
            raise StorageError(f"{self.path / CHECKPOINT}: {exc}; restore it from a copy") from exc

    @property
    def size(self) -> int:
        """Return how many entries are published."""
        found = self.checkpoint()
        return 0 if found is None else found.size

    def root_at(self, size: int) -> bytes:
        """Return the root of the first `size` entries, which are there; raises StorageError where tiles are not."""
        return root_of(size, self.node)

    # ------------------------------------------------------------------------------------------ entries

    def read(self, index: int) -> Leaf:
        """Return an entry; raises StorageError naming file and entry where it is not there or not what it was."""
        if not 0 <= index < self.size:
            raise StorageError(f"{self.path}: there is no entry {index}: the log has {self.size}")
        data = self._record(ENTRIES, index)
        if data == b"":
            raise StorageError(f"{self.path}: entry {index} was pruned: its hash is all that is left of it")
        number, position = divmod(index, TILE_WIDTH)
        self._check(index, data, self.hashes(0, number, position + 1)[-HASH_BYTES:])
        return Leaf(index=index, data=data, beside=self._record(WORKLOADS, index) or None)

    def iterate(self, first: int = 0) -> Iterator[Leaf]:
        """Yield the entries from `first` on, up to those published at the time of the call, without those pruned."""
        size = self.size
        for number in range(first // TILE_WIDTH, -(-size // TILE_WIDTH)):
            start = number * TILE_WIDTH
            count = min(TILE_WIDTH, size - start)
            hashes = self.hashes(0, number, count)
            pairs = zip(self.records(ENTRIES, number, count), self.records(WORKLOADS, number, count), strict=True)
            for position, (data, beside) in enumerate(pairs):
                if start + position >= first and data != b"":
                    self._check(start + position, data, hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES])
                    yield Leaf(index=start + position, data=data, beside=beside or None)

    def _check(self, index: int, data: bytes, expected: bytes) -> None:
        if hash_leaf(data) != expected:
            path = self.file(ENTRIES, index // TILE_WIDTH)
            raise StorageError(f"{path}: entry {index} is not what the tree says: the file or its tile was changed")

    # ------------------------------------------------------------------------------------------ what is served

    def tile(self, tile: Tile) -> bytes | None:
        """Return a tile or bundle as it is served; None where the published tree does not have it."""
        level = 0 if tile.level is None else tile.level
        # Not more than the checkpoint says, whatever lies in the files already.
        if (tile.index * TILE_WIDTH + tile.width) << TILE_HEIGHT * level > self.size:
            return None
        if tile.level is None:
            return self._bundle(ENTRIES, tile.index, tile.width)
        return self.hashes(level, tile.index, tile.width)

    def beside(self, number: int, width: int) -> bytes | None:
        """Return what lies beside the entries of a bundle; None where the published tree does not have it."""
        return None if number * TILE_WIDTH + width > self.size else self._bundle(WORKLOADS, number, width)

    def _bundle(self, folder: str, number: int, width: int) -> bytes | None:
        """Return the first records of a file as they lie in it; None where it was pruned."""
        path = self._path(folder, number)
        if path == self.pruned_file(folder, number):
            return None
        return self._bytes(path, 0, self._places_of(path, number, width)[width])

    # ------------------------------------------------------------------------------------------ files

    def file(self, folder: str, number: int) -> Path:
        return self.path / folder / number_path(number)

    def pruned_file(self, folder: str, number: int) -> Path:
        """Return where lies what is left of a file that was pruned."""
        return self.path / PRUNED / folder / number_path(number)

    def is_pruned(self, folder: str, number: int) -> bool:
        return self._path(folder, number) == self.pruned_file(folder, number)

    def _path(self, folder: str, number: int) -> Path:
        path, pruned = self.file(folder, number), self.pruned_file(folder, number)
        return pruned if not path.exists() and pruned.exists() else path

    def _present(self, folder: str, number: int, read: Callable[[Path], Found]) -> Found:
        """Read a file, or what is left of it, which may become so between two looks."""
        path = self._path(folder, number)
        try:
            return read(path)
        except MissingError:
            if path == self._path(folder, number):
                raise
            return read(self._path(folder, number))

    def hashes(self, level: int, number: int, width: int) -> bytes:
        """Return the first hashes of a tile, published or not."""
        return self._bytes(self.file(f"tile/{level}", number), 0, width * HASH_BYTES)

    def _record(self, folder: str, index: int) -> bytes:
        number, position = divmod(index, TILE_WIDTH)

        def read(path: Path) -> bytes:
            places = self._places_of(path, number, position + 1)
            start, end = places[position] + LENGTH_BYTES, places[position + 1]
            return self._bytes(path, start, end - start)

        return self._present(folder, number, read)

    def records(self, folder: str, number: int, count: int) -> list[bytes]:
        """Return the first `count` records of a file, published or not; empty in place of what was pruned."""

        def read(path: Path) -> list[bytes]:
            data = self._bytes(path, 0)
            places = self._walk(path, data, number, count)
            return [data[places[at] + LENGTH_BYTES : places[at + 1]] for at in range(count)]

        return self._present(folder, number, read)

    def _places_of(self, path: Path, number: int, count: int) -> list[int]:
        """Return where the records of a file begin, and where the last of them ends: at least count + 1 places."""
        with self._places_mutex:
            known = self._places.get(path)
            if known is not None and len(known) > count:
                self._places.move_to_end(path)
                return known
        wanted = min(TILE_WIDTH, max(count, self.size - number * TILE_WIDTH))
        places = self._walk(path, self._bytes(path, 0), number, wanted)
        with self._places_mutex:
            self._places[path] = places
            if len(self._places) > BUNDLES_KNOWN_MAX:
                self._places.popitem(last=False)
        return places

    def _walk(self, path: Path, data: bytes, number: int, count: int) -> list[int]:
        """Return where each of the first `count` records begins, and where the last ends."""
        places = [0]
        for position in range(count):
            place = places[-1]
            end = place + LENGTH_BYTES + int.from_bytes(data[place : place + LENGTH_BYTES], "big")
            if place + LENGTH_BYTES > len(data) or end > len(data):
                index = number * TILE_WIDTH + position
                raise StorageError(f"{path}: ends within entry {index}, and the log has more: restore it from a copy")
            places.append(end)
        return places

    def _bytes(self, path: Path, offset: int, length: int | None = None) -> bytes:
        """Return bytes of a file: up to its end, or exactly so many; raises StorageError."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                wanted = os.fstat(file).st_size - offset if length is None else length
                parts = []
                while wanted > 0 and (part := os.pread(file, wanted, offset)):
                    parts.append(part)
                    offset, wanted = offset + len(part), wanted - len(part)
            finally:
                os.close(file)
        except FileNotFoundError as exc:
            raise MissingError(f"{path}: is missing, and the log has it: restore it from a copy") from exc
        except OSError as exc:
            raise StorageError(f"{path}: cannot be read: {exc.strerror}") from exc
        if wanted > 0 and length is not None:
            raise StorageError(f"{path}: ends at {offset}, and the log has more: restore it from a copy")
        return parts[0] if len(parts) == 1 else b"".join(parts)
