# SPDX-License-Identifier: Apache-2.0
"""From spans of the meter to sealed readings in the journal, and the crash file that survives kill -9.

Finished spans wait here until they are on disk, so a full disk loses nothing while the agent runs. The open span is
written at every tick, without fsync, as an unsigned reading; the next start seals it as a reading of its own unless
the journal already holds that time, so no second is counted twice.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpuledger.errors import ReadingError, StorageError
from gpuledger.reading import PAYLOAD_TYPE, digest, encode, encode_workloads, sketch, sketch_workloads
from gpuledger.sealing import SigningKey
from gpuledger_agent.crash_file import CrashFile
from gpuledger_agent.drafts import Draft, Origin, decode_draft, make_drafts
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.nvml import Identity
from gpuledger_agent.privacy import Privacy
from gpuledger_agent.tally import Span
from gpuledger_agent.witness import Witness

_log = logging.getLogger(__name__)

SEAL_BATCH_MAX = 24
"""Spans that share one fsync after the disk was full."""
PENDING_MAX = 2016
"""Finished spans kept in memory while the disk is full: a week of cells."""


class Sealer:
    """Signs and stores; keeps the crash file. Names that may not leave the node are written nowhere."""

    def __init__(
        self,
        key: SigningKey,
        journal: Journal,
        crash_file: CrashFile,
        privacy: Privacy | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._key = key
        self._privacy = Privacy() if privacy is None else privacy
        self._witness = Witness() if witness is None else witness
        self._journal = journal
        self._crash_file = crash_file
        self._pending: deque[tuple[Draft, ...]] = deque()
        self._is_failing = False
        self._is_crash_file_failing = False
        self.sealed = 0
        self.failures = 0
        self.dropped = 0
        self.crash_file_failures = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def last_end_ms(self) -> int | None:
        """Return the end of the newest time accounted for, on disk or waiting for it; None where there is none."""
        if self._pending:
            return self._pending[-1][0].reading.end_ms
        return self._journal.last.end_ms

    def draft(
        self, span: Span, origin: Origin, identities: Mapping[str, Identity], holders: Holders
    ) -> tuple[Draft, ...]:
        """Return the unsigned reading of a span, in as many parts as it needs."""
        return make_drafts(span, self._key.node_id, origin, identities, holders, self._privacy)

    def add(self, drafts: tuple[Draft, ...]) -> None:
        """Queue a finished span for sealing."""
        if len(self._pending) >= PENDING_MAX:
            dropped = self._pending.popleft()
            self.dropped += len(dropped)
            _log.error(
                "reading_dropped", extra={"start_ms": dropped[0].reading.start_ms, "why": "disk full for too long"}
            )
        self._pending.append(drafts)

    def seal_pending(self) -> None:
        """Seal and store what is queued, in order.

        A failure is counted, and said once until it works again; what is left waits for the next tick.
        """
        while self._pending:
            batch = [self._pending[i] for i in range(min(len(self._pending), SEAL_BATCH_MAX))]
            try:
                self._seal([draft for drafts in batch for draft in drafts])
            except StorageError as exc:
                self.failures += 1
                if not self._is_failing:
                    self._is_failing = True
                    _log.error("seal_failed", extra={"why": str(exc), "pending": len(self._pending)})
                return
            for _ in batch:
                self._pending.popleft()
        if self._is_failing:
            self._is_failing = False
            _log.info("seal_recovered")

    def _seal(self, drafts: Sequence[Draft]) -> None:
        """Sign spans, all parts of each, and store them with one fsync."""
        last = self._journal.last
        sequence, previous, checkpoint = last.sequence, last.hash, self._witness.newest
        records: list[dict[str, object]] = []
        for draft in drafts:
            sequence += 1
            blob = encode_workloads(draft.workloads) if draft.workloads else None
            reading = replace(
                draft.reading,
                sequence=sequence,
                previous=previous,
                checkpoint=checkpoint,
                workloads_digest=None if blob is None else digest(blob),
            )
            envelope = self._key.seal(PAYLOAD_TYPE, encode(reading))
            previous = digest(envelope)
            records.append(
                {
                    "sequence": sequence,
                    "end_ms": reading.end_ms,
                    "envelope": envelope.decode("ascii"),
                    "workloads": None if blob is None else blob.decode("ascii"),
                    "openings": {name: list(opening) for name, opening in draft.openings.items()},
                }
            )
        self._journal.append(records)
        self.sealed += len(records)

    # ------------------------------------------------------------------------------------------ crash file

    def save_open(self, drafts: tuple[Draft, ...]) -> None:
        """Keep the open span (or nothing) for the next start to find; a failure is counted, and said once."""
        parts = [
            {
                "core": sketch(draft.reading).decode("ascii"),
                "workloads": sketch_workloads(draft.workloads).decode("ascii"),
                "openings": {name: list(opening) for name, opening in draft.openings.items()},
            }
            for draft in drafts
        ]
        try:
            self._crash_file.write(json.dumps(parts).encode("ascii") if parts else None)
        except StorageError as exc:
            self.crash_file_failures += 1
            if not self._is_crash_file_failing:
                self._is_crash_file_failing = True
                _log.error("crash_file_failed", extra={"why": str(exc)})
            return
        self._is_crash_file_failing = False

    def recover(self) -> None:
        """Seal what a killed agent left open, unless the journal already holds that time."""
        data = self._crash_file.read()
        if data is None:
            return
        try:
            drafts = tuple(decode_draft(part) for part in json.loads(data))
            reading = drafts[0].reading
        except (ReadingError, ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            _log.warning("open_span_lost", extra={"why": f"not readable: {exc}"})
            return
        last_ms = self._journal.last.end_ms
        if reading.node_id != self._key.node_id:
            _log.warning("open_span_lost", extra={"why": "it was written under another signing key"})
        elif last_ms is None or reading.start_ms >= last_ms:
            _log.info("open_span_recovered", extra={"start_ms": reading.start_ms, "end_ms": reading.end_ms})
            self.add(tuple(self._closed(draft) for draft in drafts))
            self.seal_pending()

    def _closed(self, draft: Draft) -> Draft:
        """Return what an agent with other settings left open without the names that may not leave now."""
        users = (part.user for part in draft.workloads if part.user is not None)
        allowed = self._privacy.may_leave((part.workload for part in draft.workloads), users)
        openings = {name: opening for name, opening in draft.openings.items() if name in allowed}
        return replace(draft, openings=openings)
