# SPDX-License-Identifier: Apache-2.0
"""The only HTTP server: hands out what was prepared. A request reads bytes that lie ready and starts no work.

Files of the log are read in a few threads of their own, so that a mirror costs the others nothing.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from gpuledger.errors import ConfigurationError, StorageError

CONNECTIONS_MAX = 512
IDLE_S = 30.0
HEADER_BYTES_MAX = 8 << 10
BACKLOG = 128
LOG_THREADS = 2
LOG_REQUESTS_MAX = 16
"""Files of the log wanted at once, of at most 16 MiB each; more get 503."""
COMPRESSED_BYTES_MIN = 1 << 14
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One answer, ready to be sent."""

    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that can be asked for; replaced as a whole."""

    page: Document
    fleet: Document
    metrics: Document
    openmetrics: Document


class Published(Protocol):
    """Knows the files of the log."""

    def find(self, path: str) -> Document | None:
        """Return what is published at a path below /log/, or None; called from threads. Raises StorageError."""
        ...


class Shelf:
    """Holds what was prepared last; None until something was."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = None


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of "HOST:PORT" or "[::1]:PORT"; raises ConfigurationError naming the text."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if colon == "" or host == "" or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ConfigurationError(f"listen: {text!r} is not HOST:PORT, such as 127.0.0.1:9500")
    return host, int(port)


def open_listener(text: str) -> socket.socket:
    """Return a listening socket for "HOST:PORT"; raises ConfigurationError naming the address and what is wrong."""
    host, port = parse_listen(text)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise ConfigurationError(f"listen: {text}: {host} is no address of this machine") from exc
    family, _, _, _, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise ConfigurationError(f"listen: {text}: {_why(exc)}") from exc
    listener.setblocking(False)
    return listener


def _why(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "the port is in use by another program"
        case errno.EADDRNOTAVAIL:
            return "the address is not one of this machine"
        case errno.EACCES:
            return "this user may not listen on that port"
        case None:
            return "cannot listen there"
        case number:
            return f"cannot listen there: {os.strerror(number)}"


class Server:
    """Serves a shelf on a socket, and a log. `check` returns what is wrong right now, or None while all is well."""

    def __init__(
        self, shelf: Shelf, listener: socket.socket, check: Callable[[], str | None], log: Published | None = None
    ) -> None:
        self._shelf, self._listener, self._check, self._published = shelf, listener, check, log
        self._threads = ThreadPoolExecutor(max_workers=LOG_THREADS, thread_name_prefix="log")
        self._log_requests = 0
        app = web.Application(client_max_size=1024)
        app.router.add_get("/", self._page)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/api/v1/fleet", self._fleet)
        app.router.add_get("/log/{path:.+}", self._log)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_S,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            shutdown_timeout=2.0,
        )
        self._serving: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """Return "HOST:PORT" as bound, the port chosen by the system included."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        await self._runner.setup()
        server = self._runner.server
        assert server is not None

        def connect() -> asyncio.Protocol:
            return server() if len(server.connections) < CONNECTIONS_MAX else _Refused()

        self._serving = await asyncio.get_running_loop().create_server(connect, sock=self._listener)

    async def stop(self) -> None:
        if self._serving is not None:
            self._serving.close()
        await self._runner.cleanup()
        self._threads.shutdown(wait=True)

    # ------------------------------------------------------------------------------------------ answers

    async def _page(self, request: web.Request) -> web.Response:
        return self._answer(request, lambda prepared: prepared.page)

    async def _fleet(self, request: web.Request) -> web.Response:
        return self._answer(request, lambda prepared: prepared.fleet)

    async def _metrics(self, request: web.Request) -> web.Response:
        wants_openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        return self._answer(request, lambda prepared: prepared.openmetrics if wants_openmetrics else prepared.metrics)

    async def _health(self, request: web.Request) -> web.Response:
        del request
        wrong = self._check()
        if wrong is None and self._shelf.prepared is None:
            wrong = "nothing is prepared yet"
        status, text = (200, "ok\n") if wrong is None else (503, f"{wrong}\n")
        return web.Response(status=status, text=text, headers=_SECURITY_HEADERS)

    async def _log(self, request: web.Request) -> web.Response:
        if self._published is None:
            return web.Response(status=404, text="there is no log here\n", headers=_SECURITY_HEADERS)
        if self._log_requests >= LOG_REQUESTS_MAX:
            headers = {**_SECURITY_HEADERS, "Retry-After": "2"}
            return web.Response(status=503, text="too many files of the log are wanted at once\n", headers=headers)
        may_compress = "gzip" in request.headers.get("Accept-Encoding", "")
        self._log_requests += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._threads, _log_answer, self._published, request.match_info["path"], may_compress
            )
        finally:
            self._log_requests -= 1

    def _answer(self, request: web.Request, choose: Callable[[Prepared], Document]) -> web.Response:
        prepared = self._shelf.prepared
        if prepared is None:
            headers = {**_SECURITY_HEADERS, "Retry-After": "2"}
            return web.Response(status=503, text="nothing is prepared yet\n", headers=headers)
        document = choose(prepared)
        headers = {**_SECURITY_HEADERS, **document.headers, "ETag": document.tag, "Vary": "Accept"}
        if request.headers.get("If-None-Match") == document.tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=document.body, headers={**headers, "Content-Type": document.content_type})


def _log_answer(published: Published, path: str, may_compress: bool) -> web.Response:
    """Runs in a thread."""
    try:
        document = published.find(path)
    except StorageError as exc:
        return web.Response(status=500, text=f"{exc}\n", headers=_SECURITY_HEADERS)
    if document is None:
        text = "the log has checkpoint, tile/<L>/<N>[.p/<W>], tile/entries/<N>[.p/<W>] and workloads/<N>[.p/<W>]\n"
        return web.Response(status=404, text=text, headers=_SECURITY_HEADERS)
    headers = {**_SECURITY_HEADERS, **document.headers, "Content-Type": document.content_type}
    body = document.body
    if len(body) >= COMPRESSED_BYTES_MIN:
        headers["Vary"] = "Accept-Encoding"
        if may_compress:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers)


class _Refused(asyncio.Protocol):
    """A connection beyond the limit: closed before anything is read from it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
