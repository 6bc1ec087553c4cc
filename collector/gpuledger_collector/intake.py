# SPDX-License-Identifier: Apache-2.0
"""Intake: one node's answer in, what is genuine in it logged, what is not refused, counted and named.

Nothing in an answer is trusted before its seal holds. A refused reading never costs another one; the cursor of the
journal moves past it only where it can never become valid.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gpuledger.cells import DAY_MS
from gpuledger.errors import ReadingError, SealError
from gpuledger.reading import (
    GENESIS,
    LEAF_BYTES_MAX,
    PAYLOAD_TYPE,
    WORKLOADS_BYTES_MAX,
    Reading,
    decode,
    decode_workloads,
    digest,
)
from gpuledger.sealing import digest_name, node_id_of, open_envelope, verify_envelope
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.beside import Beside, Contact, Place
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.entries import FIRST_SIGHT, EnrolmentEntry, LogEntry, ReadingEntry
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.served import Answer, Item, parse_answer

logger = logging.getLogger(__name__)

FUTURE_MS_MAX = 300_000
"""A reading may end this much after the collector's own clock."""
ENERGY_MJ_MAX = 10**14
"""No board draws this in a reading's span, whatever outage went before; bounded so that hours add up in 64 bits."""


class Refusal(StrEnum):
    """Why a reading was not logged."""

    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    TAMPERED = "tampered"
    TOO_OLD = "too_old"
    SIMULATED = "simulated"
    FUTURE = "future"

    @property
    def is_final(self) -> bool:
        """Return whether the reading can never become valid."""
        return self not in (Refusal.SIMULATED, Refusal.FUTURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one answer. `cursor` is what to ask for next (`after=`); `has_more` that the journal has more."""

    node_id: str
    node: str
    journal: str
    accepted: int
    duplicates: int
    refused: Mapping[Refusal, int]
    refused_openings: int
    cursor: int
    has_more: bool
    findings: tuple[Finding, ...] = ()


class _RefusedError(Exception):
    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class _Batch:
    """What is gathered while an answer is gone through."""

    answer: Answer
    now_ms: int
    cursor: int
    entries: list[LogEntry] = field(default_factory=list)
    decoded: list[Accepted] = field(default_factory=list)
    digests: dict[str, int] = field(default_factory=dict)
    """Digest -> sequence, of the readings accepted in this batch."""
    findings: list[Finding] = field(default_factory=list)
    openings: dict[str, str] = field(default_factory=dict)
    refused: dict[Refusal, list[int]] = field(default_factory=dict)
    refusal_texts: dict[Refusal, str] = field(default_factory=dict)
    refused_openings: int = 0
    duplicates: int = 0
    enrolled: str | None = None
    """The name under which the answer's key counts; None while it does not."""
    node: str | None = None
    """The node's name as last sealed; None before anything was accepted."""

    @property
    def node_name(self) -> str:
        return next(name for name in (self.node, self.enrolled, self.answer.node) if name is not None)


class Intake:
    """Takes in answers of agents; safe to call from several threads, one batch at a time.

    The counters run since the start: `accepted`, `duplicates`, `refused` by reason, `refused_openings`.
    """

    def __init__(self, catalog: Catalog, *, accept_simulated: bool, reading_age_days_max: int = 90) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._accept_simulated = accept_simulated
        self._age_ms_max = reading_age_days_max * DAY_MS
        self._mutex = threading.Lock()
        self.accepted = 0
        self.duplicates = 0
        self.refused: Counter[Refusal] = Counter()
        self.refused_openings = 0

    def accept_batch(
        self,
        document: object,
        *,
        now_ms: int,
        asked: tuple[str, int] | None = None,
        target: str | None = None,
        place: Place | None = None,
    ) -> BatchResult:
        """Take in one answer of /v1/readings.

        `asked` is the journal and sequence after which was asked (None: from the journal's cursor or before it),
        `target` the address that was asked, `place` (site, cluster, pool) where its group stands. When it returns, what
        was accepted is on disk. Raises ReadingError where the answer as a whole is malformed, StorageError where it
        cannot be stored; then nothing of it was taken in.
        """
        answer = parse_answer(document)
        if node_id_of(answer.public_key) != answer.node_id:
            raise ReadingError(f"answer: node_id {answer.node_id[:16]} is not the fingerprint of the public key given")
        with self._mutex:
            cursor = self._store.cursor(answer.node_id, answer.journal)
            known = self._store.enrolment(answer.node_id)
            enrolled = None if known is None else known.node
            batch = _Batch(answer=answer, now_ms=now_ms, cursor=cursor, enrolled=enrolled)
            # Agents answer a question about another journal from the start of their own.
            is_contiguous = asked is None or asked[0] != answer.journal or asked[1] <= cursor
            self._go_through(batch, is_contiguous=is_contiguous)
            self._report_refusals(batch)
            self._commit(batch, cursor, target, place)
            moved = batch.cursor > cursor or not is_contiguous
            return self._result(batch, has_more=moved and batch.cursor < answer.last_sequence)

    def cursor_of(self, target: str) -> tuple[str, int] | None:
        """Return the journal last met at a target and how far it is taken in; None where nobody ever answered."""
        contact = self._store.contact(target)
        if contact is None:
            return None
        return contact.journal, self._store.cursor(contact.node_id, contact.journal)

    # ------------------------------------------------------------------------------------------ one answer

    def _go_through(self, batch: _Batch, *, is_contiguous: bool) -> None:
        is_held = not is_contiguous
        for item in sorted(batch.answer.items, key=lambda item: item.sequence):
            refusal: Refusal | None = None
            at_ms = batch.now_ms
            known = digest(item.envelope)
            if known in batch.digests or self._store.is_known(known, with_workloads=item.workloads is not None):
                batch.duplicates += 1
            else:
                try:
                    accepted = self._verify(item, known, batch)
                except _RefusedError as exc:
                    refusal = exc.reason
                    batch.refused.setdefault(refusal, []).append(item.sequence)
                    batch.refusal_texts.setdefault(refusal, str(exc))
                else:
                    self._accept(item, accepted, batch)
                    at_ms = accepted.reading.start_ms
            if refusal is None:
                self._open_names(item, batch)
            # The cursor stops before the first reading that may yet become valid; what follows is taken in.
            is_held = is_held or (refusal is not None and not refusal.is_final)
            if not is_held:
                self._move_cursor(item.sequence, at_ms, batch)

    def _move_cursor(self, sequence: int, at_ms: int, batch: _Batch) -> None:
        first, last = batch.cursor + 1, sequence - 1
        if first <= last:
            node = batch.node_name
            which = f"reading {first}" if first == last else f"readings {first} to {last}"
            text = f"{which} of {node} (journal {batch.answer.journal[:16]}) never arrived: pruned or lost"
            self._find(batch, "sequence_gap", node, at_ms, text)
        batch.cursor = max(batch.cursor, sequence)

    def _verify(self, item: Item, known: str, batch: _Batch) -> Accepted:
        """Return the item's reading, decoded; raises _RefusedError where it is not genuine, not whole or not wanted."""
        if len(item.envelope) > LEAF_BYTES_MAX or (item.workloads and len(item.workloads) > WORKLOADS_BYTES_MAX):
            raise _RefusedError(
                Refusal.OVERSIZE, f"an envelope of {len(item.envelope)} bytes or its workloads are too large"
            )
        try:
            payload = verify_envelope(item.envelope, batch.answer.public_key, PAYLOAD_TYPE)
        except SealError as exc:
            raise _RefusedError(_reason_of(item.envelope), str(exc)) from exc
        try:
            reading = decode(payload)
            _check_addable(reading)
        except ReadingError as exc:
            raise _RefusedError(Refusal.MALFORMED, str(exc)) from exc
        if reading.node_id != batch.answer.node_id or reading.sequence != item.sequence:
            raise _RefusedError(
                Refusal.TAMPERED, "the sealed node id or sequence is not the one that it is served under"
            )
        workloads: tuple[WorkloadTime, ...] = ()
        if item.workloads is not None:
            try:
                workloads = decode_workloads(item.workloads, reading)
            except ReadingError as exc:
                raise _RefusedError(Refusal.TAMPERED, str(exc)) from exc
        if reading.end_ms > batch.now_ms + FUTURE_MS_MAX:
            raise _RefusedError(
                Refusal.FUTURE, f"it ends {reading.end_ms - batch.now_ms} ms after this machine's clock"
            )
        if reading.end_ms < batch.now_ms - self._age_ms_max:
            raise _RefusedError(Refusal.TOO_OLD, f"it ends {(batch.now_ms - reading.end_ms) // DAY_MS} days ago")
        if reading.simulated and not self._accept_simulated:
            raise _RefusedError(Refusal.SIMULATED, "simulated readings are not accepted (accept_simulated)")
        return Accepted(digest=known, reading=reading, workloads=workloads)

    def _accept(self, item: Item, accepted: Accepted, batch: _Batch) -> None:
        reading, known = accepted.reading, accepted.digest
        self._enrol(reading, batch)
        batch.node = reading.node_name
        self._check_chain(reading, batch)
        batch.entries.append(
            ReadingEntry(envelope=item.envelope, workloads=item.workloads, digest=known, reading=reading)
        )
        batch.decoded.append(accepted)
        batch.digests[known] = reading.sequence

    def _enrol(self, reading: Reading, batch: _Batch) -> None:
        """Make the key count on first sight, and note when a name changes keys or a key changes its name."""
        name, key = reading.node_name, reading.node_id[:16]
        if batch.enrolled is not None:
            if batch.enrolled != name:
                text = f"key {key} was {batch.enrolled} and now seals as {name}"
                self._find(batch, "node_renamed", name, reading.start_ms, text)
            return
        batch.enrolled = name
        others = self._store.enrolments_of(name)
        batch.entries.append(
            EnrolmentEntry(
                node_id=reading.node_id,
                public_key=batch.answer.public_key,
                node=name,
                how=FIRST_SIGHT,
                at_ms=batch.now_ms,
            )
        )
        if others:
            text = f"{name} now seals with key {key}; before it was {others[-1].node_id[:16]}"
            self._find(batch, "node_key_changed", name, reading.start_ms, text)
        logger.info("node_enrolled", extra={"node": name, "node_id": reading.node_id, "how": FIRST_SIGHT})

    def _check_chain(self, reading: Reading, batch: _Batch) -> None:
        """Compare the reading's hash of its predecessor with the predecessors that are held."""
        node = reading.node_name
        if reading.previous == GENESIS:
            # Of an earlier time: the journal's own later readings may have come first.
            if self._store.has_readings(reading.node_id, before_ms=reading.start_ms):
                text = f"the journal of {node} starts anew with reading {reading.sequence} of session {reading.session}"
                self._find(batch, "journal_restarted", node, reading.start_ms, text)
            return
        before = reading.sequence - 1
        held = {known for known, sequence in batch.digests.items() if sequence == before}
        held |= self._store.digests_at(reading.node_id, before)
        if held and reading.previous not in held:
            text = f"reading {reading.sequence} of {node} does not continue the reading {before} that is held"
            self._find(batch, "chain_broken", node, reading.start_ms, text)

    def _find(self, batch: _Batch, kind: str, subject: str, at_ms: int, text: str) -> None:
        finding = Finding(at_ms=at_ms, kind=kind, subject=subject, text=text)
        if finding not in batch.findings and not self._store.has_finding(finding):
            batch.findings.append(finding)
            logger.warning("finding", extra={"kind": kind, "subject": subject, "text": text})

    def _open_names(self, item: Item, batch: _Batch) -> None:
        for name_digest, (salt, name) in item.openings.items():
            # What does not print is no name: a lone surrogate could not even be stored.
            if name != "" and name.isprintable() and digest_name(salt, name) == name_digest:
                batch.openings[name_digest] = name
            else:
                batch.refused_openings += 1

    # ------------------------------------------------------------------------------------------ its end

    def _report_refusals(self, batch: _Batch) -> None:
        """Log one line, and for what can never become valid one finding, for each reason."""
        node = batch.node_name
        for reason, sequences in batch.refused.items():
            text = batch.refusal_texts[reason]
            facts = {
                "node": node,
                "reason": reason.value,
                "readings": len(sequences),
                "first": sequences[0],
                "why": text,
            }
            logger.warning("readings_refused", extra=facts)
            if reason.is_final:
                numbers = ", ".join(map(str, sequences[:20])) + (", ..." if len(sequences) > 20 else "")
                said = f"{node} (key {batch.answer.node_id[:16]}) served readings refused as {reason.value}: {numbers}"
                self._find(batch, reason.value, node, batch.now_ms, f"{said}; {text}")
        if batch.refused_openings > 0:
            logger.warning("openings_refused", extra={"node": node, "openings": batch.refused_openings})

    def _commit(self, batch: _Batch, cursor: int, target: str | None, place: Place | None) -> None:
        answer, node = batch.answer, batch.node_name
        # Who never sealed anything that holds is nobody: an answer alone gives no place and no contact.
        is_known = batch.enrolled is not None
        contact = None
        if target is not None and is_known:
            contact = Contact(
                target=target, node_id=answer.node_id, journal=answer.journal, node=node, at_ms=batch.now_ms
            )
        beside = Beside(
            cursor=(answer.node_id, answer.journal, batch.cursor) if batch.cursor != cursor else None,
            openings=batch.openings,
            places={node: place} if place is not None and is_known else {},
            contact=contact,
        )
        if batch.entries or batch.findings:
            self._catalog.commit(
                batch.entries, now_ms=batch.now_ms, findings=batch.findings, beside=beside, decoded=batch.decoded
            )
        else:
            self._store.put_beside(beside)

    def _result(self, batch: _Batch, *, has_more: bool) -> BatchResult:
        refused = {reason: len(sequences) for reason, sequences in batch.refused.items()}
        self.accepted += len(batch.digests)
        self.duplicates += batch.duplicates
        self.refused.update(refused)
        self.refused_openings += batch.refused_openings
        return BatchResult(
            node_id=batch.answer.node_id,
            node=batch.node_name,
            journal=batch.answer.journal,
            accepted=len(batch.digests),
            duplicates=batch.duplicates,
            refused=refused,
            refused_openings=batch.refused_openings,
            cursor=batch.cursor,
            has_more=has_more,
            findings=tuple(batch.findings),
        )


def _reason_of(envelope: bytes) -> Refusal:
    """Return why a seal does not hold: bytes that are no envelope at all, or a signature that is wrong."""
    try:
        open_envelope(envelope)
    except SealError:
        return Refusal.MALFORMED
    return Refusal.TAMPERED


def _check_addable(reading: Reading) -> None:
    """Raise ReadingError for amounts that no hardware gives and that would not add up in 64 bits."""
    for gpu in reading.gpus:
        for key, amount in gpu.energy_mj.items():
            if amount > ENERGY_MJ_MAX:
                raise ReadingError(f"reading: {gpu.uuid}: energy_mj.{key} of {amount} is more than any board draws")
