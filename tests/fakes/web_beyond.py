# SPDX-License-Identifier: Apache-2.0
"""The web beyond this machine, as a proxy that ends every tunnel itself: whatever host is asked for, it answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.certificates import Authority


@dataclass(slots=True)
class WebBeyond:
    """`url` is the proxy's; `asked` what was asked, as (host, first line, body)."""

    url: str
    ca: Path
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    status: int = 200
    body: bytes = b'{"StatusCode": 0, "code": 0, "errcode": 0, "ok": true}'


@contextmanager
def web_beyond(folder: Path, hosts: Sequence[str]) -> Iterator[WebBeyond]:
    """A proxy on this machine that is each of the hosts; their certificates are signed by `ca`."""
    authority = Authority(folder)
    pair = authority.issue("beyond", hosts)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    listener = socket.create_server(("127.0.0.1", 0))
    web = WebBeyond(url=f"http://127.0.0.1:{listener.getsockname()[1]}", ca=authority.ca)
    threads: list[threading.Thread] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=_serve, args=(connection, context, web)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield web
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


def _serve(connection: socket.socket, context: ssl.SSLContext, web: WebBeyond) -> None:
    with connection, suppress(OSError):
        connection.settimeout(20)
        head = _read_head(connection)
        host = head.split(b" ")[1].decode().rpartition(":")[0]
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with context.wrap_socket(connection, server_side=True) as tunnel:
            request = _read_head(tunnel)
            lines = request.decode("latin-1").split("\r\n")
            lengths = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")]
            body = b""
            while lengths and len(body) < lengths[0]:
                body += tunnel.recv(65536)
            web.asked.append((host, lines[0], body))
            answer = f"HTTP/1.1 {web.status} X\r\nContent-Length: {len(web.body)}\r\nConnection: close\r\n\r\n"
            tunnel.sendall(answer.encode() + web.body)


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            raise OSError("hung up")
        head += more
    return head
