# SPDX-License-Identifier: Apache-2.0
"""Asks the kubelet who has which GPU, through a short-lived child, without ever waiting for it.

gRPC stays out of the agent: the child (gpuledger_agent.pod_resources_client) lives for one question, and is looked at
once a tick. Its time and its output are bounded.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gpuledger_agent.allocation_files import Answer, Complaints
from gpuledger_agent.pod_resources import ANSWER_BYTES_MAX, MalformedAnswer, allocation_of, decode
from gpuledger_agent.sources import SourceFailed, TickReads

_log = logging.getLogger(__name__)

QUESTION_S = 5
"""How long the kubelet may take; the child has twice that in all."""
CHILD_MS_MAX = 2 * QUESTION_S * 1000
ASK_AGAIN_MS = 5_000
"""How long after one question another may follow that something new on the node gave cause for."""
ANSWER_AGE_POLLS_MAX = 2
_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_ERROR_BYTES_MAX = 60
_WHYS = {
    "grpcio_missing": "grpcio is not installed; install it with: pip install 'gpuledger[kubernetes]'",
    "unavailable": "nobody answers at the kubelet's socket, or this user may not open it",
    "deadline_exceeded": f"the kubelet did not answer within {QUESTION_S} s",
    "timeout": f"the child that asks did not end within {CHILD_MS_MAX // 1000} s",
    "too_large": f"the answer is larger than {ANSWER_BYTES_MAX} bytes",
    "unimplemented": "the kubelet does not offer pod-resources v1 (it needs Kubernetes 1.20)",
}


class Child:
    """One question under way; `step` never blocks."""

    def __init__(self, command: Sequence[str], began_ms: int) -> None:
        self._began_ms = began_ms
        self._answer = bytearray()
        # From the root directory: `-m` looks for modules where it is started, and nobody else may write there.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            pipesize=_PIPE_BYTES,
        )
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdout, stderr = self._process.stdout, self._process.stderr
        if stdout is None or stderr is None:  # pragma: no cover - both were asked for
            raise AssertionError("a child without pipes")
        return stdout, stderr

    def step(self, now_ms: int) -> bytes | None:
        """Return the answer, or None while there is none yet; raises SourceFailed, and then the child is gone."""
        is_over = self._process.poll() is not None
        self._take()
        if len(self._answer) > ANSWER_BYTES_MAX:
            self.kill()
            raise _failure("too_large")
        if is_over:
            return self._end()
        if not 0 <= now_ms - self._began_ms <= CHILD_MS_MAX:
            self.kill()
            raise _failure("timeout")
        return None

    def _take(self) -> None:
        while len(self._answer) <= ANSWER_BYTES_MAX:
            part = self._pipes[0].read(_READ_BYTES)
            if not part:
                return
            self._answer += part

    def _end(self) -> bytes:
        error = (self._pipes[1].read(_READ_BYTES) or b"").decode("ascii", "replace")
        status = self._process.returncode
        self._close()
        if status != 0:
            # Only a short name is ours; anything else is an accident's, and it is told apart by its status.
            is_name = 0 < len(error) <= _ERROR_BYTES_MAX and error.replace("_", "").isalpha()
            raise _failure(error if status == 1 and is_name else "child_failed", error.strip()[-200:])
        return bytes(self._answer)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in self._pipes:
            pipe.close()


def _failure(error: str, detail: str = "") -> SourceFailed:
    return SourceFailed(error, _WHYS.get(error) or detail or error)


class PodResources:
    """The kubelet's allocations; an answer stands until it is two polls old."""

    NAME = "pod_resources"

    def __init__(self, socket: Path, poll_ms: int, command: Sequence[str] | None = None) -> None:
        """`command` stands for the child, which gets the socket and the seconds that the kubelet may take."""
        client = (sys.executable, "-m", "gpuledger_agent.pod_resources_client") if command is None else command
        self._command = (*client, str(socket), str(QUESTION_S))
        self._poll_ms = poll_ms
        self._complaints = Complaints(self.NAME)
        self._child: Child | None = None
        self._asked_ms: int | None = None
        self._answered_ms: int | None = None
        self._answer = Answer()
        self._is_wanted = False

    def want(self) -> None:
        """Ask again soon: something came to the node that the last answer may not know."""
        self._is_wanted = True

    def poll(self, now_ms: int, reads: TickReads) -> Answer:
        if self._child is None and self._is_due(now_ms):
            self._asked_ms, self._is_wanted = now_ms, False
            self._child = self._ask(now_ms, reads)
        if self._child is not None:
            self._step(self._child, now_ms, reads)
        if self._answered_ms is None or not 0 <= now_ms - self._answered_ms <= self._age_ms_max:
            return Answer()
        return self._answer

    @property
    def _age_ms_max(self) -> int:
        return ANSWER_AGE_POLLS_MAX * self._poll_ms + CHILD_MS_MAX

    def _is_due(self, now_ms: int) -> bool:
        if self._asked_ms is None or now_ms < self._asked_ms:
            return True
        return now_ms - self._asked_ms >= (ASK_AGAIN_MS if self._is_wanted else self._poll_ms)

    def _ask(self, now_ms: int, reads: TickReads) -> Child | None:
        try:
            return Child(self._command, now_ms)
        except OSError as exc:
            self._fail("child_failed", f"the child that asks cannot be started: {exc.strerror}", reads)
            return None

    def _step(self, child: Child, now_ms: int, reads: TickReads) -> None:
        try:
            data = child.step(now_ms)
            if data is None:
                return
            containers = decode(data)
        except (SourceFailed, MalformedAnswer) as exc:
            self._child = None
            self._fail(exc.error if isinstance(exc, SourceFailed) else "malformed", str(exc), reads)
            return
        self._child = None
        allocations = [allocation_of(container) for container in containers]
        self._answer = Answer(allocations=tuple(one for one in allocations if one is not None), is_whole=True)
        self._answered_ms = now_ms
        reads.report(self.NAME)
        self._complaints.work()

    def _fail(self, error: str, why: str, reads: TickReads) -> None:
        reads.report(self.NAME).count(error)
        self._complaints.fail(why)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
