# SPDX-License-Identifier: Apache-2.0
"""The collector's real port on this machine, in a thread of its own, in front of whatever is published."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuledger_collector.api import answers
from gpuledger_collector.documents import Document
from gpuledger_collector.http import Server, open_listener
from gpuledger_collector.page.reports import Reports
from gpuledger_collector.page.routes import routes as page_routes
from gpuledger_collector.published import Published
from gpuledger_collector.shelf import Prepared, Shelf

_EMPTY = Document(body=b"", content_type="text/plain")


class Desk:
    """What is shown, and where."""

    def __init__(self, published: Published) -> None:
        self.url = ""
        self.shelf = Shelf()
        self.show(published)

    def show(self, published: Published) -> None:
        self.shelf.prepared = Prepared(published=published, metrics=_EMPTY, openmetrics=_EMPTY)


@contextmanager
def serving(published: Published, reports: Path | None = None) -> Iterator[Desk]:
    """Serve the page and the JSON interface until the end."""
    desk, started, stop = Desk(published), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        routes = {**page_routes(Reports(reports)), **answers.routes()}
        server = Server(desk.shelf, open_listener("127.0.0.1:0"), lambda: None, routes=routes)
        await server.start()
        desk.url = f"http://{server.address}"
        started.set()
        await stop.wait()
        await server.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(30)
        yield desk
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
