# SPDX-License-Identifier: Apache-2.0
"""Pages that agents push: taken in as if they had been polled, with the same checks, and answered with how far we are.

What is pushed is what GET /v1/readings would have answered. Nothing is acknowledged before it is on disk.
"""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from gpuledger.clock import Clock
from gpuledger.errors import GpuledgerError, StorageError
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.targets import Target

RETRY_S = 10
SAY_AGAIN_NS = 600_000_000_000
"""Pushes come from many: one that fails for ever must not fill the log."""
_GZIP = 16 + zlib.MAX_WBITS

logger = logging.getLogger(__name__)


class PushFailure(str, Enum):
    """Why a pushed page was not taken in; the value is the metric label."""

    DENIED = "denied"
    """Whoever pushed has no login that allows it."""
    BUSY = "busy"
    """Too many were being received at once."""
    TIMEOUT = "timeout"
    DROPPED = "dropped"
    """Whoever pushed went away before the page was there; an agent that lives pushes it again."""
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    REJECTED = "rejected"
    """JSON, but as a whole not a page that can be taken in."""
    STORAGE = "storage"
    """Our own disk: the agent pushes again, nothing is lost."""
    INTERNAL = "internal"
    """An error of ours that this page brings out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What became of one page. `sequence` is how far the node's journal is taken in: the next page begins after it."""

    node: str
    journal: str
    sequence: int
    accepted: int
    duplicates: int
    refused: Mapping[str, int] = field(default_factory=dict)
    sender: Target | None = None
    """Who it was, as the board knows it; None if its key does not count."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """`checkpoint` and `log_key`, as questions have them: the agent is a witness of the log."""


class PushIntake(Protocol):
    """Takes pushed pages in; called from one thread at a time."""

    def accept_pushed(self, document: Mapping[str, Any], after: int | None, now_ms: int) -> Pushed:
        """Verify and log the readings of a page that begins after a sequence, as `answers.Intake.accept` does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to a page: an HTTP status, and a JSON document or a sentence."""

    status: int
    body: str
    is_json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PushFigures:
    """What came by push since the start."""

    pages: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    accepted: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


class _PushError(Exception):
    def __init__(self, failure: PushFailure, status: int, text: str) -> None:
        super().__init__(text)
        self.failure, self.status = failure, status


class Receiver:
    """Takes in pages, one at a time; `figures` may be read from any thread."""

    def __init__(self, *, intake: PushIntake, board: LiveBoard, clock: Clock, page_bytes_max: int) -> None:
        self._intake, self._board, self._clock = intake, board, clock
        self._page_bytes_max = page_bytes_max
        self._failures: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._pages = self._accepted = 0
        self._said_ns: dict[PushFailure, int] = {}
        # One thread, so that the intake's transactions follow each other and the event loop never waits for a disk.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="receive")

    def figures(self) -> PushFigures:
        return PushFigures(
            pages=self._pages, failures=dict(self._failures), accepted=self._accepted, refused=dict(self._refused)
        )

    async def receive(self, body: bytes, *, is_compressed: bool, after: int | None) -> Receipt:
        """Take in one page as it came."""
        loop = asyncio.get_running_loop()
        try:
            pushed = await loop.run_in_executor(self._thread, self._take, body, is_compressed, after)
        except _PushError as exc:
            return self.fail(exc.failure, exc.status, str(exc), exc.__cause__)
        self._pages += 1
        self._accepted += pushed.accepted
        self._refused.update(pushed.refused)
        answer = {
            "journal": pushed.journal,
            "sequence": pushed.sequence,
            "accepted": pushed.accepted,
            "duplicates": pushed.duplicates,
            "refused": dict(pushed.refused),
            **pushed.shown,
        }
        return Receipt(status=200, body=json.dumps(answer), is_json=True)

    def fail(self, failure: PushFailure, status: int, text: str, cause: BaseException | None = None) -> Receipt:
        """Count a page that is not taken in, log it (of each reason one in a while), and return what to answer."""
        self._failures[failure.value] += 1
        now_ns, said_ns = self._clock.boottime_ns(), self._said_ns.get(failure)
        if said_ns is None or now_ns - said_ns > SAY_AGAIN_NS:
            self._said_ns[failure] = now_ns
            facts = {"reason": failure.value, "text": text}
            logger.warning("push_failed", extra=facts, exc_info=cause if failure is PushFailure.INTERNAL else None)
        return Receipt(status=status, body=text)

    def close(self) -> None:
        """Finish what is being taken in."""
        self._thread.shutdown(wait=True)

    # ------------------------------------------------------------------------------------------ in its own thread

    def _take(self, body: bytes, is_compressed: bool, after: int | None) -> Pushed:
        document = self._document(self._expanded(body) if is_compressed else body)
        now_ms = self._clock.wall_ns() // 1_000_000
        try:
            pushed = self._intake.accept_pushed(document, after, now_ms)
        except StorageError as exc:
            raise _PushError(PushFailure.STORAGE, 503, str(exc)) from exc
        except GpuledgerError as exc:
            raise _PushError(PushFailure.REJECTED, 400, f"the page cannot be taken in: {exc}") from exc
        except Exception as exc:
            raise _PushError(PushFailure.INTERNAL, 500, "this collector fails on that page; its log says more") from exc
        if pushed.sender is not None:
            self._board.note_pushed(document, pushed.sender, now_ms)
        return pushed

    def _expanded(self, body: bytes) -> bytes:
        most = self._page_bytes_max
        stream = zlib.decompressobj(_GZIP)
        try:
            data = stream.decompress(body, most + 1)
        except zlib.error as exc:
            raise _PushError(PushFailure.NOT_JSON, 400, f"the body is not gzip ({exc})") from exc
        if len(data) > most:
            raise _PushError(PushFailure.TOO_LARGE, 413, f"the page is larger than {most} bytes")
        if not stream.eof:
            raise _PushError(PushFailure.NOT_JSON, 400, "the body is gzip that was cut short")
        return data

    @staticmethod
    def _document(data: bytes) -> dict[str, Any]:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise _PushError(PushFailure.NOT_JSON, 400, f"the body is not JSON ({str(exc)[:100]})") from exc
        if not isinstance(document, dict):
            raise _PushError(PushFailure.NOT_JSON, 400, f"the body is a JSON {type(document).__name__}, not an object")
        return document
