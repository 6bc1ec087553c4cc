# SPDX-License-Identifier: Apache-2.0
"""The log and its index, kept together: appended first, indexed after, caught up whenever the index is behind.

A crash between the two is harmless: the index takes the log's tail in on the next start, and readings that are sent
again are known by their digest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from gpuledger.errors import StorageError
from gpuledger_collector.beside import Beside
from gpuledger_collector.closing import ClockEntry
from gpuledger_collector.entries import (
    LogEntry,
    OriginEntry,
    OwnEntry,
    ReadingEntry,
    accepted_of,
    decode_entry,
    encode,
    pack_findings,
)
from gpuledger_collector.indexing import Indexed
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.log import Identity, Known, LogWriter
from gpuledger_collector.store import Store
from gpuledger_collector.tiles import LogReader

logger = logging.getLogger(__name__)

_ENTRIES_PER_TRANSACTION = 5_000


RECENT_GPUS_MAX = 16_384
"""Parts of readings kept decoded: some 40 MB, and two hours of a site of eighty nodes."""


class Recent:
    """The readings accepted last, decoded: the ledger asks for most of them soon, and for the current hour's again.

    One thread adds, any may ask.
    """

    def __init__(self, gpus_max: int = RECENT_GPUS_MAX) -> None:
        self._gpus_max = gpus_max
        self._gpus = 0
        self._readings: dict[str, Accepted] = {}

    def add(self, accepted: Accepted) -> None:
        old = self._readings.pop(accepted.digest, None)
        self._gpus += len(accepted.reading.gpus) - (0 if old is None else len(old.reading.gpus))
        self._readings[accepted.digest] = accepted
        while self._gpus > self._gpus_max:
            oldest = self._readings.pop(next(iter(self._readings)))
            self._gpus -= len(oldest.reading.gpus)

    def get(self, digest: str) -> Accepted | None:
        return self._readings.get(digest)


def read_accepted(log: LogReader, indexed: Sequence[Indexed], recent: Recent) -> Iterator[Accepted]:
    """Yield the readings that lie at the given places of the log, decoded; their seals were checked at intake."""
    for item in indexed:
        known = recent.get(item.digest)
        yield accepted_of(log.read(item.index), item.digest) if known is None else known


class Catalog:
    """The writer's view: one commit at a time, whichever thread it comes from."""

    def __init__(self, log: LogWriter, store: Store, *, now_ms: int) -> None:
        self.log = log
        self.store = store
        self.recent = Recent()
        self._mutex = threading.Lock()
        self._catch_up()
        if log.size == 0:
            self.commit([origin_entry(log.identity, now_ms)], now_ms=now_ms)
        if (named := store.origin()) != log.identity.origin:
            raise StorageError(f"{log.path}: the log names itself {named}, and its checkpoint {log.identity.origin}")

    def commit(
        self,
        entries: Sequence[ReadingEntry | OwnEntry],
        *,
        now_ms: int,
        findings: Sequence[Finding] = (),
        besides: Sequence[Beside] = (),
        decoded: Sequence[Accepted] = (),
        successor: Identity | None = None,
    ) -> None:
        """Log the entries and findings, closed by a clock entry, then index them and store what stands beside them.

        `decoded` are the readings among them, ready for the ledger; with a `successor` it signs the log from here on.
        When it returns, the entries are on disk. Raises StorageError; where the log refused, nothing was stored, and
        where only the index failed, the next commit or start catches up.
        """
        batch: list[ReadingEntry | OwnEntry] = [*entries, *pack_findings(findings)]
        with self._mutex:
            self._catch_up()
            key = (self.log.identity if successor is None else successor).key
            clock = self.log.append([encode(entry, key) for entry in batch], now_ms, successor=successor)
            closed: list[LogEntry] = [*batch, clock]
            known = Known(size=clock.size + 1, root=self.log.root.hex())
            self.store.index(list(enumerate(closed, clock.size - len(batch))), known, besides)
            for accepted in decoded:
                self.recent.add(accepted)

    def reindex(self) -> None:
        """Forget the index and read it again from the whole log."""
        with self._mutex:
            self.store.drop_derived()
            self._catch_up()
            self._restore_places()

    def _catch_up(self) -> None:
        known = self.store.log_known()
        start = 0 if known is None else known.size
        size = self.log.size
        if start == size:
            return
        pending: list[tuple[int, LogEntry]] = []
        for leaf in self.log.iterate(start):
            entry = decode_entry(leaf)
            pending.append((leaf.index, entry))
            is_whole = isinstance(entry, ClockEntry)
            if is_whole and (len(pending) >= _ENTRIES_PER_TRANSACTION or leaf.index + 1 == size):
                known = Known(size=leaf.index + 1, root=self.log.root_at(leaf.index + 1).hex())
                self.store.index(pending, known)
                pending = []
        logger.info("index_caught_up", extra={"entries": size - start, "from_index": start})

    def _restore_places(self) -> None:
        """Learn the places of nodes again from the roster, where the store does not know them any more."""
        known = self.store.places()
        logged = {entry.node: (entry.site, entry.cluster, entry.pool) for entry in self.store.roster().entries}
        self.store.put_besides([Beside(places=logged | known)])


def origin_entry(
    identity: Identity, now_ms: int, *, previous: str | None = None, seen: str | None = None
) -> OriginEntry:
    """Return the entry that says who signs the log from here on."""
    return OriginEntry(
        origin=identity.origin,
        public_key=identity.key.public_bytes,
        at_ms=now_ms,
        previous=previous,
        seen=seen,
    )
