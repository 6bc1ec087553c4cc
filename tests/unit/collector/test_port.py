# SPDX-License-Identifier: Apache-2.0
"""The collector's port: TLS and logins as the agent's has them, and no client that is slow keeps a place for ever."""

import asyncio
import base64
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpuledger import access
from gpuledger.access import Access, Passwords, Tokens, hash_password, new_token
from gpuledger.errors import ConfigurationError
from gpuledger.tls import TlsContexts, TlsFiles
from gpuledger_collector.api import answers
from gpuledger_collector.config import CollectorConfig
from gpuledger_collector.connections import Connection, Connections
from gpuledger_collector.documents import Document
from gpuledger_collector.http import Port, Routes, Server, open_listener
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.page.routes import routes as page_routes
from gpuledger_collector.program import open_port
from gpuledger_collector.push_door import PUSH_PATH
from gpuledger_collector.receive import Receiver
from gpuledger_collector.shelf import Prepared, Shelf
from tests.fakes.certificates import Authority
from tests.fakes.glance import a_published
from tests.fakes.polling import StillClock
from tests.unit.collector.test_receive import PAGE, FakePushIntake

LARGE = Document(body=b"x" * (16 << 20), content_type="text/plain; charset=utf-8")
SMALL = Document(body=b"small", content_type="text/plain; charset=utf-8")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOG2N", 10)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@asynccontextmanager
async def serving(port: Port, front: Document = SMALL, routes: Routes | None = None) -> AsyncIterator[Server]:
    shelf = Shelf()
    shelf.prepared = Prepared(published=a_published(), metrics=SMALL, openmetrics=SMALL)
    if routes is None:
        routes = {"/": lambda published, asked: front, "/api/v1/fleet": lambda published, asked: SMALL}
    receiver = Receiver(intake=FakePushIntake(), board=LiveBoard(), clock=StillClock(), page_bytes_max=1 << 20)
    server = Server(shelf, open_listener("127.0.0.1:0"), lambda: None, port=port, receiver=receiver, routes=routes)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        receiver.close()


def tls_of(authority: Authority, **more: Any) -> TlsFiles:
    pair = authority.issue("collector")
    return replace(TlsFiles(cert_file=pair.cert, key_file=pair.key), **more)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca))


async def ask(server: Server, path: str = "/", *, tls: ssl.SSLContext | None = None, **options: Any) -> int:
    """Return the status of one request on a connection of its own."""
    method = "POST" if path == PUSH_PATH else "GET"
    body = json.dumps(PAGE).encode() if method == "POST" else None
    url = f"{'http' if tls is None else 'https'}://{server.address}{path}"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.request(method, url, data=body, ssl=True if tls is None else tls, **options) as answer,
    ):
        await answer.read()
        return answer.status


# ---------------------------------------------------------------------------------------------- TLS


async def test_over_tls_the_collector_proves_who_it_is(authority: Authority, tmp_path: Path) -> None:
    async with serving(Port(tls=TlsContexts(tls_of(authority)))) as server:
        assert await ask(server, tls=trusting(authority)) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(server, tls=trusting(Authority(tmp_path / "theirs")))
        with pytest.raises(aiohttp.ClientError):
            await ask(server)


async def test_clients_prove_who_they_are(authority: Authority, tmp_path: Path) -> None:
    files = tls_of(authority, client_auth_type="RequireAndVerifyClientCert", client_ca_file=authority.ca)
    async with serving(Port(tls=TlsContexts(files))) as server:
        for signer, is_known in ((authority, True), (Authority(tmp_path / "theirs"), False)):
            pair, context = signer.issue("client"), trusting(authority)
            context.load_cert_chain(pair.cert, pair.key)
            if is_known:
                assert await ask(server, tls=context) == 200
            else:
                with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                    await ask(server, tls=context)
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await ask(server, tls=trusting(authority))


async def test_a_new_certificate_is_served_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    files = tls_of(authority)
    other = Authority(tmp_path / "new")
    async with serving(Port(tls=TlsContexts(files))) as server:
        assert await ask(server, tls=trusting(authority)) == 200
        pair = other.issue("collector")
        pair.cert.replace(files.cert_file)
        # Between the two renames the files do not match: the old certificate stays in force.
        assert await ask(server, tls=trusting(authority)) == 200
        pair.key.replace(files.key_file)
        assert await ask(server, tls=trusting(other)) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(server, tls=trusting(authority))


# ---------------------------------------------------------------------------------------------- logins


def tokens(folder: Path, name: str) -> tuple[str, Tokens]:
    token, digest = new_token()
    file = folder / name
    file.write_text(digest + "\n")
    file.chmod(0o600)
    return token, Tokens(file)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_who_reads_may_not_push_and_who_pushes_may_not_read(tmp_path: Path) -> None:
    reader, readers = tokens(tmp_path, "readers")
    pusher, pushers = tokens(tmp_path, "pushers")
    async with serving(Port(readers=Access(tokens=readers), pushers=Access(tokens=pushers))) as server:
        for path in ("/", "/metrics", "/api/v1/fleet"):
            statuses = [await ask(server, path, headers=headers) for headers in (bearer(reader), bearer(pusher), {})]
            assert statuses == [200, 401, 401]
        statuses = [await ask(server, PUSH_PATH, headers=headers) for headers in (bearer(pusher), bearer(reader), {})]
        assert statuses == [200, 401, 401]
        assert await ask(server, "/healthz") == 200


async def test_no_address_but_health_is_open(tmp_path: Path) -> None:
    token, readers = tokens(tmp_path, "readers")
    _, pushers = tokens(tmp_path, "pushers")
    port = Port(readers=Access(tokens=readers), pushers=Access(tokens=pushers))
    async with serving(port, routes={**page_routes(), **answers.routes()}) as server:
        app = server._runner.app
        paths = [re.sub(r"\{[^}]*\}", "x", resource.canonical) for resource in app.router.resources()]
        assert {"/", "/metrics", "/healthz", "/api/v1/gpus/x", "/log/x", PUSH_PATH} <= set(paths)
        for path in [*paths, "/nowhere", "/api/v1/nowhere"]:
            assert await ask(server, path) == (200 if path == "/healthz" else 401), path
        statuses = {await ask(server, path, headers=bearer(token)) for path in paths if path != PUSH_PATH}
        assert statuses == {200, 404}


async def test_health_may_be_closed_too(tmp_path: Path) -> None:
    token, readers = tokens(tmp_path, "readers")
    async with serving(Port(readers=Access(tokens=readers), is_healthz_open=False)) as server:
        assert [await ask(server, "/healthz", headers=headers) for headers in (bearer(token), {})] == [200, 401]


async def test_a_password_lets_in_and_a_wrong_one_is_braked() -> None:
    passwords = Passwords({"ann": hash_password("s3cret")})
    async with serving(Port(readers=Access(passwords=passwords))) as server:
        right = {"Authorization": "Basic " + base64.b64encode(b"ann:s3cret").decode()}
        wrong = {"Authorization": "Basic " + base64.b64encode(b"ann:guess").decode()}
        assert await ask(server, headers=right) == 200
        assert await ask(server, headers=wrong) == 401
        assert await ask(server, headers=wrong) == 429
        assert await ask(server, headers=right) == 200


async def test_who_is_not_let_in_is_told_how_and_the_refusal_of_a_push_is_counted(tmp_path: Path) -> None:
    _, pushers = tokens(tmp_path, "pushers")
    async with serving(Port(pushers=Access(tokens=pushers))) as server, aiohttp.ClientSession() as session:
        async with session.post(f"http://{server.address}{PUSH_PATH}", data=b"{}") as answer:
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="gpuledger"'
        assert server._door._receiver is not None
        assert server._door._receiver.figures().failures == {"denied": 1}


# ---------------------------------------------------------------------------------------------- settings


def listening(config: CollectorConfig, address: str) -> Port:
    class Listener:
        def getsockname(self) -> tuple[str, int]:
            return (address, 9401)

    return open_port(config, Listener())  # type: ignore[arg-type]


def test_nobody_unknown_may_push_from_the_network(tmp_path: Path, authority: Authority) -> None:
    config = CollectorConfig(is_push_enabled=True, is_unprotected_allowed=True)
    listening(config, "127.0.0.1")
    with pytest.raises(ConfigurationError, match=r"push\.enabled: anybody who reaches 10\.0\.0\.1 could push"):
        listening(config, "10.0.0.1")
    listening(CollectorConfig(is_unprotected_allowed=True), "10.0.0.1")
    users = (("node", hash_password("s3cret")),)
    for protected in (
        replace(config, push_basic_auth_users=users),
        replace(config, basic_auth_users=users),
        replace(
            config,
            tls_cert_file=authority.issue("c").cert,
            tls_key_file=authority.issue("c").key,
            tls_client_auth_type="RequireAndVerifyClientCert",
            tls_client_ca_file=authority.ca,
        ),
    ):
        listening(protected, "10.0.0.1")


def test_pushers_of_their_own_replace_the_ports_logins() -> None:
    everybody, nodes = (("ann", "a"),), (("node", "b"),)
    config = CollectorConfig(basic_auth_users=everybody)
    assert config.pushers == (everybody, None)
    assert replace(config, push_basic_auth_users=nodes).pushers == (nodes, None)
    assert replace(config, push_bearer_tokens_file=Path("t")).pushers == ((), Path("t"))


def test_a_port_that_others_reach_without_protection_is_refused_unless_that_is_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for address in ("127.0.0.1", "::1"):
        listening(CollectorConfig(), address)
    for address in ("0.0.0.0", "::", "10.0.0.1", "203.0.113.7"):
        with pytest.raises(ConfigurationError, match=f"anybody who reaches {address} could see .* no TLS and no login"):
            listening(CollectorConfig(), address)
    with pytest.raises(ConfigurationError, match="there is no TLS; set"):
        listening(CollectorConfig(basic_auth_users=(("ann", hash_password("a")),)), "10.0.0.1")
    assert caplog.messages == []
    listening(CollectorConfig(is_unprotected_allowed=True), "10.0.0.1")
    assert caplog.messages == ["port_unprotected"]
    assert vars(caplog.records[0])["missing"] == "TLS and a login"


# ---------------------------------------------------------------------------------------------- slow clients


async def connect(server: Server, buffer_bytes: int | None = None) -> socket.socket:
    host, port = server.address.split(":")
    client = socket.socket()
    if buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    return client


async def is_cut(client: socket.socket) -> bool:
    """Wait until the server has closed, and return True; what comes before is dropped."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        try:
            while await loop.sock_recv(client, 65536):
                pass
        except ConnectionError:
            pass
    return True


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\nX-Slow: "])
async def test_who_does_not_finish_the_head_of_a_request_is_cut_off(head: bytes) -> None:
    async with serving(Port(request_s=0.1)) as server:
        client = await connect(server)
        await asyncio.get_running_loop().sock_sendall(client, head)
        assert await is_cut(client)
        client.close()


async def test_who_says_nothing_where_tls_is_spoken_is_cut_off_too(authority: Authority) -> None:
    async with serving(Port(tls=TlsContexts(tls_of(authority)), request_s=0.1)) as server:
        client = await connect(server)
        assert await is_cut(client)
        client.close()


async def test_who_does_not_take_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, remove = asyncio.Event(), Connections.remove

    def note(book: Connections, transport: asyncio.BaseTransport) -> None:
        remove(book, transport)
        lost.set()

    monkeypatch.setattr(Connections, "remove", note)
    async with serving(Port(request_s=0.1), LARGE) as server:
        client = await connect(server, buffer_bytes=2048)
        await asyncio.get_running_loop().sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(60):
            await lost.wait()
        client.close()


class FakeTransport(asyncio.Transport):
    unsent = 0
    is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.is_aborted = True


class Talk:
    """One connection over a transport that a test sets; its timer goes off when the test says so."""

    def __init__(self) -> None:
        self.book = Connections(2, 30.0)
        self.transport = FakeTransport()
        self.inner = asyncio.Protocol()
        found = self.book.connect(lambda: self.inner)
        assert isinstance(found, Connection)
        self.connection = found
        self.connection.connection_made(self.transport)

    def time_is_up(self) -> bool:
        """Let the running timer go off, if there is one; returns whether the connection was cut off."""
        timer = self.connection._deadline
        if timer is not None:
            timer.cancel()
            self.connection._expire()
        return self.transport.is_aborted


async def test_more_bytes_of_a_head_give_no_more_time() -> None:
    talk = Talk()
    timer = talk.connection._deadline
    for _ in range(3):
        talk.connection.data_received(b"x")
        assert talk.connection._deadline is timer
    assert talk.time_is_up()


async def test_while_a_request_is_worked_on_only_its_handler_looks_at_the_time() -> None:
    talk = Talk()
    talk.connection.data_received(b"GET")
    talk.connection.begin_work()
    talk.connection.data_received(b"body")
    assert talk.connection._deadline is None
    assert not talk.time_is_up()


async def test_an_answer_that_is_not_taken_is_cut_off_and_one_that_is_leaves_the_connection_open() -> None:
    talk = Talk()
    for unsent in (0, 0, 1):
        talk.connection.data_received(b"GET")
        talk.connection.begin_work()
        talk.connection.end_work()
        talk.transport.unsent = unsent
        assert talk.time_is_up() == (unsent > 0)


async def test_the_next_request_has_its_own_time_even_if_it_comes_at_once() -> None:
    talk = Talk()
    talk.connection.begin_work()
    talk.connection.end_work()
    timer = talk.connection._deadline
    talk.connection.data_received(b"GET")
    assert talk.connection._deadline is not timer
    assert talk.time_is_up()
