# SPDX-License-Identifier: Apache-2.0
"""Both ends of polling: agents that behave and misbehave over real HTTP, an intake that remembers, a still clock."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from gpuledger.errors import StorageError
from gpuledger_collector.answers import Answered, Cursor, Outcome
from gpuledger_collector.targets import Target


@dataclass
class StillClock:
    """A clock that moves only when told to."""

    wall: int = 1_795_305_600_000_000_000
    boottime: int = 0

    def wall_ns(self) -> int:
        return self.wall

    def boottime_ns(self) -> int:
        return self.boottime

    def wait_until(self, boottime_ns: int, stop: Event | None = None) -> bool:
        self.boottime = max(self.boottime, boottime_ns)
        return stop is not None and stop.is_set()


_BODIES = {"huge": b" " * 200_000, "garbage": b"\x00\xff{]", "deep": b"[" * 100_000, "list": b"[1, 2]"}


@dataclass
class FakeAgent:
    """Serves `count` readings from `first` on; `mode` says how it misbehaves."""

    node: str = "node-1"
    count: int = 3
    first: int = 1
    mode: str = "good"
    live: Mapping[str, Any] | None = None
    simulated: bool = False
    requests: list[dict[str, str]] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    asked_twice: asyncio.Event = field(default_factory=asyncio.Event)

    def document(self, after: int, limit: int) -> dict[str, Any]:
        last = self.first + self.count - 1
        sequences = range(max(after + 1, self.first), min(last, max(after, self.first - 1) + limit) + 1)
        return {
            "node_id": "ab" * 32,
            "node": self.node,
            "public_key": "",
            "journal": "j1",
            "first_sequence": self.first if self.count else None,
            "last_sequence": last,
            "simulated": self.simulated,
            "readings": [{"sequence": n, "envelope": "", "workloads": None, "openings": {}} for n in sequences],
            "live": self.live,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.query))
        if len(self.requests) == 2:
            self.asked_twice.set()
        page = self.document(int(request.query["after"]), int(request.query["limit"]))
        match self.mode:
            case "good":
                return web.json_response(page)
            case "same page":
                return web.json_response(self.document(0, 1))
            case "slow":
                await self.release.wait()
            case "huge" | "garbage" | "deep" | "list":
                return web.Response(body=_BODIES[self.mode])
            case "500":
                return web.Response(status=500)
            case "redirect":
                return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})
            case "drop":
                assert request.transport is not None
                request.transport.close()
            case "half":
                response = web.StreamResponse(headers={"Content-Length": "100"})
                await response.prepare(request)
                await response.write(json.dumps(page).encode()[:10])
                assert request.transport is not None
                request.transport.close()
                return response
            case _:
                raise AssertionError(self.mode)
        return web.Response(status=503)


@asynccontextmanager
async def serving(agent: FakeAgent, site: str = "fra1") -> AsyncIterator[Target]:
    """Run the agent on a free port of this machine; yields its target."""
    app = web.Application()
    app.router.add_get("/v1/readings", agent.answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    try:
        yield Target(url=f"http://127.0.0.1:{server.port}", site=site)
    finally:
        agent.release.set()
        await server.close()


@dataclass
class FakeIntake:
    """Remembers the sequences of each target in the order they came; fails when told to."""

    taken: dict[str, list[int]] = field(default_factory=dict)
    cursors: dict[str, Cursor] = field(default_factory=dict)
    error: Exception | None = None
    times_ms: list[int] = field(default_factory=list)

    shown: dict[str, str] = field(default_factory=dict)
    continued: bool = False
    examined: list[str] = field(default_factory=list)
    """Nodes in the order in which they were asked what they had been shown."""

    def cursor(self, target: Target) -> Cursor | None:
        return self.cursors.get(target.url)

    def checkpoint(self) -> Mapping[str, str]:
        return self.shown

    def is_continued(self) -> bool:
        return self.continued

    def examine(self, document: Mapping[str, Any]) -> None:
        assert document["readings"] == []
        self.examined.append(document["node"])

    def accept(self, answers: Sequence[Answered], now_ms: int) -> list[Outcome | Exception]:
        return [self._accept(answer, now_ms) for answer in answers]

    def _accept(self, answer: Answered, now_ms: int) -> Outcome | Exception:
        document, target, asked = answer.document, answer.target, answer.asked
        if self.error is not None:
            return self.error
        self.times_ms.append(now_ms)
        assert asked == self.cursors.get(target.url)
        sequences = [part["sequence"] for part in document["readings"]]
        self.taken.setdefault(target.url, []).extend(sequences)
        before = self.cursors.get(target.url)
        reached = max(sequences, default=0 if before is None else before.sequence)
        self.cursors[target.url] = Cursor(journal=document["journal"], sequence=reached)
        return Outcome(
            accepted=len(sequences), cursor=self.cursors[target.url], more=reached < document["last_sequence"]
        )


DISK_FULL = StorageError("entries.log: cannot be written: No space left on device")
