# SPDX-License-Identifier: Apache-2.0
"""The server, over real HTTP on this machine: it reads what lies ready, and nothing else can be asked of it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from gpuledger.errors import ConfigurationError
from gpuledger_collector import http
from gpuledger_collector.http import Document, Prepared, Server, Shelf, open_listener, parse_listen

PREPARED = Prepared(
    page=Document(
        body=b"<!DOCTYPE html>page",
        content_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": "default-src 'none'"},
    ),
    fleet=Document(body=b'{"schema":1}', content_type="application/json"),
    metrics=Document(body=b"up 1\n", content_type="text/plain; version=0.0.4; charset=utf-8"),
    openmetrics=Document(body=b"# EOF\n", content_type="application/openmetrics-text; version=1.0.0; charset=utf-8"),
)


@dataclass
class Health:
    wrong: str | None = None

    def check(self) -> str | None:
        return self.wrong


@asynccontextmanager
async def serving(prepared: Prepared | None = PREPARED, health: Health | None = None) -> AsyncIterator[str]:
    shelf = Shelf()
    shelf.prepared = prepared
    server = Server(shelf, open_listener("127.0.0.1:0"), (Health() if health is None else health).check)
    await server.start()
    try:
        yield f"http://{server.address}"
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("path", "document"),
    [("/", PREPARED.page), ("/metrics", PREPARED.metrics), ("/api/v1/fleet", PREPARED.fleet)],
    ids=["page", "metrics", "fleet"],
)
async def test_what_was_prepared_is_served(path: str, document: Document) -> None:
    async with serving() as url, aiohttp.ClientSession() as session:
        async with session.get(url + path) as answer:
            assert (answer.status, await answer.read()) == (200, document.body)
            assert answer.headers["Content-Type"] == document.content_type
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            tag = answer.headers["ETag"]
        async with session.head(url + path) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            assert answer.headers["Content-Length"] == str(len(document.body))
        async with session.get(url + path, headers={"If-None-Match": tag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")


async def test_metrics_come_as_openmetrics_to_those_who_ask_for_it() -> None:
    wanted = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    async with (
        serving() as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/metrics", headers=wanted) as got,
    ):
        assert await got.read() == PREPARED.openmetrics.body
        assert got.headers["Content-Type"].startswith("application/openmetrics-text")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(method: str) -> None:
    async with serving() as url, aiohttp.ClientSession() as session:
        for path in ("/", "/metrics", "/healthz", "/api/v1/fleet"):
            async with session.request(method, url + path) as answer:
                assert answer.status == 405
                assert answer.headers["Allow"] == "GET,HEAD"


async def test_what_is_not_there_is_not_found() -> None:
    async with serving() as url, aiohttp.ClientSession() as session, session.get(url + "/admin") as answer:
        assert answer.status == 404


async def test_health_is_what_the_check_says() -> None:
    health = Health()
    async with serving(health=health) as url, aiohttp.ClientSession() as session:
        async with session.get(url + "/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        health.wrong = "polling has made no progress for 90 s"
        async with session.get(url + "/healthz") as answer:
            assert (answer.status, await answer.text()) == (503, "polling has made no progress for 90 s\n")


async def test_before_anything_is_prepared_the_answer_is_to_come_again() -> None:
    async with serving(prepared=None) as url, aiohttp.ClientSession() as session:
        for path in ("/", "/metrics", "/healthz", "/api/v1/fleet"):
            async with session.get(url + path) as answer:
                assert (answer.status, await answer.text()) == (503, "nothing is prepared yet\n")


async def test_a_header_beyond_the_limit_is_refused() -> None:
    headers = {"X-Long": "x" * 20_000}
    async with serving() as url, aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        assert answer.status == 400


async def test_connections_beyond_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 1)
    async with serving() as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        refused, other = await asyncio.open_connection(host, int(port))
        assert await refused.read() == b""
        for stream in (writer, other):
            stream.close()


def test_a_port_in_use_is_said_in_one_sentence_and_is_an_error_of_usage() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError) as caught:
            open_listener(address)
    assert str(caught.value) == f"listen: {address}: the port is in use by another program"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["9500", ":9500", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_an_address_of_the_wrong_form_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"listen: '{text}' is not HOST:PORT"):
        parse_listen(text)


def test_addresses_of_both_families_are_understood() -> None:
    assert parse_listen("0.0.0.0:80") == ("0.0.0.0", 80)
    assert parse_listen("[::1]:9500") == ("::1", 9500)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-host.invalid:9500", "no-such-host.invalid is no address of this machine"),
        ("192.0.2.1:9500", "the address is not one of this machine"),
    ],
)
def test_an_address_that_is_not_ours_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"listen: {text}: {said}"):
        open_listener(text)
