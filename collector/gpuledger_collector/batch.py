# SPDX-License-Identifier: Apache-2.0
"""One answer on its way in: what is gathered from it, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuledger_collector.beside import Beside, Contact, Place
from gpuledger_collector.enrolments import Enrolled
from gpuledger_collector.entries import OwnEntry, ReadingEntry
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.served import Answer
from gpuledger_collector.verification import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One answer of /v1/readings, and how it came.

    `asked` is the journal and sequence after which was asked (None: from the journal's cursor or before it), `target`
    the address that was asked, `place` (site, cluster, pool) where its group stands.
    """

    document: object
    asked: tuple[str, int] | None = None
    target: str | None = None
    place: Place | None = None


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


@dataclass(slots=True)
class Batch:
    """What is gathered while an answer is gone through."""

    offer: Offer
    answer: Answer
    now_ms: int
    cursor: int
    """How far the journal is taken in with what was gone through so far, `cursor_before` without."""
    cursor_before: int
    known: Enrolled | None
    """The answer's key as the log has it; None where it was never enrolled."""
    entries: list[ReadingEntry | OwnEntry] = field(default_factory=list)
    decoded: dict[str, Accepted] = field(default_factory=dict)
    """Digest -> reading accepted in this batch."""
    sequences: dict[int, str] = field(default_factory=dict)
    """Sequence -> digest of the last of them."""
    again: dict[str, list[int]] = field(default_factory=dict)
    """Kind of finding -> sequences of readings that were served when they should not have been."""
    findings: list[Finding] = field(default_factory=list)
    openings: dict[str, str] = field(default_factory=dict)
    refused: dict[Refusal, list[int]] = field(default_factory=dict)
    refusal_texts: dict[Refusal, str] = field(default_factory=dict)
    refused_openings: int = 0
    duplicates: int = 0
    enrolled: str | None = None
    """The name under which the answer's key counts; None while it does not."""
    is_contiguous: bool = True
    """Whether nothing can be missing between the cursor and what was asked for."""
    node: str | None = None
    """The node's name as last sealed; None before anything was accepted."""

    @property
    def node_name(self) -> str:
        return next(name for name in (self.node, self.enrolled, self.answer.node) if name is not None)

    @property
    def beside(self) -> Beside:
        """What is to be stored beside the log."""
        answer, node = self.answer, self.node_name
        # Who never sealed anything that holds is nobody: an answer alone gives no place and no contact.
        target, place = (self.offer.target, self.offer.place) if self.enrolled is not None else (None, None)
        contact = None
        if target is not None:
            contact = Contact(
                target=target, node_id=answer.node_id, journal=answer.journal, node=node, at_ms=self.now_ms
            )
        return Beside(
            cursor=(answer.node_id, answer.journal, self.cursor) if self.cursor != self.cursor_before else None,
            openings=self.openings,
            places={} if place is None else {node: place},
            contact=contact,
        )

    @property
    def result(self) -> BatchResult:
        """What became of the answer, once it is stored."""
        moved = self.cursor > self.cursor_before or not self.is_contiguous
        return BatchResult(
            node_id=self.answer.node_id,
            node=self.node_name,
            journal=self.answer.journal,
            accepted=len(self.decoded),
            duplicates=self.duplicates,
            refused={reason: len(sequences) for reason, sequences in self.refused.items()},
            refused_openings=self.refused_openings,
            cursor=self.cursor,
            has_more=moved and self.cursor < self.answer.last_sequence,
            findings=tuple(self.findings),
        )
