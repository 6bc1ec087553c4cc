# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP client over real sockets: what a server does wrong has a reason, and none keeps it for ever."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.credentials import Credentials, Keyring, Proof
from gpuledger_agent import upload
from gpuledger_agent.upload import Failure, Reply, UploadError, post
from tests.fakes.certificates import Authority

Talk = Callable[[socket.socket], None]
Serve = Callable[..., str]
BODY = b"sealed" * 1000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def read_request(client: socket.socket) -> bytes:
    """Return a whole request."""
    data = b""
    while not data.endswith(BODY):
        data += client.recv(65536)
    return data


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(talk)`: a server that talks so with its first client; returns its address."""
    with ExitStack() as stack:

        def begin(talk: Talk, context: ssl.SSLContext | None = None) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                with suppress(OSError), ExitStack() as streams:
                    client = streams.enter_context(listener.accept()[0])
                    client.settimeout(60)
                    talk(
                        client
                        if context is None
                        else streams.enter_context(context.wrap_socket(client, server_side=True))
                    )

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            stack.callback(thread.join, 60)
            return (
                f"{'http' if context is None else 'https'}://127.0.0.1:{listener.getsockname()[1]}/v1/readings?after=7"
            )

        yield begin


def answer(data: bytes) -> Talk:
    def talk(client: socket.socket) -> None:
        read_request(client)
        client.sendall(data)

    return talk


def test_the_body_arrives_whole_with_its_headers_and_the_answer_comes_back(serve: Serve) -> None:
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        seen.append(read_request(client))
        client.sendall(OK)

    proof = Proof(headers={"Authorization": "Bearer secret"})
    reply = post(serve(talk), BODY, {"Content-Encoding": "gzip"}, proof, 60)
    assert reply == Reply(status=200, body=b"{}")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert body == BODY
    assert head.startswith(b"POST /v1/readings?after=7 HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret" in head
    assert b"Content-Encoding: gzip" in head
    assert b"Content-Length: 6000" in head


@pytest.mark.parametrize(("value", "wait_s"), [(b"17", 17.0), (b"soon", None), (b"9999999", None), (b"-1", None)])
def test_a_server_may_say_when_to_come_again(serve: Serve, value: bytes, wait_s: float | None) -> None:
    data = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: %s\r\n\r\n" % value
    assert post(serve(answer(data)), BODY, {}, Proof(), 60) == Reply(status=503, body=b"", retry_s=wait_s)


def test_of_an_answer_without_end_no_more_is_read_than_a_receipt_has(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "ANSWER_BYTES_MAX", 1000)
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * 5000
    assert post(serve(answer(data)), BODY, {}, Proof(), 60).body == b"x" * 1000


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"", Failure.DROPPED),
        (b"SSH-2.0-OpenSSH\r\n", Failure.DROPPED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", Failure.DROPPED),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500, Failure.DROPPED),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, Failure.DROPPED),
    ],
)
def test_what_is_no_answer_is_dropped(serve: Serve, data: bytes, failure: Failure) -> None:
    with pytest.raises(UploadError) as caught:
        post(serve(answer(data)), BODY, {}, Proof(), 60)
    assert caught.value.failure is failure


def test_where_nobody_listens_is_unreachable_and_so_is_a_name_that_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    for target in (url, "http://no-such-collector.invalid:1"):
        with pytest.raises(UploadError, match="cannot be reached") as caught:
            post(target, BODY, {}, Proof(), 60)
        assert caught.value.failure is Failure.UNREACHABLE


def wait(client: socket.socket) -> None:
    """Take what comes and say nothing until the client goes away."""
    while client.recv(65536):
        pass


def drip(client: socket.socket) -> None:
    """Answer a byte at a time, each in time for a timeout of single reads."""
    client.settimeout(0.01)
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        client.sendall(b"y")
        with suppress(TimeoutError):
            if client.recv(65536) == b"":
                return


@pytest.mark.parametrize("talk", [wait, drip])
@pytest.mark.parametrize("is_tls", [False, True])
def test_who_does_not_come_to_an_end_is_cut_off(serve: Serve, tmp_path: Path, talk: Talk, *, is_tls: bool) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("collector")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    proof = Keyring().proof(Credentials(ca_file=authority.ca))
    url = serve(talk, context if is_tls else None)
    with pytest.raises(UploadError, match=r"did not answer within 0\.3 s") as caught:
        post(url, BODY, {}, proof, 0.3)
    assert caught.value.failure is Failure.TIMEOUT


def test_over_tls_the_collector_proves_who_it_is_and_the_agent_too(serve: Serve, tmp_path: Path) -> None:
    authority, others = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    pair, client = authority.issue("collector"), authority.issue("agent")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    right = Credentials(ca_file=authority.ca, cert_file=client.cert, key_file=client.key)
    assert post(serve(answer(OK), context), BODY, {}, Keyring().proof(right), 60).status == 200
    wrong = (replace(right, ca_file=others.ca), replace(right, server_name="collector.example"))
    for credentials in wrong:
        with pytest.raises(UploadError, match="cannot be trusted") as caught:
            post(serve(answer(OK), context), BODY, {}, Keyring().proof(credentials), 60)
        assert caught.value.failure is Failure.TLS
    with pytest.raises(UploadError) as refused:
        post(serve(answer(OK), context), BODY, {}, Keyring().proof(Credentials(ca_file=authority.ca)), 60)
    assert refused.value.failure in {Failure.TLS, Failure.DROPPED}
