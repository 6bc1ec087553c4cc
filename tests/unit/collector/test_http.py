# SPDX-License-Identifier: Apache-2.0
"""The server, over real HTTP on this machine: it reads what lies ready, and nothing else can be asked of it."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from yarl import URL

from gpuledger.errors import ConfigurationError
from gpuledger_collector import http
from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.http import Routes, Server, open_listener, parse_listen, takes_gzip
from gpuledger_collector.shelf import Prepared, Shelf
from tests.fakes.glance import a_published

PAGE = Document(
    body=b"<!DOCTYPE html>page",
    content_type="text/html; charset=utf-8",
    headers={"Content-Security-Policy": "default-src 'none'"},
)
FLEET = Document(body=b'{"schema":1}', content_type="application/json")
LONG = Document(body=b"long " * 1000, content_type="text/plain; charset=utf-8")
ROUTES: Routes = {
    "/": lambda published, asked: PAGE,
    "/api/v1/fleet": lambda published, asked: FLEET,
    "/long": lambda published, asked: LONG,
    "/named/{name}": lambda published, asked: Document(body=repr(asked).encode(), content_type="text/plain"),
}
PREPARED = Prepared(
    published=a_published(),
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
    server = Server(shelf, open_listener("127.0.0.1:0"), (Health() if health is None else health).check, routes=ROUTES)
    await server.start()
    try:
        yield f"http://{server.address}"
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("path", "document"),
    [("/", PAGE), ("/metrics", PREPARED.metrics), ("/api/v1/fleet", FLEET)],
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
    async with serving() as url, aiohttp.ClientSession() as session:
        async with session.get(url + "/admin") as answer:
            assert (answer.status, await answer.text()) == (404, "there is nothing at this address\n")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with session.get(url + "/api/v1/nowhere") as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


async def test_a_question_comes_decoded_with_its_path_and_its_query_in_order() -> None:
    address = "/named/rack%2F1%20%C3%A9?b=2&a=%26&b=1"
    wanted = Asked(path={"name": "rack/1 é"}, query=(("b", "2"), ("a", "&"), ("b", "1")))
    async with (
        serving() as url,
        aiohttp.ClientSession() as session,
        session.get(URL(url + address, encoded=True)) as answer,
    ):
        assert (await answer.text()) == repr(wanted)


async def test_what_is_long_goes_compressed_to_those_who_take_it() -> None:
    async with serving() as url, aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(url + "/long", headers={"Accept-Encoding": "br, gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await answer.read()) == LONG.body
            tag = answer.headers["ETag"]
        async with session.get(url + "/long", headers={"Accept-Encoding": "gzip;q=0, *"}) as answer:
            assert "Content-Encoding" not in answer.headers
            assert await answer.read() == LONG.body
            assert answer.headers["ETag"] == tag
            assert answer.headers["Vary"] == "Accept-Encoding"
        async with session.get(url + "/", headers={"Accept-Encoding": "gzip"}) as answer:
            assert await answer.read() == PAGE.body


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP;q=0.5", True),
        ("deflate", False),
        ("gzip;q=0", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=nonsense", False),
        ("identity, *;q=0.1", True),
    ],
)
def test_gzip_is_taken_as_the_header_says(header: str, takes: bool) -> None:
    assert takes_gzip(header) is takes


@pytest.mark.parametrize(("named", "status"), [("*", 304), ('W/"0", {}', 304), ('W/"0"', 200), ("{strong}", 304)])
async def test_any_tag_of_the_header_may_be_the_one(named: str, status: int) -> None:
    wanted = named.format(PAGE.tag, strong=PAGE.tag.removeprefix("W/"))
    async with (
        serving() as url,
        aiohttp.ClientSession() as session,
        session.get(url, headers={"If-None-Match": wanted}) as answer,
    ):
        assert answer.status == status


async def test_more_questions_at_once_than_allowed_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_REQUESTS_MAX", 0)
    async with serving() as url, aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")


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
        for path in ("/", "/metrics", "/healthz"):
            async with session.get(url + path) as answer:
                assert (answer.status, await answer.text()) == (503, "nothing is prepared yet\n")
        async with session.get(url + "/api/v1/fleet") as answer:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert (answer.status, (await answer.json(content_type=None))["detail"]) == (503, "nothing is prepared yet")


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
