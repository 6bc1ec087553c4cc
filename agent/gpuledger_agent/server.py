# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP server: a thread a connection, a request a connection, and a bound on everything.

Whoever drips bytes, sends endless headers or opens many connections costs the others nothing: a request has a deadline
as a whole (handshake and answer included), its line and headers have a size, and connections over the bound are told
503 at once, or just closed where TLS would have to be spoken first.
"""

from __future__ import annotations

import io
import logging
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.client import LineTooLong
from socketserver import TCPServer, ThreadingMixIn
from typing import IO, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from gpuledger.clock import monotonic_ns
from gpuledger.errors import ConfigurationError
from gpuledger.tls import TlsContexts

_log = logging.getLogger(__name__)

REQUEST_LINE_BYTES_MAX = 8 << 10
HEADER_BYTES_MAX = 16 << 10
LOOK_S = 0.25
"""How often deadlines are looked at; a request may run over by so much."""
_REFUSED_KEPT_MAX = 64
_REFUSED_KEPT_NS = 1_000_000_000
_DROPPED_READS_MAX = 16
_REFUSAL_TEXT = b"too many connections\n"
_REFUSAL = (
    b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_REFUSAL_TEXT), _REFUSAL_TEXT)
)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many connections are served at once, and how long one may take in all."""

    connections: int = 32
    request_s: float = 10.0


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    deadline_ns: int
    is_cut: bool = False


class Server(ThreadingMixIn, WSGIServer):
    """Serves one application until it is shut down."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], limits: Limits, tls: TlsContexts | None) -> None:
        self._limits = limits
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[int, _Connection] = {}
        self._refused: deque[tuple[int, socket.socket]] = deque()
        self._is_full_said = False
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Without the base class's look-up of the host's name, which can take long where name service is broken.
        TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = self.server_address[1]
        self.setup_environ()

    def serve(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, args=(LOOK_S,), name="http", daemon=True).start()

    # ------------------------------------------------------------------------------------------ one connection

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, or refuse it; runs in the accepting thread, so it never waits."""
        deadline_ns = monotonic_ns() + int(self._limits.request_s * 1e9)
        with self._lock:
            is_full = len(self._open) >= self._limits.connections
            if not is_full:
                self._open[id(request)] = _Connection(socket=request, deadline_ns=deadline_ns)
        if is_full:
            self._refuse(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            # No thread could be had.
            self._forget(request)
            self._refuse(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        stream = request
        try:
            request.settimeout(self._limits.request_s)
            if self._tls is not None:
                stream = self._tls.current().wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    # From here on the descriptor is the wrapper's: it is what a missed deadline has to shut down.
                    self._open[id(request)].socket = stream
                self._shake_hands(stream)
            self.finish_request(stream, client_address)
        except Exception:  # noqa: BLE001 - one connection is isolated: `handle_error` tells a bug from a bad client
            self.handle_error(stream, client_address)
        finally:
            self._forget(request)
            self.shutdown_request(stream)

    @staticmethod
    def _shake_hands(stream: ssl.SSLSocket) -> None:
        try:
            stream.do_handshake()
        except ssl.SSLError:
            # The client may have sent its request already: closed with that unread, the alert that says what is wrong
            # would be lost in a reset. So what comes is dropped, past the wrapper, until the client has closed.
            with suppress(OSError):
                stream.settimeout(_REFUSED_KEPT_NS / 1e9)
                socket.socket.shutdown(stream, socket.SHUT_WR)
                for _ in range(_DROPPED_READS_MAX):
                    if not socket.socket.recv(stream, 4096):
                        break
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a request that broke off: slow and departing clients are everyday life, anything else is a bug."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            _log.debug("request_broken_off", extra={"client": client_address[0], "why": error})
        else:
            _log.exception("request_failed", extra={"client": client_address[0]})

    def _forget(self, request: Any) -> None:
        with self._lock:
            self._open.pop(id(request), None)
            if not self._open:
                self._is_full_said = False

    def _refuse(self, request: socket.socket) -> None:
        if not self._is_full_said:
            self._is_full_said = True
            _log.warning("connections_refused", extra={"connections": self._limits.connections})
        with suppress(OSError):
            request.setblocking(False)
            if self._tls is None:
                request.send(_REFUSAL)
            request.shutdown(socket.SHUT_WR)
        # Closed at once, with a request unread, the answer would be lost in a reset.
        self._refused.append((monotonic_ns(), request))
        while len(self._refused) > _REFUSED_KEPT_MAX:
            self._refused.popleft()[1].close()

    # ------------------------------------------------------------------------------------------ deadlines

    def service_actions(self) -> None:
        """Cut off what is over its deadline; called by the accepting thread between connections."""
        now_ns = monotonic_ns()
        with self._lock:
            for connection in self._open.values():
                if now_ns >= connection.deadline_ns and not connection.is_cut:
                    connection.is_cut = True
                    _log.debug("request_broken_off", extra={"why": "its time was up"})
                    with suppress(OSError):
                        # Not the wrapper's own shutdown, which would fall back to plain text under its thread's feet.
                        socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)
        while self._refused and now_ns - self._refused[0][0] > _REFUSED_KEPT_NS:
            self._refused.popleft()[1].close()

    def server_close(self) -> None:
        super().server_close()
        while self._refused:
            self._refused.popleft()[1].close()


class _ServerV6(Server):
    address_family = socket.AF_INET6


class _Head(io.BufferedIOBase):
    """The request's headers, and no more of them than allowed."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._left = HEADER_BYTES_MAX

    def readline(self, size: int | None = -1, /) -> bytes:
        line = self._stream.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise LineTooLong("header")
        return line


class _Handler(WSGIRequestHandler):
    def handle(self) -> None:
        """Answer the one request of this connection."""
        self.raw_requestline = self.rfile.readline(REQUEST_LINE_BYTES_MAX + 1)
        if len(self.raw_requestline) > REQUEST_LINE_BYTES_MAX:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return
        whole, self.rfile = self.rfile, _Head(self.rfile)
        try:
            if not self.parse_request():
                return
        finally:
            self.rfile = whole
        # The requests of this service have no body; what a client sends as one is not read.
        output = cast("IO[bytes]", self.wfile)
        handler = ServerHandler(io.BytesIO(), output, self.get_stderr(), self.get_environ(), multithread=True)
        handler.request_handler = self  # type: ignore[attr-defined]
        handler.run(self.server.get_app())  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("request", extra={"client": self.client_address[0], "line": format % args})

    def get_stderr(self) -> Any:
        return _Stderr()


class _Stderr:
    """Where wsgiref writes tracebacks: one log line instead of text on standard error."""

    def write(self, text: str) -> None:
        _log.error("request_failed", extra={"text": text.strip()})

    def flush(self) -> None:
        return


def serve(
    host: str, port: int, application: Application, limits: Limits | None = None, tls: TlsContexts | None = None
) -> Server:
    """Bind and serve in a thread of its own; raises ConfigurationError naming the address where that fails."""
    kind = _ServerV6 if ":" in host else Server
    try:
        server = kind((host, port), Limits() if limits is None else limits, tls)
    except (OSError, OverflowError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror is not None else str(exc)
        raise ConfigurationError(f"listen: cannot serve on {host}:{port}: {reason}") from exc
    server.set_app(application)
    server.serve()
    return server
