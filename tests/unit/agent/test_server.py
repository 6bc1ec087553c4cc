# SPDX-License-Identifier: Apache-2.0
"""The agent's port over real sockets: TLS, certificates of clients, and a bound on whatever a client may cost."""

from __future__ import annotations

import base64
import http.client
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuledger.access import Access, Passwords, Tokens, hash_password, new_token
from gpuledger.errors import ConfigurationError
from gpuledger.tls import TlsContexts, TlsFiles
from gpuledger_agent import server as server_module
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.http import Guard
from gpuledger_agent.server import Limits, Server, serve
from tests.fakes.certificates import Authority

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOOK_S", 0.01)


Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(limits: Limits | None = None, tls: TlsContexts | None = None, application: Any = hello) -> Server:
            server = serve("127.0.0.1", 0, application, limits, tls)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return server

        yield begin


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def files_of(authority: Authority, **more: Any) -> TlsFiles:
    pair = authority.issue("node")
    return replace(TlsFiles(cert_file=pair.cert, key_file=pair.key), **more)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=20)


def everything(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def ask(server: Server, context: ssl.SSLContext) -> bytes:
    with closing(http.client.HTTPSConnection("127.0.0.1", server.server_port, context=context, timeout=20)) as client:
        client.request("GET", "/x")
        return client.getresponse().read()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca))


# ---------------------------------------------------------------------------------------------- TLS


def test_over_tls_the_node_proves_who_it_is(start: Start, authority: Authority, tmp_path: Path) -> None:
    server = start(tls=TlsContexts(files_of(authority)))
    assert ask(server, trusting(authority)) == b"hello\n"
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(server, trusting(Authority(tmp_path / "theirs")))


def test_plain_http_gets_nothing_from_a_tls_port(start: Start, authority: Authority) -> None:
    server = start(tls=TlsContexts(files_of(authority)))
    with connect(server) as client:
        client.sendall(GET + b"\r\n")
        assert b"hello" not in everything(client)
    assert ask(server, trusting(authority)) == b"hello\n"


def test_a_version_below_the_least_one_is_refused(start: Start, authority: Authority) -> None:
    server = start(tls=TlsContexts(files_of(authority, min_version="TLS13")))
    old = trusting(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        ask(server, old)
    assert ask(server, trusting(authority)) == b"hello\n"


@pytest.mark.parametrize(
    ("kind", "is_anonymous_served"), [("RequireAndVerifyClientCert", False), ("VerifyClientCertIfGiven", True)]
)
def test_clients_prove_who_they_are(
    start: Start, authority: Authority, tmp_path: Path, kind: str, *, is_anonymous_served: bool
) -> None:
    server = start(tls=TlsContexts(files_of(authority, client_auth_type=kind, client_ca_file=authority.ca)))
    ours, theirs = authority.issue("client"), Authority(tmp_path / "theirs").issue("client")
    known, foreign, anonymous = (trusting(authority) for _ in range(3))
    known.load_cert_chain(ours.cert, ours.key)
    foreign.load_cert_chain(theirs.cert, theirs.key)
    assert ask(server, known) == b"hello\n"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(server, foreign)
    if is_anonymous_served:
        assert ask(server, anonymous) == b"hello\n"
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(server, anonymous)


def test_a_new_certificate_is_served_without_a_restart_and_half_a_change_leaves_the_old_one(
    start: Start, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(authority)
    server = start(tls=TlsContexts(files))
    other = Authority(tmp_path / "other")
    fresh = other.issue("node")
    files.cert_file.write_bytes(fresh.cert.read_bytes())
    os.utime(files.cert_file, ns=(1, 1))
    with caplog.at_level(logging.INFO):
        assert ask(server, trusting(authority)) == b"hello\n"
        assert ask(server, trusting(authority)) == b"hello\n"
        files.key_file.write_bytes(fresh.key.read_bytes())
        assert ask(server, trusting(other)) == b"hello\n"
    assert [message for message in caplog.messages if message.startswith("tls_")] == [
        "tls_reload_failed",
        "tls_reloaded",
    ]
    files.key_file.unlink()
    assert ask(server, trusting(other)) == b"hello\n"


def test_files_that_cannot_be_used_are_named_at_the_start(authority: Authority, tmp_path: Path) -> None:
    files = files_of(authority)
    with pytest.raises(ConfigurationError, match=r"none\.pem: cannot be read: No such file"):
        TlsContexts(replace(files, cert_file=tmp_path / "none.pem"))
    with pytest.raises(ConfigurationError, match=r"node\.pem: does not go with .*other\.key"):
        TlsContexts(replace(files, key_file=authority.issue("other").key))
    with pytest.raises(ConfigurationError, match=r"node\.key: no certificates in PEM"):
        TlsContexts(replace(files, client_auth_type="RequireAndVerifyClientCert", client_ca_file=files.key_file))


# ---------------------------------------------------------------------------------------------- bounds


def test_a_request_line_or_headers_without_end_are_refused(start: Start) -> None:
    server = start()
    for head, status in (
        (b"GET /" + b"x" * server_module.REQUEST_LINE_BYTES_MAX, b" 414 "),
        (GET + b"A: " + b"x" * server_module.HEADER_BYTES_MAX, b" 431 "),
        (GET + b"A: b\r\n" * 101 + b"\r\n", b" 431 "),
        (GET + (b"A: " + b"x" * 1000 + b"\r\n") * 17, b" 431 "),
    ):
        with connect(server) as client:
            client.sendall(head)
            assert status in everything(client).split(b"\r\n")[0]
    with connect(server) as client:
        client.sendall(GET + b"A: " + b"x" * (server_module.HEADER_BYTES_MAX - 100) + b"\r\n\r\n")
        assert b"hello" in everything(client)


def drip(client: socket.socket, is_over: threading.Event) -> None:
    """Send a header byte by byte, so that no single wait is long."""
    try:
        client.sendall(GET + b"A: ")
        while not is_over.wait(0.005):
            client.sendall(b"x")
    except OSError:
        pass


@pytest.mark.parametrize("is_tls", [False, True])
def test_who_drips_bytes_is_cut_off_when_the_time_of_the_whole_request_is_up(
    start: Start, authority: Authority, *, is_tls: bool
) -> None:
    limits = Limits(request_s=0.5)
    server = start(limits, TlsContexts(files_of(authority)) if is_tls else None)
    is_over = threading.Event()
    client = connect(server)
    if is_tls:
        client = trusting(authority).wrap_socket(client, server_hostname="127.0.0.1")
    with client:
        dripping = threading.Thread(target=drip, args=(client, is_over))
        dripping.start()
        try:
            assert b"hello" not in everything(client)
        finally:
            is_over.set()
            dripping.join()


def test_who_says_nothing_where_tls_is_spoken_is_cut_off_too(start: Start, authority: Authority) -> None:
    server = start(Limits(request_s=0.2), TlsContexts(files_of(authority)))
    with connect(server) as client:
        assert everything(client) == b""


def test_who_does_not_take_the_answer_is_cut_off(start: Start) -> None:
    is_ended = threading.Event()

    def endless(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            while True:
                yield b"x" * 65536
        finally:
            is_ended.set()

    server = start(Limits(request_s=0.3), application=endless)
    with connect(server) as client:
        client.sendall(GET + b"\r\n")
        assert is_ended.wait(20)


def test_connections_over_the_bound_are_told_so_at_once_and_served_when_there_is_room(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(Limits(connections=2, request_s=60))
    silent = [connect(server) for _ in range(2)]
    for _ in range(3):
        with connect(server) as client:
            client.sendall(GET + b"\r\n")
            answer = everything(client)
        assert answer.startswith(b"HTTP/1.0 503 Service Unavailable\r\n")
        assert answer.endswith(b"\r\n\r\ntoo many connections\n")
    assert caplog.messages.count("connections_refused") == 1, "said once, not per connection"
    for connection in silent:
        connection.sendall(GET + b"\r\n")
        assert b"hello" in everything(connection)
        connection.close()
    with connect(server) as client:
        client.sendall(GET + b"\r\n")
        assert b"hello" in everything(client)


def test_over_the_bound_a_tls_port_closes_at_once(start: Start, authority: Authority) -> None:
    server = start(Limits(connections=1, request_s=60), TlsContexts(files_of(authority)))
    with connect(server), connect(server) as second:
        assert everything(second) == b""


# ---------------------------------------------------------------------------------------------- who may ask


def head(server: Server, path: str, **headers: str) -> tuple[int, list[str] | None]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)) as client:
        client.request("GET", path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.headers.get_all("WWW-Authenticate")


@pytest.mark.parametrize("is_healthz_open", [True, False])
def test_who_may_not_ask_is_told_how_to_and_health_may_stay_open(
    start: Start, tmp_path: Path, *, is_healthz_open: bool
) -> None:
    token, digest = new_token()
    file = tmp_path / "tokens"
    file.write_text(digest)
    file.chmod(0o600)
    server = start(application=Guard(hello, Access(tokens=Tokens(file)), is_healthz_open=is_healthz_open))
    for path in ("/metrics", "/v1/readings", "/", "/healthz/", "/healthz/../metrics"):
        assert head(server, path) == (401, ['Bearer realm="gpuledger"'])
        assert head(server, path, Authorization=f"Bearer {token}") == (200, None)
    assert head(server, "/healthz")[0] == (200 if is_healthz_open else 401)


def test_after_a_wrong_password_the_next_unknown_one_is_told_to_wait(start: Start) -> None:
    access = Access(Passwords({"ann": hash_password("right")}, lambda: 0))
    server = start(application=Guard(hello, access, is_healthz_open=True))
    wrong = "Basic " + base64.b64encode(b"ann:wrong").decode("ascii")
    assert head(server, "/metrics", Authorization=wrong)[0] == 401
    assert head(server, "/metrics", Authorization=wrong)[0] == 429


FILES = {"tls_cert_file": Path("a"), "tls_key_file": Path("b")}
MUTUAL = {**FILES, "tls_client_ca_file": Path("c"), "tls_client_auth_type": "RequireAndVerifyClientCert"}


@pytest.mark.parametrize(
    ("settings", "address", "missing"),
    [
        ({}, "127.0.0.1", ()),
        ({}, "127.9.9.9", ()),
        ({}, "::1", ()),
        ({}, "0.0.0.0", ("TLS", "a login")),
        ({}, "::", ("TLS", "a login")),
        ({"basic_auth_users": (("ann", "x"),)}, "10.0.0.1", ("TLS",)),
        (FILES, "10.0.0.1", ("a login",)),
        ({**MUTUAL, "tls_client_auth_type": "VerifyClientCertIfGiven"}, "10.0.0.1", ("a login",)),
        (MUTUAL, "10.0.0.1", ()),
        ({**FILES, "bearer_tokens_file": Path("c")}, "10.0.0.1", ()),
    ],
)
def test_what_a_port_lacks_that_others_can_reach(
    settings: dict[str, Any], address: str, missing: tuple[str, ...]
) -> None:
    assert AgentConfig(**settings).missing_protection(address) == missing
