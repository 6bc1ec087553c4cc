# SPDX-License-Identifier: Apache-2.0
"""Answers on their way from the event loop to the intake: all that wait are taken in at once, in a thread of their own.

The log is flushed once for what came while it was being flushed. An answer that is wrong costs only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gpuledger.clock import Clock
from gpuledger.errors import GpuledgerError, StorageError
from gpuledger_collector.answers import Answered, Cursor, Intake, Outcome
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.poll_failures import Failure, PollError, document_of, shorten
from gpuledger_collector.targets import Target

AT_ONCE_MAX = 256
"""Answers taken in at once: a second or two of work, within which no other is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    body: bytes
    target: Target
    asked: Cursor | None
    outcome: asyncio.Future[Outcome]


class Taker:
    """Takes answers in; its coroutines belong to one event loop."""

    def __init__(self, intake: Intake, board: LiveBoard, clock: Clock) -> None:
        self._intake, self._board, self._clock = intake, board, clock
        # One thread, so that the intake's transactions follow each other and the event loop never waits for a disk.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="intake")
        self._waiting: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Finish what is being taken in at this moment, and nothing after it."""
        if self._work is not None:
            self._work.cancel()
        self._thread.shutdown(wait=True)

    async def begin(self, target: Target) -> Cursor | None:
        """Return how far an earlier run took the target in; raises PollError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._begin, target)

    async def examine(self, body: bytes) -> None:
        """Compare what an agent was shown of the log with the log; raises PollError where it is no answer."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._examine, body)

    async def take(self, body: bytes, target: Target, asked: Cursor | None) -> Outcome:
        """Take one answer in; raises PollError. When it returns, what was accepted is on disk."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(body=body, target=target, asked=asked, outcome=outcome))
        if self._work is None:
            self._work = asyncio.create_task(self._take_what_waits())
        return await outcome

    async def _take_what_waits(self) -> None:
        loop = asyncio.get_running_loop()
        some: list[_Waiting] = []
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:AT_ONCE_MAX], self._waiting[AT_ONCE_MAX:]
                outcomes = await loop.run_in_executor(self._thread, self._take_all, some)
                for waiting, outcome in zip(some, outcomes, strict=True):
                    if waiting.outcome.done():
                        continue  # Nobody waits for it any more.
                    if isinstance(outcome, Exception):
                        waiting.outcome.set_exception(outcome)
                    else:
                        waiting.outcome.set_result(outcome)
        except Exception as exc:  # noqa: BLE001 - a bug: whoever waits raises it
            for waiting in (*some, *self._waiting):
                if not waiting.outcome.done():
                    waiting.outcome.set_exception(exc)
            self._waiting = []
        finally:
            self._work = None

    # ------------------------------------------------------------------------------------------ in the intake's thread

    def _begin(self, target: Target) -> Cursor | None:
        try:
            return self._intake.cursor(target)
        except StorageError as exc:
            raise PollError(Failure.STORAGE, str(exc)) from exc

    def _examine(self, body: bytes) -> None:
        with contextlib.suppress(GpuledgerError):
            # What is refused for good is refused again, and said, when a reading is to be logged.
            self._intake.examine(document_of(body))

    def _take_all(self, waiting: Sequence[_Waiting]) -> list[Outcome | PollError]:
        now_ms = self._clock.wall_ns() // 1_000_000
        found: dict[int, Outcome | PollError] = {}
        documents: dict[int, dict[str, Any]] = {}
        for number, one in enumerate(waiting):
            try:
                documents[number] = document_of(one.body)
            except PollError as exc:
                found[number] = exc
        answers = [
            Answered(document=document, target=waiting[number].target, asked=waiting[number].asked)
            for number, document in documents.items()
        ]
        for (number, document), outcome in zip(documents.items(), self._intake.accept(answers, now_ms), strict=True):
            found[number] = _as_poll_error(outcome) if isinstance(outcome, Exception) else outcome
            if isinstance(outcome, Outcome):
                self._board.note(document, waiting[number].target, now_ms)
        return [found[number] for number in range(len(waiting))]


def _as_poll_error(error: Exception) -> PollError:
    if isinstance(error, StorageError):
        found = PollError(Failure.STORAGE, str(error))
    elif isinstance(error, GpuledgerError):
        found = PollError(Failure.REJECTED, f"gives an answer that cannot be taken in: {error}")
    else:
        found = PollError(Failure.INTERNAL, f"gives an answer that this collector fails on: {shorten(error)}")
    found.__cause__ = error
    return found
