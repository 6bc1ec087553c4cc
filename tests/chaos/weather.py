# SPDX-License-Identifier: Apache-2.0
"""The tests' own proxy between a collector and the agents: answers are dropped, delayed, cut, doubled and reordered."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from aiohttp import web

Page = Callable[[str, dict[str, str]], bytes | None]
"""(node, query) -> the document that its agent answers with; None: it is down."""
FAULTS = ("drop", "delay", "cut", "old", "error", "garbage", "refuse")


class Weather:
    """HTTP servers in a thread of their own, a port for each node; fair or foul for one collector."""

    def __init__(self, nodes: Sequence[str], page: Page, chance: Random) -> None:
        self._nodes, self._page, self._chance = nodes, page, chance
        self.foulness = 0.0
        """The share of answers that a fault is done to."""
        self.done: Counter[str] = Counter()
        self._earlier: dict[str, deque[bytes]] = {}
        self.ports: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._started.wait()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runners = [self._loop.run_until_complete(self._open(node)) for node in self._nodes]
        self._started.set()
        self._loop.run_forever()
        for runner in runners:
            self._loop.run_until_complete(runner.cleanup())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _open(self, node: str) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/readings", partial(self._answer, node))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.ports[node] = runner.addresses[0][1]
        return runner

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _answer(self, node: str, request: web.Request) -> web.StreamResponse:
        body = await asyncio.to_thread(self._page, node, dict(request.query))
        if body is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response(status=503)
        earlier = self._earlier.setdefault(node, deque(maxlen=3))
        earlier.append(body)
        fault = self._chance.choice(FAULTS) if self._chance.random() < self.foulness else "none"
        self.done[fault] += 1
        match fault:
            case "drop":
                assert request.transport is not None
                request.transport.close()
            case "delay":
                await asyncio.sleep(self._chance.uniform(0.1, 3))
            case "cut":
                response = web.StreamResponse(headers={"Content-Length": str(len(body))})
                await response.prepare(request)
                await response.write(body[: self._chance.randrange(len(body))])
                assert request.transport is not None
                request.transport.close()
                return response
            case "old":
                # An answer that was given before, again: doubled, and out of order.
                return web.Response(body=self._chance.choice(earlier), content_type="application/json")
            case "error":
                return web.Response(status=500)
            case "garbage":
                return web.Response(body=self._chance.randbytes(200), content_type="application/json")
            case "refuse":
                return web.Response(status=503)
            case _:
                pass
        return web.Response(body=body, content_type="application/json")
