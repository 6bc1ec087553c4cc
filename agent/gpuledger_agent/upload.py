# SPDX-License-Identifier: Apache-2.0
"""The agent's only HTTP client: a request on a connection of its own, with a bound on its bytes and on its whole time.

Timeouts of single reads are no bound, since the other side may drip bytes: at the deadline the connection is shut down,
whatever it is at.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from gpuledger.credentials import Proof

ANSWER_BYTES_MAX = 64 << 10


class Failure(str, Enum):
    """Why there is no answer; the value is a metric label."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    DROPPED = "dropped"
    """The connection ended, or what came over it was not HTTP."""


class UploadError(Exception):
    """There was no answer; the text goes on from the address."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: the status, the start of the body, and for how long to wait if the server says so."""

    status: int
    body: bytes
    retry_s: float | None = None


class _Connection(http.client.HTTPSConnection):
    """Verifies another name than that of the address, where one is configured."""

    def __init__(self, host: str, port: int, timeout_s: float, proof: Proof) -> None:
        self._tls = ssl.create_default_context() if proof.context is None else proof.context
        super().__init__(host, port, timeout=timeout_s, context=self._tls)
        self._name = host if proof.server_name is None else proof.server_name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def post(url: str, body: bytes, headers: Mapping[str, str], proof: Proof, timeout_s: float) -> Reply:
    """Send `body` to `url` (http or https) and return the answer; raises UploadError.

    Neither redirects nor proxies are followed. Resolving a name is the system's and has the system's time limit.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = _Connection(host, 443 if port is None else port, timeout_s, proof)
    else:
        connection = http.client.HTTPConnection(host, 80 if port is None else port, timeout=timeout_s)
    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        if connection.sock is not None:
            with suppress(OSError):
                # Not the TLS wrapper's own shutdown, which would fall back to plain text under its thread's feet.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, cut)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        if is_over.is_set():
            raise TimeoutError
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body=body, headers={**headers, **proof.headers})
        response = connection.getresponse()
        data = response.read(ANSWER_BYTES_MAX)
        if is_over.is_set():
            raise TimeoutError
        if response.length and len(data) < ANSWER_BYTES_MAX:
            raise http.client.IncompleteRead(data, response.length)
        return Reply(status=response.status, body=data, retry_s=_retry_s(response.getheader("Retry-After")))
    except (OSError, http.client.HTTPException, ValueError) as exc:
        failure, text = _explain(exc, timeout_s, is_over=is_over.is_set())
        raise UploadError(failure, text) from exc
    finally:
        timer.cancel()
        connection.close()


def _retry_s(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 6 else None


def _explain(error: Exception, timeout_s: float, *, is_over: bool) -> tuple[Failure, str]:
    if is_over or isinstance(error, TimeoutError):
        return Failure.TIMEOUT, f"did not answer within {timeout_s:g} s"
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return Failure.TLS, f"cannot be trusted or does not speak TLS: {_shorten(error)}"
    if isinstance(error, ConnectionResetError | BrokenPipeError | http.client.HTTPException | ValueError):
        return Failure.DROPPED, f"broke off or does not speak HTTP: {_shorten(error)}"
    return Failure.UNREACHABLE, f"cannot be reached: {_shorten(error)}"


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
