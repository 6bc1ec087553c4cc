# SPDX-License-Identifier: Apache-2.0
"""Pushes sealed readings to a collector that cannot reach this node: the same bytes that it would have polled.

A thread of its own, so that no tick waits for a network. It begins by asking the collector how far it has this node's
journal, and goes on from there page by page; only what the collector has on disk counts as sent. What fails is pushed
again, after pauses that grow.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuledger import __version__
from gpuledger.clock import Clock
from gpuledger.credentials import Keyring, Proof
from gpuledger.errors import ConfigurationError
from gpuledger.reading import INTEGER_MAX
from gpuledger_agent.feed import Feed
from gpuledger_agent.push_plan import PushPlan
from gpuledger_agent.upload import Reply, UploadError, post

_log = logging.getLogger(__name__)

PATH = "/v1/readings"
BACKOFF_S_MAX = 300.0
PAGES_PER_ROUND_MAX = 50
FINISH_S = 5.0
"""For a last push while the agent stops."""
_DOUBLINGS_MAX = 16
_GZIP = 16 + zlib.MAX_WBITS
_COMPRESSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PushFigures:
    """What pushing did since the start; `acknowledged` is None until the collector has said how far it is."""

    acknowledged: int | None = None
    pages: int = 0
    readings: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    succeeded_ms: int | None = None


class _PushError(Exception):
    def __init__(self, failure: str, text: str, retry_s: float | None = None) -> None:
        super().__init__(text)
        self.failure, self.retry_s = failure, retry_s


Post = Callable[[str, bytes, Mapping[str, str], Proof, float], Reply]


class Pusher:
    """Pushes until it is stopped; `figures` may be read from any thread."""

    def __init__(self, plan: PushPlan, feed: Feed, clock: Clock, chance: random.Random, send: Post = post) -> None:
        self._plan, self._feed, self._clock, self._chance, self._send = plan, feed, clock, chance, send
        self._keyring = Keyring()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)
        self._acknowledged: int | None = None
        self._limit = plan.batch_readings
        self._failures: Counter[str] = Counter()
        self._failures_in_a_row = 0
        self._failure: str | None = None
        self._figures = PushFigures()

    @property
    def figures(self) -> PushFigures:
        return self._figures

    def start(self) -> None:
        """Push from now on, in a thread of its own."""
        self._thread.start()

    def finish(self) -> None:
        """Push what was sealed last, for a moment and no longer; what does not get through is pushed after a start."""
        self._stop.set()
        self._thread.join(FINISH_S)

    def _run(self) -> None:
        # Agents that start together do not push together.
        delay_s = self._chance.uniform(0, min(self._plan.interval_s, 1.0))
        while not self._stop.wait(delay_s):
            delay_s = self.push_round()
        self.push_round()  # What was sealed while the agent stopped.

    # ------------------------------------------------------------------------------------------ one round

    def push_round(self) -> float:
        """Push what there is, bounded, and return after how many seconds to go on."""
        try:
            is_done = self._drain()
        except _PushError as exc:
            return self._note_failure(exc)
        except Exception as exc:  # noqa: BLE001 - a bug here must not end pushing for ever; metering knows nothing of it
            _log.exception("push_broke")
            return self._note_failure(_PushError("internal", f"was not asked: {type(exc).__name__}"))
        if self._failure is not None:
            _log.info("push_recovered", extra={"failures": self._failures_in_a_row})
        self._failure, self._failures_in_a_row = None, 0
        return self._plan.interval_s * self._chance.uniform(0.9, 1.1) if is_done else 0.0

    def _drain(self) -> bool:
        """Push pages until nothing is left (True) or the round's bound is reached (False)."""
        if self._acknowledged is None:
            self._push_page(INTEGER_MAX)  # An empty page: the answer says how far the collector is.
        for _ in range(PAGES_PER_ROUND_MAX):
            before = self._acknowledged
            assert before is not None
            after = self._push_page(before)
            if after >= self._feed.last_sequence:
                return True
            if after == before:
                raise _PushError("stuck", f"takes no reading after {before}, though there are")
            # Less than before: the collector has lost what it had, and gets it again.
        return False

    def _push_page(self, position: int) -> int:
        """Push the readings after a sequence; returns up to where the collector has them on disk."""
        page = self._feed.page(position, self._limit, self._plan.batch_bytes)
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "User-Agent": f"gpuledger/{__version__}",
        }
        url = f"{self._plan.url}{PATH}?after={position}"
        try:
            reply = self._send(url, _compress(page), headers, self._proof(), self._plan.timeout_s)
        except UploadError as exc:
            raise _PushError(exc.failure.value, str(exc)) from exc
        before, sequence = self._acknowledged, self._sequence_in(reply)
        self._acknowledged = sequence
        self._figures = PushFigures(
            acknowledged=sequence,
            pages=self._figures.pages + 1,
            readings=self._figures.readings + (0 if before is None else max(0, sequence - before)),
            failures=dict(self._failures),
            succeeded_ms=self._clock.wall_ns() // 1_000_000,
        )
        return sequence

    def _proof(self) -> Proof:
        try:
            return self._keyring.proof(self._plan.credentials)
        except ConfigurationError as exc:
            raise _PushError("credentials", f"is not asked: {exc}") from exc

    def _sequence_in(self, reply: Reply) -> int:
        if reply.status == 413:
            # A smaller page may fit; a single reading that does not is refused for ever, and counted.
            self._limit = max(1, self._limit // 2)
        if reply.status != 200:
            said = reply.body[:200].decode("ascii", "replace").strip()
            failure = "denied" if reply.status in {401, 403, 429} else "http_status"
            raise _PushError(failure, f"answers with HTTP status {reply.status}: {said}", reply.retry_s)
        receipt = _receipt_in(reply.body)
        sequence = _acknowledged_in(receipt, self._feed.journal_id)
        if sequence is None:
            raise _PushError("answer", "answers with what is no receipt of this journal")
        checkpoint, log_key = receipt.get("checkpoint"), receipt.get("log_key")
        if isinstance(checkpoint, str) and isinstance(log_key, str):
            self._feed.show(checkpoint, log_key)
        return sequence

    def _note_failure(self, error: _PushError) -> float:
        """Count it, say it once for each change, and return after how many seconds to try again."""
        self._failures[error.failure] += 1
        self._failures_in_a_row += 1
        self._figures = PushFigures(
            acknowledged=self._figures.acknowledged,
            pages=self._figures.pages,
            readings=self._figures.readings,
            failures=dict(self._failures),
            succeeded_ms=self._figures.succeeded_ms,
        )
        doubled_s: float = self._plan.interval_s * 2 ** min(self._failures_in_a_row - 1, _DOUBLINGS_MAX)
        longest_s = max(BACKOFF_S_MAX, self._plan.interval_s)
        delay_s = min(max(doubled_s, error.retry_s or 0.0), longest_s) * self._chance.uniform(0.75, 1.0)
        if self._failure != error.failure:
            facts = {"reason": error.failure, "text": f"{self._plan.url} {error}", "retry_s": round(delay_s)}
            _log.warning("push_failed", extra=facts)
        self._failure = error.failure
        return delay_s


def _receipt_in(body: bytes) -> dict[str, Any]:
    """Return the object in an answer; empty where it is none."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _acknowledged_in(receipt: Mapping[str, Any], journal: str) -> int | None:
    """Return the sequence in a receipt of this journal; None where it is none."""
    sequence = receipt.get("sequence")
    if receipt.get("journal") != journal or not isinstance(sequence, int) or isinstance(sequence, bool):
        return None
    return sequence if 0 <= sequence <= INTEGER_MAX else None


def _compress(data: bytes) -> bytes:
    stream = zlib.compressobj(_COMPRESSION, zlib.DEFLATED, _GZIP)
    return stream.compress(data) + stream.flush()
