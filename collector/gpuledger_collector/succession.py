# SPDX-License-Identifier: Apache-2.0
"""A new origin for a log that may not go on under its old one: it was cut or forked, or its key is lost.

The entries stay and the tree goes on; from the origin entry on another name and key sign it. Whoever trusted the old
origin sees where it ends and by whom it says to be continued. The index is made again from the log, and agents are
asked again for all that they still hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger.checkpoint import verifier_key
from gpuledger.errors import ConfigurationError, SealError, StorageError
from gpuledger.sealing import load_or_create_key, open_envelope
from gpuledger_collector.catalog import origin_entry
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.entries import OriginEntry, decode_own, encode
from gpuledger_collector.identity import LOG, NEXT_KEY, default_origin, settle_next_key, take_next_key
from gpuledger_collector.log import Identity, LogWriter, refuse_old_form
from gpuledger_collector.store import Store
from gpuledger_collector.tiles import LogReader
from gpuledger_collector.witness import AHEAD, read_ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """What was begun: the old origin and its last size, the new origin as a verifier's key."""

    previous: str
    size: int
    origin: str
    verifier_key: str


def begin_new_origin(config: CollectorConfig, now_ms: int) -> Succession:
    """Continue the log of the state directory under a new origin and key; the collector must not be running.

    Raises StorageError where the log itself does not hold, ConfigurationError where the name is one that it had.
    """
    directory = config.state_dir / LOG
    refuse_old_form(directory)
    reader = LogReader(directory)
    settle_next_key(config.state_dir, reader.note())
    former = _origins(reader)
    if not former:
        raise StorageError(f"{directory}: there is no log to continue; the collector begins one by itself")
    if config.log_origin in {entry.origin for entry in former}:
        raise ConfigurationError(f"log_origin: {config.log_origin} is what the log was; give another name or none")
    last = former[-1]
    key = load_or_create_key(config.state_dir / NEXT_KEY)
    origin = config.log_origin or default_origin(key, is_simulated=config.accept_simulated)
    successor = Identity(origin=origin, key=key)
    seen = read_ahead(directory)
    with (
        LogWriter(directory, Identity(origin=last.origin, key=key), public_key=last.public_key) as log,
        Store(config.state_dir) as store,
    ):
        size = log.size
        # First, so that no crash leaves an index that knows more than the log.
        store.drop_derived(cursors=True)
        entry = origin_entry(successor, now_ms, previous=last.origin, seen=seen)
        log.append([encode(entry, key)], now_ms, successor=successor)
        take_next_key(config.state_dir)
        (directory / AHEAD).unlink(missing_ok=True)
    return Succession(
        previous=last.origin, size=size, origin=origin, verifier_key=verifier_key(origin, key.public_bytes)
    )


def _origins(log: LogReader) -> list[OriginEntry]:
    """Return the origins that the log has had, in order."""
    found = []
    for leaf in log.iterate():
        try:
            entry = decode_own(open_envelope(leaf.data)) if b"gpuledger.origin." in leaf.data else None
        except (SealError, ValueError, KeyError, TypeError) as exc:
            raise StorageError(f"{log.path}: entry {leaf.index} is not legible: {exc}") from exc
        if isinstance(entry, OriginEntry):
            found.append(entry)
    return found
