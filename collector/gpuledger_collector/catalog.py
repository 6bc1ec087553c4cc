# SPDX-License-Identifier: Apache-2.0
"""The log and its index, kept together: appended first, indexed after, caught up whenever the index is behind.

A crash between the two is harmless: the index takes the log's tail in on the next start, and readings that are sent
again are known by their digest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from gpuledger_collector.beside import Beside
from gpuledger_collector.entries import ClockEntry, LogEntry, accepted_of, decode_entry, encode
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.log import Kind, LogReader, LogWriter
from gpuledger_collector.store import Indexed, Store

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
        yield accepted_of(log.read(item.offset), item.digest) if known is None else known


class Catalog:
    """The writer's view: one commit at a time, whichever thread it comes from."""

    def __init__(self, log: LogWriter, store: Store, *, now_ms: int) -> None:
        self.log = log
        self.store = store
        self.recent = Recent()
        self._mutex = threading.Lock()
        self._close_open_batch(now_ms)
        self._catch_up()

    def commit(
        self,
        entries: Sequence[LogEntry],
        *,
        now_ms: int,
        findings: Sequence[Finding] = (),
        beside: Beside | None = None,
        decoded: Sequence[Accepted] = (),
    ) -> None:
        """Log the entries, closed by a clock entry, then index them and store what stands beside them.

        `decoded` are the readings among them, ready for the ledger. When it returns, the entries are on disk.
        Raises StorageError; where the log refused, nothing was stored, and where only the index failed, the next
        commit or start catches up.
        """
        closing = ClockEntry(at_ms=now_ms, findings=tuple(findings))
        batch = [*entries, closing]
        with self._mutex:
            self._catch_up()
            offsets = self.log.append([encode(entry) for entry in batch])
            self.store.index(list(zip(offsets, batch, strict=True)), self.log.end, beside)
            for accepted in decoded:
                self.recent.add(accepted)

    def reindex(self) -> None:
        """Forget the index and read it again from the whole log."""
        with self._mutex:
            self.store.drop_derived()
            self._catch_up()
            self._restore_places()

    def _catch_up(self) -> None:
        known_end = self.store.log_end()
        start = self.log.first_offset if known_end is None else known_end
        if start == self.log.end:
            return
        pending: list[tuple[int, LogEntry]] = []
        count = 0
        for frame in self.log.iterate(start):
            entry = decode_entry(frame)
            pending.append((frame.offset, entry))
            count += 1
            if isinstance(entry, ClockEntry) and len(pending) >= _ENTRIES_PER_TRANSACTION:
                self.store.index(pending, frame.end)
                pending = []
        if pending:
            self.store.index(pending, self.log.end)
        if count > 0:
            logger.info("index_caught_up", extra={"entries": count, "from_offset": start, "to_offset": self.log.end})

    def _close_open_batch(self, now_ms: int) -> None:
        """Close a batch that a crash left without its clock entry: what is whole in it counts from now on."""
        known_end = self.store.log_end()
        last = Kind.CLOCK
        for frame in self.log.iterate(self.log.first_offset if known_end is None else known_end):
            last = frame.kind
        if last is not Kind.CLOCK:
            self.log.append([encode(ClockEntry(at_ms=now_ms))])

    def _restore_places(self) -> None:
        """Learn the places of nodes again from the roster, where the store does not know them any more."""
        known = self.store.places()
        logged = {entry.node: (entry.site, entry.cluster, entry.pool) for entry in self.store.roster().entries}
        self.store.put_beside(Beside(places=logged | known))
