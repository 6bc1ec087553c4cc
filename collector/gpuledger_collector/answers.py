# SPDX-License-Identifier: Apache-2.0
"""Around polling: what it asks of whoever takes answers in, so that it knows no storage, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpuledger_collector.scheduler_watch import SchedulerFigures
from gpuledger_collector.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far an agent's journal was taken in: everything up to `sequence` of that journal is on disk here."""

    journal: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one answer: readings logged, readings refused by reason, where to go on, whether more waits."""

    accepted: int
    refused: Mapping[str, int] = field(default_factory=dict)
    cursor: Cursor | None = None
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer, a JSON object: the target it came from, and the cursor that was sent, if any."""

    document: Mapping[str, Any]
    target: Target
    asked: Cursor | None


class Intake(Protocol):
    """Takes answers in; called from one thread at a time."""

    def cursor(self, target: Target) -> Cursor | None:
        """Return how far the target was taken in by earlier runs, or None where it never answered."""
        ...

    def checkpoint(self) -> Mapping[str, str]:
        """Return what a question says besides, to show the agent the log's newest checkpoint; nothing before it."""
        ...

    def is_continued(self) -> bool:
        """Return whether an earlier run has published the log, so that agents may know more of it than this one."""
        ...

    def examine(self, document: Mapping[str, Any]) -> None:
        """Compare the checkpoints that an agent says it was shown with the log; raises what `accept` returns."""
        ...

    def accept(self, answers: Sequence[Answered], now_ms: int) -> list[Outcome | Exception]:
        """Verify and log the readings of some answers; when it returns, what was accepted is on disk.

        Each answer has an outcome of its own: ReadingError or SealError where it is not valid as a whole, StorageError
        where it could not be stored, any other error where it brought out a bug; then its cursor stays where it was.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PollFigures:
    """What came in since the start; `up` has the targets polled so far, `troubles` a sentence for each one down."""

    targets: int
    up: Mapping[str, bool]
    failures: Mapping[str, int]
    accepted: int
    refused: Mapping[str, int]
    troubles: Mapping[str, str]
    pushed_pages: int | None = None
    """Pages that agents pushed; None where pushing is not enabled."""
    push_failures: Mapping[str, int] = field(default_factory=dict)
    lists_up: Mapping[str, bool] = field(default_factory=dict)
    """By list of targets, whether the last look at it worked; `list_failures` by (list, reason)."""
    list_failures: Mapping[tuple[str, str], int] = field(default_factory=dict)
    targets_refused: int | None = None
    """Targets of lists that cannot be polled; None where there are no lists."""
    schedulers: Mapping[str, SchedulerFigures] = field(default_factory=dict)
