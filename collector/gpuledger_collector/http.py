# SPDX-License-Identifier: Apache-2.0
"""The only HTTP server: hands out what was prepared, and takes in what agents push, where that is enabled.

A request to read gets bytes that lie ready and starts no work. Files of the log are read in a few threads of their own,
so that a mirror costs the others nothing.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from gpuledger.access import Access, Verdict
from gpuledger.errors import ConfigurationError, StorageError
from gpuledger.tls import TlsContexts
from gpuledger_collector.api.answers import problem
from gpuledger_collector.api.operations import ROOT as API
from gpuledger_collector.connections import Connections
from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.published import Published
from gpuledger_collector.push_door import PUSH_PATH, SECURITY_HEADERS, PushDoor
from gpuledger_collector.receive import Receiver
from gpuledger_collector.shelf import Shelf

CONNECTIONS_MAX = 512
IDLE_S = 30.0
HEADER_BYTES_MAX = 8 << 10
LINGER_S = 2.0
"""How long what is left of a refused body is dropped, so that the client gets to see why."""
BACKLOG = 128
LOG_THREADS = 2
LOG_REQUESTS_MAX = 16
"""Files of the log wanted at once, of at most 16 MiB each; more get 503."""
LOG_COMPRESSED_BYTES_MIN = 1 << 14
COMPRESSED_BYTES_MIN = 1 << 10
READ_THREADS = 2
READ_REQUESTS_MAX = 64
"""Pages and lists wanted at once; each looks at a bounded number of things. More get 503."""

_MISSES = {404: "there is nothing at this address", 405: "this can only be read"}


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


Routes = Mapping[str, Callable[[Published, Asked], Document]]
"""What answers each address (with {names} in it) from what is published; called from threads."""


class LogFiles(Protocol):
    """Knows the files of the log."""

    def find(self, path: str) -> Document | None:
        """Return what is published at a path below /log/, or None; called from threads. Raises StorageError."""
        ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """How the port is protected, and the limits on its clients."""

    tls: TlsContexts | None = None
    readers: Access = field(default_factory=Access)
    """Who may see what is served."""
    pushers: Access = field(default_factory=Access)
    """Who may push readings."""
    is_healthz_open: bool = True
    request_s: float = 30.0
    push_bytes_max: int = 8 << 20
    pushes_at_once: int = 16


class Server:
    """Serves a shelf on a socket. `check` returns what is wrong right now, or None while all is well.

    Without a `receiver` nothing can be pushed; without a `log` there is none to mirror.
    """

    def __init__(
        self,
        shelf: Shelf,
        listener: socket.socket,
        check: Callable[[], str | None],
        *,
        port: Port | None = None,
        receiver: Receiver | None = None,
        log: LogFiles | None = None,
        routes: Routes | None = None,
    ) -> None:
        self._shelf, self._listener, self._check = shelf, listener, check
        self._published, self._log_requests = log, 0
        self._threads = ThreadPoolExecutor(max_workers=LOG_THREADS, thread_name_prefix="log")
        self._reads, self._read_requests = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="reads"), 0
        self._port = Port() if port is None else port
        self._door = PushDoor(
            receiver,
            bytes_max=self._port.push_bytes_max,
            at_once=self._port.pushes_at_once,
            timeout_s=self._port.request_s,
        )
        self._connections = Connections(CONNECTIONS_MAX, self._port.request_s)
        # A thread apart: testing a password takes its time, and nothing else must wait behind it.
        self._logins = ThreadPoolExecutor(max_workers=1, thread_name_prefix="logins")
        app = web.Application(client_max_size=1024, middlewares=[self._guard])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._health)
        for path, answer in ({} if routes is None else routes).items():
            app.router.add_get(path, self._reading(answer))
        app.router.add_post(PUSH_PATH, self._door.answer)
        app.router.add_get("/log/{path:.+}", self._log)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_S,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            shutdown_timeout=2.0,
            lingering_time=LINGER_S,
            # A small body must not become a large one before anybody has looked at its size.
            auto_decompress=False,
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
            return self._connections.connect(server)

        tls = self._port.tls
        self._serving = await asyncio.get_running_loop().create_server(
            connect,
            sock=self._listener,
            ssl=None if tls is None else tls.renewing(),
            ssl_handshake_timeout=None if tls is None else self._port.request_s,
        )

    async def stop(self) -> None:
        if self._serving is not None:
            self._serving.close()
        await self._runner.cleanup()
        self._logins.shutdown(wait=True)
        self._threads.shutdown(wait=True)
        self._reads.shutdown(wait=True)

    # ------------------------------------------------------------------------------------------ who may ask

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        connection = self._connections.of(request.transport)
        if connection is None:
            return await self._guarded(request, handler)
        connection.begin_work()
        try:
            return await self._guarded(request, handler)
        finally:
            connection.end_work()

    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        refusal = None if self._is_open(request) else await self._refuse(request)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except web.HTTPException as exc:
            allow = exc.headers.getall("Allow", [])
            return _refusal(
                request, exc.status, _MISSES.get(exc.status, exc.reason), {"Allow": allow[0]} if allow else {}
            )

    def _is_open(self, request: web.Request) -> bool:
        return request.path == "/healthz" and self._port.is_healthz_open

    async def _refuse(self, request: web.Request) -> web.Response | None:
        """Return why the request is not answered, or None where whoever asks may."""
        is_push = request.path == PUSH_PATH
        access = self._port.pushers if is_push else self._port.readers
        if access.is_open:
            return None
        header = request.headers.get("Authorization")
        verdict = await asyncio.get_running_loop().run_in_executor(self._logins, access.judge, header)
        if verdict is Verdict.ALLOWED:
            return None
        if verdict is Verdict.LATER:
            return _refusal(request, 429, "a wrong password came just now; try again", {"Retry-After": "1"})
        if is_push:
            self._door.note_denial()
        answer = _refusal(request, 401, "this service wants to know who asks")
        for challenge in access.challenges:
            answer.headers.add("WWW-Authenticate", challenge)
        return answer

    # ------------------------------------------------------------------------------------------ answers

    def _reading(self, answer: Callable[[Published, Asked], Document]) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            prepared = await self._shelf.look()
            if prepared is None:
                return _refusal(request, 503, "nothing is prepared yet", {"Retry-After": "2"})
            if self._read_requests >= READ_REQUESTS_MAX:
                return _refusal(request, 503, "too much is asked at once", {"Retry-After": "2"})
            asked = Asked(path=dict(request.match_info), query=tuple(request.query.items()))
            self._read_requests += 1
            try:
                loop = asyncio.get_running_loop()
                document = await loop.run_in_executor(self._reads, answer, prepared.published, asked)
                return await loop.run_in_executor(self._reads, _response, request.headers, document)
            finally:
                self._read_requests -= 1

        return handle

    async def _metrics(self, request: web.Request) -> web.Response:
        wants_openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        prepared = await self._shelf.look()
        if prepared is None:
            return _refusal(request, 503, "nothing is prepared yet", {"Retry-After": "2"})
        document = prepared.openmetrics if wants_openmetrics else prepared.metrics
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reads, _response, request.headers, document, "Accept, Accept-Encoding")

    async def _health(self, request: web.Request) -> web.Response:
        del request
        wrong = self._check()
        if wrong is None and self._shelf.prepared is None:
            wrong = "nothing is prepared yet"
        status, text = (200, "ok\n") if wrong is None else (503, f"{wrong}\n")
        return web.Response(status=status, text=text, headers=SECURITY_HEADERS)

    async def _log(self, request: web.Request) -> web.Response:
        if self._published is None:
            return web.Response(status=404, text="there is no log here\n", headers=SECURITY_HEADERS)
        if self._log_requests >= LOG_REQUESTS_MAX:
            headers = {**SECURITY_HEADERS, "Retry-After": "2"}
            return web.Response(status=503, text="too many files of the log are wanted at once\n", headers=headers)
        may_compress = takes_gzip(request.headers.get("Accept-Encoding", ""))
        self._log_requests += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._threads, _log_answer, self._published, request.match_info["path"], may_compress
            )
        finally:
            self._log_requests -= 1


def _refusal(request: web.Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return why there is no answer: one line, or a problem where programs ask."""
    if request.path.startswith(f"{API}/"):
        document = problem(status, text)
    else:
        document = Document(body=f"{text}\n".encode(), content_type="text/plain; charset=utf-8", status=status)
    return web.Response(body=document.body, status=status, headers={**_head(document), **(headers or {})})


def _head(document: Document) -> dict[str, str]:
    return {**SECURITY_HEADERS, **document.headers, "Content-Type": document.content_type}


def _response(asked: Mapping[str, str], document: Document, vary: str = "Accept-Encoding") -> web.Response:
    """Return a document as it was asked for: not again, compressed, or plain. May run in a thread."""
    headers = {**_head(document), "Vary": vary}
    if document.status == 200:
        headers["ETag"] = document.tag
        if _names(asked.get("If-None-Match", ""), document.tag):
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
    body = document.body
    if len(body) >= COMPRESSED_BYTES_MIN and takes_gzip(asked.get("Accept-Encoding", "")):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, status=document.status, headers=headers)


def _names(header: str, tag: str) -> bool:
    """Return whether If-None-Match names the tag; weak tags are compared as what they say."""
    named = [part.strip() for part in header.split(",")]
    return "*" in named or tag in named or tag.removeprefix("W/") in named


def takes_gzip(header: str) -> bool:
    """Return whether Accept-Encoding allows gzip (RFC 9110, 12.5.3)."""
    weights: dict[str, float] = {}
    for part in header.split(","):
        coding, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((text.removeprefix("q=") for text in parameters if text.startswith("q=")), "1")
        try:
            weights[coding] = float(weight)
        except ValueError:
            weights[coding] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _log_answer(published: LogFiles, path: str, may_compress: bool) -> web.Response:
    """Runs in a thread."""
    try:
        document = published.find(path)
    except StorageError as exc:
        return web.Response(status=500, text=f"{exc}\n", headers=SECURITY_HEADERS)
    if document is None:
        text = "the log has checkpoint, tile/<L>/<N>[.p/<W>], tile/entries/<N>[.p/<W>] and workloads/<N>[.p/<W>]\n"
        return web.Response(status=404, text=text, headers=SECURITY_HEADERS)
    headers = _head(document)
    body = document.body
    if len(body) >= LOG_COMPRESSED_BYTES_MIN:
        headers["Vary"] = "Accept-Encoding"
        if may_compress:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers)
