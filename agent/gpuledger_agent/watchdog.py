# SPDX-License-Identifier: Apache-2.0
"""The one thread that talks to NVML, and the watch over it: a call that hangs costs its GPU, not the tick.

Whoever ticks hands a job over and waits. When a call takes too long, the thread is given up and the next job gets a new
one: what comes back to a thread that was given up ends it there, so two threads never work on one thing. A GPU of which
a call hangs is left alone until that call comes back. The library hangs where a call about the whole node does, and
where new threads hang as well; then nothing is asked before a call has come back. Threads that were given up are few,
and no reason for the process to stay.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpuledger.clock import monotonic_ns
from gpuledger_agent.nvml_errors import Abandoned

T = TypeVar("T")

HUNG_MS = 1_500
"""So long a call may take. At the usual interval of 1 s the tick after the one that met a hung call still covers all
that was read before it."""
GIVEN_UP_MAX = 8
"""Threads whose calls have not come back."""
SILENT_MAX = 2
"""So many threads in a row without a single answer: it is not one GPU that hangs."""
_LOOK_S = 0.05
"""How often a wait looks at the time of the call."""
_NS = 1_000_000


class Hung(Exception):
    """A call hangs: about `subject`, or (None) about the whole node, or the library as a whole does."""

    def __init__(self, subject: str | None, function: str) -> None:
        super().__init__(f"{function} hangs")
        self.subject = subject
        self.function = function


@dataclass(slots=True, eq=False)
class _Worker:
    """One thread's desk: the job it was handed, and the call it is in."""

    job: Callable[[], Any] | None = None
    result: Any = None
    error: BaseException | None = None
    is_done: bool = False
    is_given_up: bool = False
    subject: str | None = None
    function: str = ""
    ticket: list[int] = field(default_factory=list)
    """When the current call began (ns); empty between calls."""
    calls: int = 0


@dataclass(slots=True)
class _Desk:
    """What the threads share; `moved` guards all of it."""

    moved: threading.Condition = field(default_factory=threading.Condition)
    given_up: list[_Worker] = field(default_factory=list)
    silent: int = 0
    """How many threads were given up in a row that had got no answer."""
    is_closed: bool = False


class NvmlThread:
    """Runs jobs one after the other in a thread of its own; also the guard that the door tells of each call."""

    def __init__(self, hung_ms: int = HUNG_MS, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self._hung_ns = hung_ms * _NS
        self._now_ns = now_ns
        self._desk = _Desk()
        weakref.finalize(self, _close, self._desk)
        self._worker: _Worker | None = None
        self.hung_calls: dict[str, int] = {}
        """Calls that hung, by function, since the agent started."""

    @property
    def hung(self) -> frozenset[str]:
        """Return the GPUs of which a call has not come back."""
        with self._desk.moved:
            return frozenset(worker.subject for worker in self._desk.given_up if worker.subject is not None)

    @property
    def stuck(self) -> int:
        """Return how many calls hang now."""
        with self._desk.moved:
            return len(self._desk.given_up)

    def call(self, job: Callable[[], T]) -> T:
        """Run `job` in the thread and return its result, or raise its error; raises Hung where a call does."""
        desk = self._desk
        with desk.moved:
            worker = self._ready()
            worker.job = job
            desk.moved.notify_all()
            while not worker.is_done:
                desk.moved.wait(self._patience_s(worker))
            result, error = worker.result, worker.error
            worker.job = worker.result = worker.error = None
            worker.is_done = False
        if error is None:
            return result  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            del error  # the error's traceback holds this frame

    def close(self) -> None:
        """Let the thread end, if it is not in a call."""
        _close(self._desk)
        self._worker = None

    # ------------------------------------------------------------------------------------------ the guard
    # A thread that was given up is in a call, so whoever begins one is the current worker. Whether a call came back or
    # was given up is decided by who takes the one thing out of its ticket.

    def about(self, subject: str | None) -> None:
        worker = self._worker
        if worker is not None:
            worker.subject = subject

    def enter(self, function: str) -> list[int]:
        ticket = [self._now_ns()]
        worker = self._worker
        if worker is not None:
            worker.function, worker.ticket = function, ticket
            worker.calls += 1
        return ticket

    def leave(self, ticket: list[int]) -> None:
        if not _take(ticket):
            raise Abandoned

    # ------------------------------------------------------------------------------------------ threads

    def _ready(self) -> _Worker:
        """Return a worker without a job; raises Hung where there can be none now."""
        if self._is_library_hung():
            raise Hung(None, self._desk.given_up[-1].function)
        worker = self._worker
        if worker is None:
            self._desk.is_closed = False
            worker = self._worker = _Worker()
            threading.Thread(target=_serve, args=(self._desk, worker), name="nvml", daemon=True).start()
        return worker

    def _is_library_hung(self) -> bool:
        given_up = self._desk.given_up
        if len(given_up) >= GIVEN_UP_MAX or self._desk.silent >= SILENT_MAX:
            return True
        return any(worker.subject is None for worker in given_up)

    def _patience_s(self, worker: _Worker) -> float:
        """Return how long to wait before looking again; raises Hung, having given the thread up."""
        ticket, function = worker.ticket, worker.function
        since_ns = next(iter(ticket), None)
        if since_ns is None or self._now_ns() - since_ns < self._hung_ns or not _take(ticket):
            return _LOOK_S
        self.hung_calls[function] = self.hung_calls.get(function, 0) + 1
        worker.is_given_up = True
        self._worker = None
        self._desk.given_up.append(worker)
        self._desk.silent = self._desk.silent + 1 if worker.calls == 1 else 0
        raise Hung(None if self._is_library_hung() else worker.subject, function)


def _take(ticket: list[int]) -> bool:
    """Take out what is in a call's ticket, if it is still there: one of two threads that try has it."""
    try:
        ticket.pop()
    except IndexError:
        return False
    return True


def _close(desk: _Desk) -> None:
    with desk.moved:
        desk.is_closed = True
        desk.moved.notify_all()


def _serve(desk: _Desk, worker: _Worker) -> None:
    while True:
        with desk.moved:
            while worker.job is None or worker.is_done:
                if desk.is_closed:
                    return
                desk.moved.wait()
            job = worker.job
        result, error = None, None
        try:
            result = job()
        except BaseException as exc:  # noqa: BLE001 - it is for whoever handed the job over
            error = exc
        with desk.moved:
            if worker.is_given_up:
                desk.given_up.remove(worker)
                desk.silent = 0
                return
            worker.result, worker.error, worker.is_done = result, error, True
            desk.moved.notify_all()
        del job, result, error
