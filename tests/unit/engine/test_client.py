# SPDX-License-Identifier: Apache-2.0
"""The door to engines over real HTTP on this machine: what is sent, and what each failure is called."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp import web

from gpuledger.errors import ConfigurationError, EngineError
from gpuledger_collector.engine import client as client_module
from gpuledger_collector.engine.answer import Grid
from gpuledger_collector.engine.client import EngineClient, TooMuchError
from gpuledger_collector.engine.config import EngineConfig, load
from tests.fakes.certificates import Authority
from tests.fakes.engines import FakeEngine

GRID = Grid(first_ms=30_000, step_ms=30_000, count=4)
QUERY = 'last_over_time(M{job="x"}[59999ms])'


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_WAIT_S", 0.0)


def config(url: str, **more: object) -> EngineConfig:
    return load(None, {}, {"url": url, **more}).value


async def failure_of(engine: FakeEngine, **more: object) -> EngineError:
    async with engine.serving() as url, EngineClient(config(url, **more)) as client:
        with pytest.raises(EngineError) as caught:
            await client.rows(QUERY, GRID)
        assert str(caught.value).startswith(url)
        return caught.value


def refusing(status: int, text: str = "", times: int = 1_000) -> FakeEngine:
    left = [times]

    def refuse(path: str, values: object) -> web.Response | None:
        left[0] -= 1
        return web.Response(status=status, text=text) if left[0] >= 0 else None

    return FakeEngine(refuse=refuse)


async def test_a_range_is_asked_for_on_its_grid_and_whole_answers_only() -> None:
    engine = FakeEngine()
    engine.add("M", {"job": "x"}, [(10_000, 1.0), (95_000, 2.0)])
    async with engine.serving() as url, EngineClient(config(url + "/", headers={"X-Scope-OrgID": "team"})) as client:
        (row,) = await client.rows(QUERY, GRID)
        assert client.queries == 1
    assert row.values == [1.0, 1.0, None, 2.0]
    ((path, values),) = engine.asked
    assert path == "query_range"
    assert {name: values[name] for name in ("query", "start", "end", "step")} == {
        "query": QUERY,
        "start": "30",
        "end": "120",
        "step": "30",
    }
    assert (values["partial_response"], values["deny_partial_response"], values["nocache"]) == ("false", "1", "1")
    assert engine.headers[0]["X-Scope-OrgID"] == "team"


async def test_an_address_may_have_a_path_and_its_api() -> None:
    engine = FakeEngine(now_ms=1_234_500)
    async with engine.serving() as url, EngineClient(config(url + "/api/v1")) as client:
        assert await client.now_ms() == 1_234_500


async def test_a_password_and_a_token_are_shown_and_come_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    engine = FakeEngine()
    async with engine.serving() as url:
        for more in ({"bearer_token_file": secret}, {"username": "u", "password_file": secret}):
            async with EngineClient(config(url, **more)) as client:
                await client.now_ms()
    shown = [headers["Authorization"] for headers in engine.headers]
    assert shown == ["Bearer s3cret", "Basic " + base64.b64encode(b"u:s3cret").decode()]


async def test_an_engine_that_is_not_there_is_one_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    async with EngineClient(config(url)) as client:
        with pytest.raises(EngineError, match="refuses the connection: no engine listens there"):
            await client.now_ms()
    async with EngineClient(config("http://no-such-host.invalid:1")) as client:
        with pytest.raises(EngineError, match="cannot be reached"):
            await client.now_ms()


@pytest.mark.parametrize(
    ("status", "text", "sentence"),
    [
        (401, "", "refuses the login (HTTP 401)"),
        (403, '{"status":"error","error":"no org id"}', "refuses the login (HTTP 403): no org id"),
        (404, "404 page not found", "the address may need a path, like /prometheus for Mimir"),
        (302, "", "sends elsewhere (HTTP 302)"),
        (400, '{"status":"error","error":"parse error"}', "refuses the query (HTTP 400): parse error"),
        (500, "boom", "refuses the query (HTTP 500): boom"),
    ],
)
async def test_each_refusal_is_one_sentence_and_not_asked_again(status: int, text: str, sentence: str) -> None:
    engine = refusing(status, text)
    error = await failure_of(engine)
    assert sentence in str(error)
    assert not isinstance(error, TooMuchError)
    assert len(engine.asked) == 1


@pytest.mark.parametrize("status", [413, 422, 503, 504])
async def test_what_may_pass_if_less_is_asked_for_is_told_apart(status: int) -> None:
    error = await failure_of(refusing(status, '{"status":"error","error":"too many samples"}'))
    assert isinstance(error, TooMuchError)
    assert f"(HTTP {status}): too many samples" in str(error)


async def test_an_answer_that_is_too_large_is_given_up() -> None:
    engine = FakeEngine(refuse=lambda path, values: web.Response(body=b" " * (2 << 20)))
    error = await failure_of(engine, answer_bytes=1 << 20)
    assert isinstance(error, TooMuchError)
    assert "sends more than 1048576 bytes for one query" in str(error)


async def test_an_answer_that_takes_too_long_is_given_up_and_not_asked_for_again() -> None:
    release = asyncio.Event()

    class Slow(FakeEngine):
        async def _answer(self, request: web.Request) -> web.Response:
            self.asked.append(("", {}))
            await release.wait()
            return web.Response()

    engine = Slow()
    async with engine.serving() as url:
        slow = EngineConfig(url=url, query_timeout_seconds=0.2)
        async with EngineClient(slow) as client:
            with pytest.raises(TooMuchError, match=r"did not answer within 0\.2 s"):
                await client.now_ms()
        release.set()
    assert len(engine.asked) == 1


@pytest.mark.parametrize("status", [429, 502])
async def test_an_engine_that_is_busy_is_asked_again_a_few_times(status: int) -> None:
    engine = refusing(status, times=2)
    async with engine.serving() as url, EngineClient(config(url)) as client:
        await client.now_ms()
    assert len(engine.asked) == 3
    error = await failure_of(refusing(status, "slow down"))
    assert f"refuses the query (HTTP {status}): slow down" in str(error)


@pytest.mark.parametrize(
    ("beside", "sentence"),
    [
        ({"warnings": ["remote read failed"]}, "warns that its answer may not be whole: ['remote read failed']"),
        ({"isPartial": True}, "says that its answer is partial"),
    ],
)
async def test_an_answer_that_is_not_whole_is_an_error(beside: dict[str, object], sentence: str) -> None:
    assert sentence in str(await failure_of(FakeEngine(beside=beside)))


async def test_what_does_not_speak_http_is_one_sentence() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, EngineClient(config(f"http://127.0.0.1:{port}")) as client:
        with pytest.raises(EngineError, match="broke off or does not speak HTTP"):
            await client.now_ms()


async def test_an_engine_over_tls_is_believed_by_its_authority_and_may_ask_for_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("engine"), authority.issue("client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(server.cert, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    async with FakeEngine(now_ms=1000).serving(context) as url:
        shown = {"ca_file": authority.ca, "cert_file": client.cert, "key_file": client.key}
        async with EngineClient(config(url, **shown)) as asking:
            assert await asking.now_ms() == 1000
        async with EngineClient(config(url)) as asking:
            with pytest.raises(EngineError, match="cannot be trusted or does not speak TLS"):
                await asking.now_ms()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"url": "prometheus:9090"}, "url: 'prometheus:9090' is not http://HOST:PORT/PATH"),
        ({"url": "http://a:1/?x=1"}, "is not http://HOST:PORT/PATH"),
        ({"url": "http://u:p@a:1"}, "url: the address has a user name in it"),
        ({"url": "http://a b:1"}, "a space or control character"),
        ({"cert_file": Path("c")}, "cert_file and key_file go together"),
        ({"username": "u"}, "username and password_file go together"),
        (
            {"username": "u", "password_file": Path("p"), "bearer_token_file": Path("t")},
            "give one of basic_auth and bearer_token_file",
        ),
        ({"url": "http://far:9090", "bearer_token_file": Path("t")}, "is not https, so the password or token"),
        ({"headers": {"Authorization": "Bearer x"}}, "Authorization is not given this way"),
        ({"headers": {"X Y": "z"}}, "'X Y' is not the name of a header"),
        ({"headers": {"X-Y": "a\nb"}}, "or its value is not one line"),
        ({"scrape_interval_seconds": 301.0}, "--scrape-interval: 301.0 is more than 300"),
    ],
)
def test_wrong_settings_are_one_sentence(flags: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {}, flags)
    assert sentence in str(caught.value)


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text(
        'url = "https://mimir/prometheus"\nmatch = { cluster = "eu" }\nheaders = { X-Scope-OrgID = "team" }\n'
        'bearer_token_file = "token"\n[tls_config]\nca_file = "ca.pem"\n[limits]\nquery_points = 5000\n'
    )
    found = load(file, {"GPULEDGER_ENGINE_PROFILE": "nvitop"}, {"ca_file": Path("other.pem")}).value
    assert (found.url, found.profile, found.query_points) == ("https://mimir/prometheus", "nvitop", 5000)
    assert (found.match, found.headers) == ((("cluster", "eu"),), (("X-Scope-OrgID", "team"),))
    assert found.credentials.ca_file == Path("other.pem")
    assert found.credentials.bearer_token_file == Path("token")
