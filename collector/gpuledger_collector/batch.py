# SPDX-License-Identifier: Apache-2.0
"""One answer on its way in: what is gathered from it, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuledger_collector.enrolments import Enrolled
from gpuledger_collector.entries import OwnEntry, ReadingEntry
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.served import Answer
from gpuledger_collector.verification import Refusal


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

    answer: Answer
    now_ms: int
    cursor: int
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
    node: str | None = None
    """The node's name as last sealed; None before anything was accepted."""

    @property
    def node_name(self) -> str:
        return next(name for name in (self.node, self.enrolled, self.answer.node) if name is not None)
