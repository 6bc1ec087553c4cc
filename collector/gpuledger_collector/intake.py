# SPDX-License-Identifier: Apache-2.0
"""Intake: one node's answer in, what is genuine in it logged, what is not refused, counted and named.

Nothing in an answer is trusted before its seal holds. A refused reading never costs another one; the cursor of the
journal moves past it only where it can never become valid.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from gpuledger.cells import DAY_MS
from gpuledger.errors import ReadingError, StorageError
from gpuledger.reading import GENESIS, Reading, digest
from gpuledger.sealing import digest_name, node_id_of
from gpuledger_collector.batch import Batch, BatchResult, Offer
from gpuledger_collector.beside import Place
from gpuledger_collector.catalog import Catalog, read_accepted
from gpuledger_collector.continuity import compare_clocks, compare_odometers
from gpuledger_collector.entries import FIRST_SIGHT, EnrolmentEntry, ReadingEntry
from gpuledger_collector.indexing import Indexed
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.served import Answer, Item, parse_answer
from gpuledger_collector.verification import Refusal, RefusedError, verify_item
from gpuledger_collector.witness import Witness

logger = logging.getLogger(__name__)

FINDING_CHARACTERS_MAX = 1_000


class Intake:
    """Takes in answers of agents; safe to call from several threads, one batch at a time.

    The counters run since the start: `accepted`, `duplicates`, `refused` by reason, `refused_openings`.
    """

    def __init__(
        self,
        catalog: Catalog,
        witness: Witness,
        *,
        accept_simulated: bool,
        is_enrolment_declared: bool = False,
        reading_age_days_max: int = 90,
    ) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._witness = witness
        self._accept_simulated = accept_simulated
        self._is_enrolment_declared = is_enrolment_declared
        self._age_ms_max = reading_age_days_max * DAY_MS
        self._mutex = threading.Lock()
        self.accepted = 0
        self.duplicates = 0
        self.refused: Counter[Refusal] = Counter()
        self.refused_openings = 0
        self._met: dict[str, dict[str, int]] = {}
        """Node id -> target -> number of the answer that came from there last."""
        self._answers = 0

    def examine(self, document: object) -> None:
        """Compare the checkpoints that an agent says it was shown with the log; raises as `accept_batch` does."""
        answer = parse_answer(document)
        with self._mutex:
            self._witness.examine(answer.checkpoints)

    def accept_batch(
        self,
        document: object,
        *,
        now_ms: int,
        asked: tuple[str, int] | None = None,
        target: str | None = None,
        place: Place | None = None,
    ) -> BatchResult:
        """Take in one answer (see Offer). When it returns, what was accepted is on disk.

        Raises ReadingError where the answer as a whole is malformed, StorageError where it cannot be stored, or the
        agent was shown more of this log than there is; then nothing of it was taken in.
        """
        offer = Offer(document=document, asked=asked, target=target, place=place)
        (found,) = self.accept_all([offer], now_ms=now_ms)
        if isinstance(found, Exception):
            raise found
        return found

    def accept_all(self, offers: Sequence[Offer], *, now_ms: int) -> list[BatchResult | Exception]:
        """Take in answers, and log as many at once as may go together; one that is wrong costs only itself.

        What came of an answer is in its place: an error is what `accept_batch` raises, or a bug that it brought out.
        """
        found: dict[int, BatchResult | Exception] = {}
        group: dict[int, Batch] = {}
        with self._mutex:
            for number, offer in enumerate(offers):
                try:
                    answer = _answer_of(offer.document)
                    if any(batch.answer.node_id == answer.node_id for batch in group.values()):
                        self._commit(group, found)  # This one goes on from what that one brought.
                    batch = self._go_into(offer, answer, now_ms)
                    if any(_are_new_with_one_name(batch, other) for other in group.values()):
                        self._commit(group, found)
                        batch = self._go_into(offer, answer, now_ms)
                    group[number] = batch
                except Exception as exc:  # noqa: BLE001 - told to whoever brought this answer; the others go on
                    found[number] = exc
            self._commit(group, found)
        return [found[number] for number in range(len(offers))]

    def cursor_of(self, target: str) -> tuple[str, int] | None:
        """Return the journal last met at a target and how far it is taken in; None where nobody ever answered."""
        contact = self._store.contact(target)
        if contact is None:
            return None
        return contact.journal, self._store.cursor(contact.node_id, contact.journal)

    # ------------------------------------------------------------------------------------------ one answer

    def _go_into(self, offer: Offer, answer: Answer, now_ms: int) -> Batch:
        """Return what is to be logged and stored of an answer; raises StorageError."""
        self._witness.examine(answer.checkpoints)
        cursor, asked = self._store.cursor(answer.node_id, answer.journal), offer.asked
        known = self._store.enrolment(answer.node_id)
        is_enrolled = known is not None and (known.is_declared or not self._is_enrolment_declared)
        batch = Batch(
            offer=offer,
            answer=answer,
            now_ms=now_ms,
            cursor=cursor,
            cursor_before=cursor,
            known=known,
            enrolled=known.node if known is not None and is_enrolled else None,
            # Agents answer a question about another journal from the start of their own.
            is_contiguous=asked is None or asked[0] != answer.journal or asked[1] <= cursor,
        )
        self._go_through(batch, asked[1] if asked is not None and asked[0] == answer.journal else 0)
        self._report_refusals(batch)
        self._report_repetitions(batch, offer.target)
        return batch

    def _go_through(self, batch: Batch, after: int) -> None:
        is_held = not batch.is_contiguous
        for item in sorted(batch.answer.items, key=lambda item: item.sequence):
            refusal: Refusal | None = None
            at_ms = batch.now_ms
            known = digest(item.envelope)
            if known in batch.decoded or self._store.is_known(known, with_workloads=item.workloads is not None):
                batch.duplicates += 1
                if known in batch.decoded or item.sequence <= after:
                    kind = "duplicate" if known in batch.decoded else "replay"
                    batch.again.setdefault(kind, []).append(item.sequence)
            else:
                try:
                    accepted = self._verify(item, known, batch)
                except RefusedError as exc:
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

    def _move_cursor(self, sequence: int, at_ms: int, batch: Batch) -> None:
        first, last = batch.cursor + 1, sequence - 1
        if first <= last:
            node = batch.node_name
            which = f"reading {first}" if first == last else f"readings {first} to {last}"
            text = f"{which} of {node} (journal {batch.answer.journal[:16]}) never arrived: pruned or lost"
            self._find(batch, "sequence_gap", node, at_ms, text)
        batch.cursor = max(batch.cursor, sequence)

    def _verify(self, item: Item, known: str, batch: Batch) -> Accepted:
        """Return the item's reading; raises RefusedError where it is not genuine, or its key may not say this."""
        accepted = verify_item(
            item,
            known,
            batch.answer,
            now_ms=batch.now_ms,
            age_ms_max=self._age_ms_max,
            accept_simulated=self._accept_simulated,
        )
        reading, key = accepted.reading, batch.answer.node_id[:16]
        if self._is_enrolment_declared:
            if batch.enrolled is None:
                raise RefusedError(Refusal.UNENROLLED, f"key {key} is not among the enrolled keys")
            if batch.enrolled != reading.node_name:
                text = f"key {key} is enrolled for {batch.enrolled}, and not for {reading.node_name}"
                raise RefusedError(Refusal.UNENROLLED, text)
        why = None if batch.known is None else batch.known.why_not(reading.start_ms, reading.end_ms)
        if why is not None:
            raise RefusedError(Refusal.REVOKED, why)
        return accepted

    def _accept(self, item: Item, accepted: Accepted, batch: Batch) -> None:
        reading, known = accepted.reading, accepted.digest
        self._enrol(reading, batch)
        batch.node = reading.node_name
        self._check_continuity(reading, batch)
        self._check_checkpoint(reading, batch)
        batch.entries.append(
            ReadingEntry(envelope=item.envelope, workloads=item.workloads, digest=known, reading=reading)
        )
        batch.decoded[known] = accepted
        batch.sequences[reading.sequence] = known

    def _enrol(self, reading: Reading, batch: Batch) -> None:
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

    def _check_continuity(self, reading: Reading, batch: Batch) -> None:
        """Compare the reading with those before it that are held: its chain, its clock, its GPUs' energy counters."""
        node, at_ms = reading.node_name, reading.start_ms
        before = reading.sequence - 1
        held = self._held_at(before, batch)
        if reading.previous == GENESIS:
            # Of an earlier time: the journal's own later readings may have come first.
            if self._store.has_readings(reading.node_id, before_ms=at_ms):
                text = f"the journal of {node} starts anew with reading {reading.sequence} of session {reading.session}"
                self._find(batch, "journal_restarted", node, at_ms, text)
            held = {}
        elif held and reading.previous not in held:
            text = f"reading {reading.sequence} of {node} does not continue the reading {before} that is held"
            self._find(batch, "chain_broken", node, at_ms, text)
        previous = self._decoded(held, reading.previous)
        for text in compare_clocks(previous, reading):
            self._find(batch, "clock_step", node, at_ms, text)
        parts = reading.part[1]
        if parts > 1:
            # The same GPUs stand in the same part of the span before.
            previous = self._decoded(self._held_at(reading.sequence - parts, batch), reading.previous)
        for text in compare_odometers(previous, reading):
            self._find(batch, "odometer_fell", node, at_ms, text)

    def _held_at(self, sequence: int, batch: Batch) -> dict[str, Accepted | Indexed]:
        """Return the readings of the answer's key with this sequence number, by digest."""
        held: dict[str, Accepted | Indexed] = {
            found.digest: found for found in self._store.readings_at(batch.answer.node_id, sequence)
        }
        if (known := batch.sequences.get(sequence)) is not None:
            held[known] = batch.decoded[known]
        return held

    def _decoded(self, held: Mapping[str, Accepted | Indexed], wanted: str) -> Reading | None:
        """Return the wanted one of the readings, or any; None where there is none."""
        found = held.get(wanted) or next(iter(held.values()), None)
        if isinstance(found, Indexed):
            found = next(read_accepted(self._catalog.log, [found], self._catalog.recent))
        return None if found is None else found.reading

    def _check_checkpoint(self, reading: Reading, batch: Batch) -> None:
        """Compare the checkpoint that is sealed in the reading with the log."""
        if reading.checkpoint is not None and self._witness.examine([reading.checkpoint]):
            node = reading.node_name
            text = f"{node} sealed a checkpoint of this log that it never signed: {reading.checkpoint}"
            self._find(batch, "checkpoint_unknown", node, reading.start_ms, text)

    def _find(self, batch: Batch, kind: str, subject: str, at_ms: int, text: str) -> None:
        finding = Finding(at_ms=at_ms, kind=kind, subject=subject, text=text[:FINDING_CHARACTERS_MAX])
        if finding not in batch.findings and not self._store.has_finding(finding):
            batch.findings.append(finding)
            logger.warning("finding", extra={"kind": kind, "subject": subject, "text": text})

    def _open_names(self, item: Item, batch: Batch) -> None:
        for name_digest, (salt, name) in item.openings.items():
            # What does not print is no name: a lone surrogate could not even be stored.
            if name != "" and name.isprintable() and digest_name(salt, name) == name_digest:
                batch.openings[name_digest] = name
            else:
                batch.refused_openings += 1

    # ------------------------------------------------------------------------------------------ its end

    def _report_refusals(self, batch: Batch) -> None:
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
                said = f"{node} (key {batch.answer.node_id[:16]}) served readings refused as {reason.value}"
                self._find(batch, reason.value, node, batch.now_ms, f"{said}: {_list(sequences)}; {text}")
            elif reason is Refusal.UNENROLLED:
                self._find(batch, reason.value, node, batch.now_ms, f"{node} serves readings, and {text}")
        if batch.refused_openings > 0:
            logger.warning("openings_refused", extra={"node": node, "openings": batch.refused_openings})

    def _report_repetitions(self, batch: Batch, target: str | None) -> None:
        """Find what was served twice, or again though only later readings were asked for, or at two addresses."""
        node = batch.node_name
        for kind, sequences in batch.again.items():
            how = "twice in one answer" if kind == "duplicate" else "again, though only later ones were asked for"
            text = f"{node} (key {batch.answer.node_id[:16]}) served readings {how}: {_list(sequences)}"
            self._find(batch, kind, node, batch.now_ms, text)
        if target is None or batch.enrolled is None:
            return
        self._answers += 1
        met = self._met.setdefault(batch.answer.node_id, {})
        others = sorted(other for other, number in met.items() if other != target and number > met.get(target, number))
        met[target] = self._answers
        if others:
            first, second = sorted((target, others[0]))
            text = f"key {batch.answer.node_id[:16]} of {node} answers at {first} and at {second}"
            self._find(batch, "two_addresses", node, batch.now_ms, text)

    def _commit(self, group: dict[int, Batch], found: dict[int, BatchResult | Exception]) -> None:
        """Log and store what the group brought, all or nothing; put what came of it in its place, and empty the group.

        `group` and `found` are by the number of the answer.
        """
        batches = list(group.values())
        besides = [batch.beside for batch in batches]
        entries = [entry for batch in batches for entry in batch.entries]
        findings = [finding for batch in batches for finding in batch.findings]
        try:
            if entries or findings:
                decoded = [accepted for batch in batches for accepted in batch.decoded.values()]
                now_ms = max(batch.now_ms for batch in batches)
                self._catalog.commit(entries, now_ms=now_ms, findings=findings, besides=besides, decoded=decoded)
            else:
                self._store.put_besides(besides)
        except StorageError as exc:
            found |= dict.fromkeys(group, exc)
        else:
            found |= {number: self._counted(batch) for number, batch in group.items()}
        group.clear()

    def _counted(self, batch: Batch) -> BatchResult:
        result = batch.result
        self.accepted += result.accepted
        self.duplicates += result.duplicates
        self.refused.update(result.refused)
        self.refused_openings += result.refused_openings
        return result


def _answer_of(document: object) -> Answer:
    answer = parse_answer(document)
    if node_id_of(answer.public_key) != answer.node_id:
        raise ReadingError(f"answer: node_id {answer.node_id[:16]} is not the fingerprint of the public key given")
    return answer


def _are_new_with_one_name(one: Batch, other: Batch) -> bool:
    """Return whether what is found about one depends on the other's being stored."""
    return one.known is None and other.known is None and one.enrolled == other.enrolled


def _list(sequences: Sequence[int]) -> str:
    return ", ".join(map(str, sequences[:20])) + (", ..." if len(sequences) > 20 else "")
