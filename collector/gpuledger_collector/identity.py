# SPDX-License-Identifier: Apache-2.0
"""Who signs a state directory's log: its key (log.key) and its origin, kept from the first start on."""

from __future__ import annotations

import os
from pathlib import Path

from gpuledger.checkpoint import read_checkpoint, verify_checkpoint
from gpuledger.errors import ConfigurationError, SealError, StorageError
from gpuledger.sealing import SigningKey, load_or_create_key
from gpuledger_collector.log import Identity
from gpuledger_collector.tiles import CHECKPOINT, ENTRIES, LogReader

LOG = "log"
KEY = "log.key"
NEXT_KEY = "log.key.next"
"""The key of a new origin, from before its first checkpoint to right after it."""


def default_origin(key: SigningKey, *, is_simulated: bool) -> str:
    """Return the origin of a log that was given no name: as unique as its key."""
    return f"gpuledger{'-SIMULATED' if is_simulated else ''}/{key.node_id[:16]}"


def open_identity(state_dir: Path, origin: str | None, *, is_simulated: bool) -> Identity:
    """Return who signs the log, with a new key if there is no log yet.

    Raises StorageError where the key is missing or not this log's, ConfigurationError where `origin` is another name
    than the log has.
    """
    path = state_dir / KEY
    note = LogReader(state_dir / LOG).note()
    settle_next_key(state_dir, note)
    if not path.exists() and (note is not None or (state_dir / LOG / ENTRIES).exists()):
        raise StorageError(
            f"{path}: the log's key is missing, and without it nothing can be added to the log: put it back, or begin "
            "a new origin (gpuledger log new-origin)"
        )
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"{state_dir}: cannot be used: {exc.strerror}") from exc
    key = load_or_create_key(path)
    found = origin_of(state_dir, note)
    if found is None:
        return Identity(origin=origin or default_origin(key, is_simulated=is_simulated), key=key)
    if origin is not None and origin != found:
        raise ConfigurationError(
            f"log_origin: the log in {state_dir} is {found}, and a log keeps its name; {origin} would be another log "
            "(gpuledger log new-origin)"
        )
    return Identity(origin=found, key=key)


def origin_of(state_dir: Path, note: bytes | None) -> str | None:
    """Return the origin that a published checkpoint names; None before the first."""
    if note is None:
        return None
    try:
        return read_checkpoint(note).origin
    except SealError as exc:
        raise StorageError(f"{state_dir / LOG / CHECKPOINT}: {exc}; restore it from a copy") from exc


def settle_next_key(state_dir: Path, note: bytes | None) -> None:
    """Finish or undo a change of keys that a crash broke off: the checkpoint says whether it happened."""
    waiting = state_dir / NEXT_KEY
    if not waiting.exists():
        return
    try:
        is_taken = note is not None and bool(verify_checkpoint(note, load_or_create_key(waiting).public_bytes))
    except SealError:
        is_taken = False
    if is_taken:
        take_next_key(state_dir)
    else:
        waiting.unlink()


def take_next_key(state_dir: Path) -> None:
    """Make the next key the log's."""
    (state_dir / NEXT_KEY).rename(state_dir / KEY)
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
