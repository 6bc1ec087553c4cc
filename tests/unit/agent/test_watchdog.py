# SPDX-License-Identifier: Apache-2.0
"""The NVML thread: jobs one after the other, and what a call that hangs costs whom."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from gpuledger_agent.nvml_errors import Abandoned, CallFailed
from gpuledger_agent.watchdog import GIVEN_UP_MAX, SILENT_MAX, Hung, NvmlThread
from tests.fakes.hangs import until

HOUR_NS = 3_600_000_000_000
PATIENCE_S = 60


@dataclass(slots=True)
class Calls:
    """Calls as the door makes them; `let_go` lets those return that hang."""

    thread: NvmlThread
    now_ns: list[int]
    let_go: threading.Event = field(default_factory=threading.Event)
    came_back: list[str] = field(default_factory=list)

    def make(self, function: str, *, hangs: bool = False) -> str:
        ticket = self.thread.enter(function)
        try:
            if hangs:
                self.now_ns[0] += HOUR_NS
                assert self.let_go.wait(PATIENCE_S)
        finally:
            self.thread.leave(ticket)
        self.came_back.append(function)
        return function


@pytest.fixture
def calls() -> Iterator[Calls]:
    now_ns = [0]
    thread = NvmlThread(now_ns=lambda: now_ns[0])
    made = Calls(thread, now_ns)
    yield made
    made.let_go.set()
    thread.close()


def hang(calls: Calls, subject: str | None, *, before: int = 1) -> Hung:
    """Let a call about `subject` hang, after so many that answered."""

    def job() -> None:
        for _ in range(before):
            calls.make("nvmlOther")
        calls.thread.about(subject)
        calls.make("nvmlHanging", hangs=True)

    with pytest.raises(Hung) as caught:
        calls.thread.call(job)
    return caught.value


def test_jobs_run_in_one_thread_that_is_not_ours_and_their_results_and_errors_come_back(calls: Calls) -> None:
    names = {calls.thread.call(lambda: threading.current_thread().name) for _ in range(3)}
    assert names == {"nvml"}
    assert calls.thread.call(lambda: calls.make("nvmlDeviceGetCount")) == "nvmlDeviceGetCount"

    def fail() -> None:
        raise CallFailed("nvmlDeviceGetCount", "unknown")

    with pytest.raises(CallFailed):
        calls.thread.call(fail)
    assert calls.thread.call(lambda: 7) == 7


def test_a_call_that_hangs_gives_its_gpu_up_and_a_new_thread_serves_the_others(calls: Calls) -> None:
    hung = hang(calls, "GPU-1")
    assert (hung.subject, hung.function) == ("GPU-1", "nvmlHanging")
    assert (calls.thread.hung, calls.thread.stuck) == (frozenset({"GPU-1"}), 1)
    assert calls.thread.hung_calls == {"nvmlHanging": 1}
    assert calls.thread.call(lambda: 7) == 7
    calls.let_go.set()
    until(lambda: calls.thread.stuck == 0)
    assert calls.thread.hung == frozenset()
    assert "nvmlHanging" not in calls.came_back, "what it would have gone on to do is nobody's"


def test_a_call_that_is_slow_and_comes_back_in_time_is_only_slow(calls: Calls) -> None:
    turns = threading.Event()

    def job() -> str:
        ticket = calls.thread.enter("nvmlSlow")
        calls.now_ns[0] += 1_499_000_000
        turns.wait(0.2)  # looked at several times meanwhile
        calls.thread.leave(ticket)
        return "back"

    assert calls.thread.call(job) == "back"
    assert calls.thread.hung_calls == {}


def test_a_job_of_many_slow_calls_hangs_nowhere(calls: Calls) -> None:
    def job() -> int:
        for _ in range(100):
            ticket = calls.thread.enter("nvmlSlow")
            calls.now_ns[0] += 1_400_000_000
            calls.thread.leave(ticket)
        return 100

    assert calls.thread.call(job) == 100


def test_a_call_about_the_node_hangs_the_library_until_it_comes_back(calls: Calls) -> None:
    assert hang(calls, None).subject is None
    for _ in range(3):
        with pytest.raises(Hung, match="nvmlHanging hangs"):
            calls.thread.call(lambda: 7)
    assert calls.thread.stuck == 1
    assert calls.thread.hung_calls == {"nvmlHanging": 1}, "it is one call, however often it was met"
    calls.let_go.set()
    until(lambda: calls.thread.stuck == 0)
    assert calls.thread.call(lambda: 7) == 7


def test_when_new_threads_hang_without_an_answer_so_does_the_library(calls: Calls) -> None:
    assert hang(calls, "GPU-0").subject == "GPU-0"
    for number in range(1, SILENT_MAX):
        assert hang(calls, f"GPU-{number}", before=0).subject == f"GPU-{number}"
    assert hang(calls, "GPU-7", before=0).subject is None
    with pytest.raises(Hung):
        calls.thread.call(lambda: 7)
    calls.let_go.set()
    until(lambda: calls.thread.stuck == 0)
    assert calls.thread.call(lambda: 7) == 7


def test_gpus_that_hang_one_by_one_leave_the_rest_served_up_to_a_bound_of_threads(calls: Calls) -> None:
    for number in range(GIVEN_UP_MAX - 1):
        assert hang(calls, f"GPU-{number}").subject == f"GPU-{number}"
    assert len(calls.thread.hung) == GIVEN_UP_MAX - 1
    assert hang(calls, "GPU-99").subject is None
    with pytest.raises(Hung):
        calls.thread.call(lambda: 7)
    assert calls.thread.stuck == GIVEN_UP_MAX


def test_a_call_that_failed_late_is_given_up_like_one_that_succeeded(calls: Calls) -> None:
    ends: list[BaseException] = []

    def job() -> None:
        calls.thread.about("GPU-1")
        try:
            ticket = calls.thread.enter("nvmlHanging")
            try:
                calls.now_ns[0] += HOUR_NS
                calls.let_go.wait(PATIENCE_S)
                raise CallFailed("nvmlHanging", "unknown")
            finally:
                calls.thread.leave(ticket)
        except (CallFailed, Abandoned) as exc:
            ends.append(exc)
            raise

    with pytest.raises(Hung):
        calls.thread.call(job)
    calls.let_go.set()
    until(lambda: bool(ends))
    assert isinstance(ends[0], Abandoned)
    assert isinstance(ends[0].__context__, CallFailed)


def test_a_thread_that_nobody_needs_ends() -> None:
    thread = NvmlThread()
    assert thread.call(lambda: 7) == 7
    mine = [one for one in threading.enumerate() if one.name == "nvml"]
    del thread
    gc.collect()
    until(lambda: any(not one.is_alive() for one in mine))


def test_calls_that_no_job_makes_are_nobodys_to_watch() -> None:
    thread = NvmlThread()
    thread.about("GPU-1")
    thread.leave(thread.enter("nvmlInit"))
    assert thread.hung_calls == {}
