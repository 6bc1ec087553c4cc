# SPDX-License-Identifier: Apache-2.0
"""A copy of a state directory whose files were copied one after the other while a collector wrote: made whole again.

The log goes back to the newest batch that all of its files have, which was a published state of it: the same entries,
the same tree, and the checkpoint that was signed then, byte for byte. So nothing is forked; if agents were shown more,
the log says so and wants a new origin. The index is read again, and the hours that are not final are made again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuledger.checkpoint import Checkpoint, sign_checkpoint
from gpuledger.errors import SealError, StorageError
from gpuledger.merkle import HASH_BYTES, TILE_BYTES, TILE_WIDTH, Frontier, fold_hashes, hash_leaf
from gpuledger.sealing import SigningKey, load_or_create_key, open_envelope
from gpuledger_collector.closing import LENGTH_BYTES, closing_of, digest_beside
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.entries import OriginEntry, decode_own
from gpuledger_collector.identity import KEY, LOG
from gpuledger_collector.ledger_files import DIRECTORY as LEDGER
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.log import refuse_old_form
from gpuledger_collector.store import FILE_NAME, Store
from gpuledger_collector.tiles import CHECKPOINT, ENTRIES, WORKLOADS, LogReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Up to how many entries the log reaches now, and what its checkpoint said before."""

    size: int
    said: int
    is_index_lost: bool
    """Names in the clear were in it; agents hand them over again with what they still hold."""


def restore(config: CollectorConfig) -> Restored:
    """Make a copied state directory one that a collector opens; the collector must not be running.

    Raises StorageError where the log has no whole batch, or its key is missing.
    """
    directory = config.state_dir / LOG
    refuse_old_form(directory)
    if not (config.state_dir / KEY).exists():
        raise StorageError(f"{config.state_dir / KEY}: the log's key is missing: it belongs to every copy")
    key = load_or_create_key(config.state_dir / KEY)
    log = LogReader(directory)
    found = log.checkpoint()
    whole = _newest_whole(log)
    if whole.public_key != key.public_bytes:
        raise StorageError(f"{config.state_dir / KEY}: is not the key of {whole.checkpoint.origin}: put that one back")
    _write_tiles(log, whole.checkpoint)
    _put_checkpoint(directory, whole.checkpoint, key)
    is_index_lost = _forget_index(config.state_dir)
    with Store(config.state_dir) as store:
        LedgerFiles(config.state_dir / LEDGER, store).clear(store.retained.final_ms() or 0)
        store.drop_derived(cursors=True)
    return Restored(size=whole.checkpoint.size, said=0 if found is None else found.size, is_index_lost=is_index_lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    checkpoint: Checkpoint
    public_key: bytes


def _newest_whole(log: LogReader) -> _Whole:
    """Return the newest batch that is there whole, entries and what lies beside them, and the key that closed it."""
    frontier, public_key, origin, beside = Frontier(), b"", "", list[bytes]()
    is_torn, found = False, None
    for data, record, leaf in _entries(log):
        if data == b"":
            is_torn = True  # It was pruned: only its hash is left.
        elif (clock := closing_of(data, public_key) if public_key else None) is not None:
            fits = (clock.size, clock.root) == (frontier.size, frontier.root().hex())
            if not fits or not (is_torn or clock.beside == digest_beside(beside)):
                break
        elif b"gpuledger.origin." in data and (entry := _origin_of(data)) is not None:
            public_key, origin = entry.public_key, entry.origin
        frontier.append(leaf)
        beside.append(record)
        if data != b"" and public_key and closing_of(data, public_key) is not None:
            found = _Whole(
                checkpoint=Checkpoint(origin=origin, size=frontier.size, root=frontier.root()), public_key=public_key
            )
            beside, is_torn = [], False
    if found is None:
        raise StorageError(f"{log.path}: no whole batch is there: this copy cannot be restored")
    return found


def _origin_of(data: bytes) -> OriginEntry | None:
    try:
        entry = decode_own(open_envelope(data))
    except (SealError, ValueError, KeyError, TypeError):
        return None
    return entry if isinstance(entry, OriginEntry) else None


def _entries(log: LogReader) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield entries as far as they are there: (data, what lies beside it, leaf hash); no data for those pruned."""
    for number in itertools.count():
        try:
            bundle, beside = (_bytes(log, folder, number) for folder in (ENTRIES, WORKLOADS))
            hashes = log.hashes(0, number, TILE_WIDTH) if log.is_pruned(ENTRIES, number) else b""
        except (OSError, StorageError):
            return
        places = [0, 0]
        for position in range(TILE_WIDTH):
            records = [_record_at(data, place) for data, place in zip((bundle, beside), places, strict=True)]
            data, record = records
            if data is None or record is None or (data == b"" and not hashes):
                return
            leaf = hash_leaf(data) if data else hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES]
            yield data, record, leaf
            places = [place + LENGTH_BYTES + len(one) for place, one in zip(places, (data, record), strict=True)]


def _bytes(log: LogReader, folder: str, number: int) -> bytes:
    path = log.pruned_file(folder, number) if log.is_pruned(folder, number) else log.file(folder, number)
    return path.read_bytes()


def _record_at(data: bytes, place: int) -> bytes | None:
    end = place + LENGTH_BYTES + int.from_bytes(data[place : place + LENGTH_BYTES], "big")
    return data[place + LENGTH_BYTES : end] if place + LENGTH_BYTES <= len(data) and end <= len(data) else None


def _write_tiles(log: LogReader, checkpoint: Checkpoint) -> None:
    """Write every tile that the tree of the checkpoint has, and that the copy does not have as it must be."""
    levels: dict[int, tuple[int, bytes]] = {}

    def push(level: int, hashes: bytes) -> None:
        number, data = levels.get(level, (0, b""))
        data += hashes
        if len(data) == TILE_BYTES:
            _put_tile(log, level, number, data)
            levels[level] = number + 1, b""
            push(level + 1, fold_hashes(data))
        else:
            levels[level] = number, data

    for _, _, leaf in itertools.islice(_entries(log), checkpoint.size):
        push(0, leaf)
    for level, (number, data) in levels.items():
        if data:
            _put_tile(log, level, number, data)


def _put_tile(log: LogReader, level: int, number: int, data: bytes) -> None:
    path = log.file(f"tile/{level}", number)
    try:
        if path.exists() and path.read_bytes()[: len(data)] == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be written: {exc.strerror}") from exc


def _put_checkpoint(directory: Path, checkpoint: Checkpoint, key: SigningKey) -> None:
    # Ed25519 signs the same the same way: this is the note that was published then.
    try:
        _replace(directory / CHECKPOINT, sign_checkpoint(checkpoint, key).encode("utf-8"))
    except OSError as exc:
        raise StorageError(f"{directory / CHECKPOINT}: cannot be written: {exc.strerror}") from exc


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def _forget_index(state_dir: Path) -> bool:
    """Put an index aside that was copied in two moments and is none; return whether it was."""
    try:
        with Store(state_dir) as store:
            if store.is_sound():
                return False
    except StorageError as exc:
        if "newer version" in str(exc):
            raise
    for path in sorted(state_dir.glob(f"{FILE_NAME}*")):
        with contextlib.suppress(OSError):
            path.rename(path.with_name(path.name.replace(FILE_NAME, f"damaged-{FILE_NAME}")))
    return True
