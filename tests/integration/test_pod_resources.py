# SPDX-License-Identifier: Apache-2.0
"""The kubelet asked for real: a gRPC server on a unix socket, and the short-lived child that the agent starts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from gpuledger_agent import pod_poll
from gpuledger_agent.allocation_files import Answer
from gpuledger_agent.pod_poll import PodResources
from gpuledger_agent.pod_resources import ANSWER_BYTES_MAX
from gpuledger_agent.sources import SourceReport, TickReads
from tests.fakes import kubelet
from tests.integration.agents import PATIENCE_S, ROOT, wait_for

UUID = "GPU-8f2b1c7e-5a3d-4e6f-9a1b-2c3d4e5f6a7b"
NOW_MS = 1_795_300_200_000
POLL_MS = 30_000


def pod(name: str, *devices: str) -> dict[str, Any]:
    containers = [
        {"name": "main", "devices": [("nvidia.com/gpu", list(devices))], "claims": []},
        {"name": "side", "devices": [("nvidia.com/hostdev", ["0000:3b:00.0"])], "claims": []},
    ]
    return {"name": name, "namespace": "ml", "containers": containers}


class Asking:
    """The source, asked as the agent's ticks do; time goes on only as the test says."""

    def __init__(self, socket: Path, command: Sequence[str] | None = None) -> None:
        self.source = PodResources(socket, POLL_MS, command)
        self.now_ms = NOW_MS
        self.reports: dict[str, SourceReport] = {}
        self.runs = 0

    def poll(self, later_ms: int = 0) -> Answer:
        self.now_ms += later_ms
        reads = TickReads(self.reports)
        answer = self.source.poll(self.now_ms, reads)
        self.runs += "pod_resources" in reads.ran
        self.reports.update(reads.ran)
        return answer

    def ask(self, later_ms: int = 0) -> Answer:
        """Poll until the question that is due has been answered, or has failed."""
        runs = self.runs
        self.poll(later_ms)

        def is_answered() -> bool:
            self.poll()
            return self.runs > runs

        wait_for("an answer", is_answered)
        return self.poll()

    @property
    def failures(self) -> dict[str, int]:
        return self.reports["pod_resources"].failures


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Asking]]:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("common", "agent"))
    monkeypatch.setenv("PYTHONPATH", paths)
    made: list[Asking] = []

    def make(*command: str) -> Asking:
        made.append(Asking(tmp_path / "kubelet.sock", command or None))
        return made[-1]

    yield make
    for one in made:
        one.source.close()


def test_pods_are_told_by_name_with_their_gpus(tmp_path: Path, asking: Callable[..., Asking]) -> None:
    pods = [pod("train-0", UUID), pod("idle-0")]
    requests: list[bytes] = []

    def respond(request: bytes, _: Any) -> bytes:
        requests.append(request)
        return kubelet.answer(pods)

    with kubelet.serve(tmp_path / "kubelet.sock", respond):
        source = asking()
        assert source.poll() == Answer(), "nothing is known before the first answer"
        answer = source.ask()
        assert answer.is_whole
        assert [one.name for one in answer.allocations] == ["pod:ml/train-0/main"]
        assert answer.allocations[0].devices.uuids == frozenset({UUID})
        pods[:] = [pod("train-1", f"{UUID}::0")]
        assert source.poll(POLL_MS - 1) == answer, "it is not asked again before its time"
        assert [one.name for one in source.ask(1).allocations] == ["pod:ml/train-1/main"]
    assert requests == [b"", b""]
    assert source.failures == {}
    assert source.reports["pod_resources"].is_success


def test_a_pod_that_is_new_is_asked_for_soon_and_not_at_once_again(
    tmp_path: Path, asking: Callable[..., Asking]
) -> None:
    with kubelet.serve(tmp_path / "kubelet.sock", lambda request, context: kubelet.answer([])):
        source = asking()
        source.ask()
        source.source.want()
        runs = source.runs
        source.poll(pod_poll.ASK_AGAIN_MS - 1)
        assert source.source._child is None
        source.ask(1)
        assert source.runs == runs + 1


def test_a_large_answer_comes_whole(tmp_path: Path, asking: Callable[..., Asking]) -> None:
    pods = [pod(f"p-{number}-" + "x" * 200, f"GPU-{number:036d}") for number in range(6_000)]
    data = kubelet.answer(pods)
    assert 1 << 20 < len(data) < ANSWER_BYTES_MAX
    with kubelet.serve(tmp_path / "kubelet.sock", lambda request, context: data):
        assert len(asking().ask().allocations) == 6_000


def refuse(code: grpc.StatusCode) -> Callable[[bytes, Any], bytes]:
    def respond(_: bytes, context: Any) -> bytes:
        context.abort(code, "no")
        raise AssertionError("abort does not return")

    return respond


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (refuse(grpc.StatusCode.UNIMPLEMENTED), "unimplemented"),
        (refuse(grpc.StatusCode.PERMISSION_DENIED), "permission_denied"),
        (lambda request, context: bytes(ANSWER_BYTES_MAX + 1), "resource_exhausted"),
        (lambda request, context: b"\xff", "malformed"),
    ],
)
def test_a_kubelet_that_refuses_is_counted_by_why_and_said_once(
    tmp_path: Path,
    asking: Callable[..., Asking],
    caplog: pytest.LogCaptureFixture,
    respond: Callable[[bytes, Any], bytes],
    error: str,
) -> None:
    with kubelet.serve(tmp_path / "kubelet.sock", respond):
        source = asking()
        assert source.ask() == Answer()
        assert source.ask(POLL_MS) == Answer()
    assert source.failures == {error: 2}
    assert [record.msg for record in caplog.records] == ["allocation_source_failed"]


def test_a_socket_that_is_not_there_is_counted_and_an_answer_stands_for_two_polls(
    tmp_path: Path, asking: Callable[..., Asking], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    socket = tmp_path / "kubelet.sock"
    source = asking()
    assert source.ask() == Answer()
    assert source.failures == {"unavailable": 1}
    with kubelet.serve(socket, lambda request, context: kubelet.answer([pod("train-0", UUID)])):
        answer = source.ask(POLL_MS)
    assert len(answer.allocations) == 1
    assert source.ask(POLL_MS) == answer, "one failure does not take away what is known"
    assert source.ask(POLL_MS) == answer
    assert source.ask(POLL_MS) == Answer()
    assert source.failures == {"unavailable": 4}
    events = ["allocation_source_failed", "allocation_source_recovered", "allocation_source_failed"]
    assert [record.msg for record in caplog.records] == events


def test_a_kubelet_that_does_not_answer_is_given_up_and_the_agent_never_waits(
    tmp_path: Path, asking: Callable[..., Asking]
) -> None:
    let_go = threading.Event()

    def respond(_: bytes, __: Any) -> bytes:
        let_go.wait(PATIENCE_S)
        return b""

    with kubelet.serve(tmp_path / "kubelet.sock", respond):
        source = asking()
        began_s = time.monotonic()
        source.poll()
        child = source.source._child
        assert child is not None
        source.poll(1_000)
        assert source.source._child is child
        source.poll(pod_poll.CHILD_MS_MAX)
        assert time.monotonic() - began_s < pod_poll.QUESTION_S, "no tick waited for the kubelet"
        assert source.failures == {"timeout": 1}
        assert child._process.returncode is not None, "the child is gone"
        let_go.set()


def test_a_child_that_writes_without_end_is_ended(asking: Callable[..., Asking]) -> None:
    source = asking(sys.executable, "-c", "while True: print('x' * 99999)")
    source.ask()
    assert source.failures == {"too_large": 1}


def test_a_child_that_crashes_or_cannot_start_is_counted(asking: Callable[..., Asking]) -> None:
    crashing, missing = asking(sys.executable, "-c", "1/0"), asking("/nowhere/at/all")
    crashing.ask()
    missing.poll()
    assert crashing.failures == missing.failures == {"child_failed": 1}


def test_without_the_extra_the_agent_says_what_to_install(
    asking: Callable[..., Asking], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "grpc.py").write_text("raise ImportError('grpc')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ["PYTHONPATH"])))
    source = asking()
    source.ask()
    assert source.failures == {"grpcio_missing": 1}
    assert "pip install 'gpuledger[kubernetes]'" in getattr(caplog.records[0], "why", "")


def test_the_agent_never_has_grpc_in_its_memory() -> None:
    """Whatever the program imports, the child's client is not among it."""
    code = "import sys, gpuledger_agent.program, gpuledger_agent.cli; print([m for m in sys.modules if 'grpc' in m])"
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("common", "agent"))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
