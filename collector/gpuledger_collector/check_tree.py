# SPDX-License-Identifier: Apache-2.0
"""The tree of a log proved again: every entry against its tile, every tile against the one below, the root, the key.

A file that is missing or damaged is one sentence, and the rest is checked nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpuledger.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from gpuledger.errors import SealError, StorageError
from gpuledger.merkle import HASH_BYTES, TILE_BYTES, TILE_WIDTH, Frontier, fold_hashes, hash_leaf
from gpuledger_collector.tiles import CHECKPOINT, ENTRIES, WORKLOADS, Leaf, LogReader

_NO_HASH = bytes(HASH_BYTES)


class TreeCheck:
    """Goes through a log once; `fail` is told what does not hold.

    `frontier` is the tree of the entries gone through, as the level 0 tiles have it where these are legible.
    """

    def __init__(self, log: LogReader, fail: Callable[[str], None]) -> None:
        self._log = log
        self._fail = fail
        self._levels: list[bytearray] = []
        """For each level from 1 on, the hashes of whole tiles below that are not compared yet."""
        self.frontier = Frontier()
        self.pruned_entries: set[int] = set()
        """Numbers of the bundles of which only what is no reading is left."""
        self.pruned_workloads: set[int] = set()
        """Numbers of those beside which nothing is left."""

    def entries(self, size: int) -> Iterator[Leaf]:
        """Yield the first `size` entries, damaged or not, but not those that are not there or were pruned."""
        for number in range(-(-size // TILE_WIDTH)):
            count = min(TILE_WIDTH, size - number * TILE_WIDTH)
            leaves = self._leaves(number, count)
            hashes = self._hashes(0, number, count)
            own = {leaf.index: hash_leaf(leaf.data) for leaf in leaves}
            first = number * TILE_WIDTH
            if hashes is None:
                hashes = b"".join(own.get(index, _NO_HASH) for index in range(first, first + count))
            by_index = {leaf.index: leaf for leaf in leaves}
            for position in range(count):
                index = first + position
                expected = hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES]
                if index in own and own[index] != expected:
                    path = self._log.file(ENTRIES, number)
                    self._fail(f"{path}: entry {index} does not have the hash that tile/0 has of it")
                if index in by_index:
                    yield by_index[index]
                self.frontier.append(expected)
            if count == TILE_WIDTH:
                self._climb(1, number, fold_hashes(hashes[:TILE_BYTES]))
        for level, rest in enumerate(self._levels, start=1):
            self._compare(level, len(rest) // HASH_BYTES, bytes(rest))

    def _leaves(self, number: int, count: int) -> list[Leaf]:
        try:
            data = self._log.records(ENTRIES, number, count)
        except StorageError as exc:
            self._fail(str(exc))
            return []
        try:
            beside = self._log.records(WORKLOADS, number, count)
        except StorageError as exc:
            self._fail(str(exc))
            beside = [b""] * count
        first = number * TILE_WIDTH
        if is_pruned := self._log.is_pruned(ENTRIES, number):
            self.pruned_entries.add(number)
        if self._log.is_pruned(WORKLOADS, number):
            self.pruned_workloads.add(number)
        return [
            Leaf(index=first + position, data=one, beside=other or None)
            for position, (one, other) in enumerate(zip(data, beside, strict=True))
            if one != b"" or not is_pruned
        ]

    def _climb(self, level: int, number: int, whole: bytes) -> None:
        """Compare the hash of whole tile `number` of the level below with the one that this level's tile has of it."""
        while len(self._levels) < level:
            self._levels.append(bytearray())
        self._levels[level - 1] += whole
        if len(self._levels[level - 1]) == TILE_BYTES:
            data = bytes(self._levels[level - 1])
            self._levels[level - 1].clear()
            self._compare_tile(level, number // TILE_WIDTH, data)
            self._climb(level + 1, number // TILE_WIDTH, fold_hashes(data))

    def _compare(self, level: int, count: int, expected: bytes) -> None:
        """Compare the last tile of a level, which is not full."""
        if count > 0:
            self._compare_tile(level, self.frontier.size >> 8 * (level + 1), expected)

    def _compare_tile(self, level: int, number: int, expected: bytes) -> None:
        found = self._hashes(level, number, len(expected) // HASH_BYTES)
        for place in range(0, 0 if found is None else len(expected), HASH_BYTES):
            if found is not None and found[place : place + HASH_BYTES] != expected[place : place + HASH_BYTES]:
                below = number * TILE_WIDTH + place // HASH_BYTES
                path = self._log.file(f"tile/{level}", number)
                self._fail(f"{path}: hash {place // HASH_BYTES} is not that of tile {below} of level {level - 1}")

    def _hashes(self, level: int, number: int, count: int) -> bytes | None:
        try:
            return self._log.hashes(level, number, count)
        except StorageError as exc:
            self._fail(str(exc))
            return None


def check_checkpoint(log: LogReader, tree: Frontier, keys: dict[str, bytes], fail: Callable[[str], None]) -> None:
    """Check the published checkpoint against the tree; `keys` are the log's own by origin, the last one signs."""
    path = log.path / CHECKPOINT
    note = log.note()
    if note is None:
        return
    try:
        found = read_checkpoint(note)
        if found.origin != next(reversed(keys), None):
            fail(f"{path}: its origin is {found.origin}, and the log names {next(reversed(keys), 'none')}")
            return
        verify_checkpoint(note, keys[found.origin])
    except SealError as exc:
        fail(f"{path}: {exc}")
        return
    if (found.size, found.root) != (tree.size, tree.root()):
        fail(f"{path}: the tree of its {found.size} entries does not have the root that it says")


def check_kept(log: LogReader, note: bytes, keys: dict[str, bytes], size: int) -> str | None:
    """Return why a checkpoint that somebody kept is not a beginning of the log, or None where it is."""
    try:
        found: Checkpoint = read_checkpoint(note)
        if found.origin not in keys:
            return f"the kept checkpoint is of {found.origin}, which this log never was"
        verify_checkpoint(note, keys[found.origin])
        if found.size > size:
            return f"the kept checkpoint has {found.size} entries, and the log has {size}"
        if log.root_at(found.size) != found.root:
            return f"the first {found.size} entries are not those of the kept checkpoint"
    except (SealError, StorageError) as exc:
        return f"the kept checkpoint: {exc}"
    return None
