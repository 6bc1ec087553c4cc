# SPDX-License-Identifier: Apache-2.0
"""Merkle trees of RFC 6962, 2.1 (the same in RFC 9162), and the tiles of C2SP tlog-tiles that hold one.

Hashes are 32 bytes, SHA-256. A tree is given by its size and a NodeSource, which knows the hashes of complete subtrees:
tiles are one. Whoever checks a proof needs neither. Pure: no file is read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = TILE_WIDTH * HASH_BYTES
TILE_LEVEL_MAX = 63
EMPTY_ROOT = sha256(b"").digest()

NodeSource = Callable[[int, int], bytes]
"""(level, index) -> the hash of the complete subtree over the leaves [index << level, (index + 1) << level)."""


def hash_leaf(data: bytes) -> bytes:
    """Return the leaf hash of an entry."""
    return sha256(b"\x00" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree, enough to go on from: the hashes of its largest complete subtrees, left to right."""

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self._peaks = list(peaks)

    def append(self, leaf: bytes) -> None:
        """Add one leaf by its hash."""
        merged = leaf
        size = self.size
        while size & 1:
            merged = hash_node(self._peaks.pop(), merged)
            size >>= 1
        self._peaks.append(merged)
        self.size += 1

    def root(self) -> bytes:
        return _fold(self._peaks)

    def copy(self) -> Frontier:
        return Frontier(self.size, self._peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = hash_node(peak, root)
    return root


def frontier_of(size: int, node: NodeSource) -> Frontier:
    """Return the right edge of the tree of the first `size` leaves."""
    return Frontier(size, _peaks(0, size, node))


def root_of(size: int, node: NodeSource) -> bytes:
    """Return the root of the tree of the first `size` leaves."""
    return _fold(_peaks(0, size, node))


def _peaks(start: int, end: int, node: NodeSource) -> list[bytes]:
    """Return the largest complete subtrees of [start, end); `start` is where a subtree as large as the span begins."""
    peaks = []
    for level in range((end - start).bit_length() - 1, -1, -1):
        if (end - start) >> level & 1:
            peaks.append(node(level, start >> level))
            start += 1 << level
    return peaks


# ---------------------------------------------------------------------------------------------- proofs


def _split(size: int) -> int:
    """Return the largest power of two less than `size`, which is at least 2."""
    return int(1 << (size - 1).bit_length() - 1)


def prove_inclusion(index: int, size: int, node: NodeSource) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves, from the leaf up (RFC 6962, 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_fold(_peaks(middle, end, node)))
            end = middle
        else:
            path.append(_fold(_peaks(start, middle, node)))
            start = middle
    return path[::-1]


def prove_consistency(old_size: int, size: int, node: NodeSource) -> list[bytes]:
    """Return the proof that the first `old_size` of `size` leaves are the old tree (RFC 6962, 2.1.2)."""
    if not 0 <= old_size <= size:
        raise ValueError(f"a tree of {old_size} leaves is no prefix of one of {size}")
    if old_size in (0, size):
        return []
    path: list[bytes] = []
    start, end = 0, size
    # Down to the subtree that ends where the old tree does; beside the way lie the hashes that complete both trees.
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_fold(_peaks(middle, end, node)))
            end = middle
        else:
            path.append(_fold(_peaks(start, middle, node)))
            start = middle
    if start > 0:
        # Not the old tree itself, which the verifier has.
        path.append(_fold(_peaks(start, end, node)))
    return path[::-1]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether the leaf hash is number `index` in the tree of this size and root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size or not _are_hashes([leaf, root, *proof]):
        return False
    position, last, computed = index, size - 1, leaf
    for beside in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            computed = hash_node(beside, computed)
            while not position & 1 and position != 0:
                position, last = position >> 1, last >> 1
        else:
            computed = hash_node(computed, beside)
        position, last = position >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(old_size: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether the tree with `old_root` is the beginning of the one with `root` (RFC 9162, 2.1.4.2)."""
    if not 0 <= old_size <= size or not _are_hashes([old_root, root, *proof]):
        return False
    if old_size == size:
        return not proof and old_root == root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_computed = computed = path[0]
    for beside in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_computed = hash_node(beside, old_computed)
            computed = hash_node(beside, computed)
            while not position & 1 and position != 0:
                position, last = position >> 1, last >> 1
        else:
            computed = hash_node(computed, beside)
        position, last = position >> 1, last >> 1
    return last == 0 and old_computed == old_root and computed == root


def _are_hashes(values: Sequence[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)


# ---------------------------------------------------------------------------------------------- tiles

ENTRIES = "entries"
"""What stands for the level in the path of a bundle of entries."""

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """The first `width` hashes, or entries where `level` is None, of a tile: number `index` of its level."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Return where it is served, below the log's address."""
        level = ENTRIES if self.level is None else self.level
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{number_path(self.index)}{partial}"


def number_path(number: int) -> str:
    """Return a number in path elements of three digits, all but the last with an x: 1234067 -> x001/x234/067."""
    text = f"{number:03d}"
    text = text.zfill(-(-len(text) // 3) * 3)
    parts = [text[first : first + 3] for first in range(0, len(text), 3)]
    return "/".join([f"x{part}" for part in parts[:-1]] + parts[-1:])


def parse_tile_path(path: str) -> Tile | None:
    """Return which tile a path below the log's address names; None where it is not the one spelling of one."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    level = None if found[1] == ENTRIES else int(found[1])
    width = TILE_WIDTH if found[3] is None else int(found[3])
    tile = Tile(level=level, index=int(found[2].replace("/", "").replace("x", "")), width=width)
    is_known = (level is None or level <= TILE_LEVEL_MAX) and width <= TILE_WIDTH and tile.path == path
    return tile if is_known else None


def tiles_of(size: int) -> list[tuple[int, int]]:
    """Return for each level how many hashes the tree of `size` leaves has in its tiles: (level, count)."""
    counts = []
    level = 0
    while size > 0:
        counts.append((level, size))
        level, size = level + 1, size >> TILE_HEIGHT
    return counts


def nodes_of_tiles(read: Callable[[int, int, int], bytes]) -> NodeSource:
    """Return what tiles know of subtrees; `read(level, index, width)` gives the first `width` hashes of a tile."""

    def node(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        tile_index, position = divmod(first, TILE_WIDTH)
        count = 1 << height
        data = read(tile_level, tile_index, position + count)
        return fold_hashes(data[position * HASH_BYTES : (position + count) * HASH_BYTES])

    return node


def fold_hashes(data: bytes) -> bytes:
    """Return the hash over a power of two of adjacent hashes."""
    hashes = [data[first : first + HASH_BYTES] for first in range(0, len(data), HASH_BYTES)]
    while len(hashes) > 1:
        hashes = [hash_node(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]
