# SPDX-License-Identifier: Apache-2.0
"""The door for pushed pages, over real HTTP: what is wrong with one costs only that one, and is counted by reason."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from gpuledger.errors import ReadingError
from gpuledger_collector.http import Port, Server, open_listener
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.push_door import PUSH_PATH
from gpuledger_collector.receive import Pushed, Receiver
from gpuledger_collector.shelf import Shelf
from gpuledger_collector.targets import Target
from tests.fakes.polling import DISK_FULL, StillClock

PAGE_BYTES_MAX = 20_000
PAGE = {"node_id": "ab" * 32, "node": "node-1", "journal": "j1", "live": {"edge_ms": 5, "gpus": [{"uuid": "GPU-1"}]}}
SENDER = Target(url="push:abababab", site="fra1")


@dataclass
class FakePushIntake:
    """Remembers what it was given; fails when told to."""

    error: Exception | None = None
    taken: list[tuple[Any, int | None]] = field(default_factory=list)
    sender: Target | None = SENDER
    gate: asyncio.Event | None = None
    shown: dict[str, str] = field(default_factory=dict)

    def accept_pushed(self, document: Mapping[str, Any], after: int | None, now_ms: int) -> Pushed:
        if self.error is not None:
            raise self.error
        self.taken.append((document, after))
        return Pushed(
            node="node-1",
            journal="j1",
            sequence=17,
            accepted=3,
            duplicates=1,
            refused={"future": 2},
            sender=self.sender,
            shown=self.shown,
        )


@dataclass
class Door:
    """A collector's port with nothing behind it but the door."""

    intake: FakePushIntake
    board: LiveBoard
    receiver: Receiver
    server: Server
    session: aiohttp.ClientSession

    async def push(self, body: bytes, after: str | None = "14", **headers: str) -> tuple[int, str]:
        url = f"http://{self.server.address}{PUSH_PATH}" + ("" if after is None else f"?after={after}")
        async with self.session.post(url, data=body, headers=headers) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def door(port: Port | None = None, *, is_enabled: bool = True) -> AsyncIterator[Door]:
    intake, board = FakePushIntake(), LiveBoard()
    receiver = Receiver(intake=intake, board=board, clock=StillClock(), page_bytes_max=PAGE_BYTES_MAX)
    port = Port(push_bytes_max=PAGE_BYTES_MAX) if port is None else port
    server = Server(
        Shelf(), open_listener("127.0.0.1:0"), lambda: None, port=port, receiver=receiver if is_enabled else None
    )
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield Door(intake, board, receiver, server, session)
    await server.stop()
    receiver.close()


def page(**more: Any) -> bytes:
    return json.dumps(PAGE | more).encode()


async def test_a_page_is_taken_in_and_answered_with_how_far_the_journal_is_here() -> None:
    async with door() as found:
        status, text = await found.push(gzip.compress(page()), **{"Content-Encoding": "gzip"})
        assert (status, json.loads(text)) == (
            200,
            {"journal": "j1", "sequence": 17, "accepted": 3, "duplicates": 1, "refused": {"future": 2}},
        )
        assert (await found.push(page(), after=None))[0] == 200
        assert found.intake.taken == [(PAGE, 14), (PAGE, None)]
        figures = found.receiver.figures()
        assert (figures.pages, figures.accepted, figures.refused, figures.failures) == (2, 6, {"future": 4}, {})
        assert [node.target for node in found.board.nodes()] == [SENDER]


async def test_the_receipt_shows_the_checkpoint_of_the_log() -> None:
    async with door() as found:
        found.intake.shown = {"checkpoint": "log/a 5 root signature", "log_key": "key"}
        _, text = await found.push(page())
        assert json.loads(text).items() >= found.intake.shown.items()


async def test_unless_it_is_enabled_nothing_can_be_pushed() -> None:
    async with door(is_enabled=False) as found:
        assert await found.push(page()) == (403, "this collector takes no pushed readings (push.enabled)\n")
        assert found.intake.taken == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_readings_can_only_be_pushed_here(method: str) -> None:
    async with door() as found:
        url = f"http://{found.server.address}{PUSH_PATH}"
        answer = await found.session.request(method, url)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


BOMB = gzip.compress(b" " * (PAGE_BYTES_MAX + 1))
assert len(BOMB) < 200


@pytest.mark.parametrize(
    ("body", "headers", "after", "status", "reason", "said"),
    [
        (b"x" * (PAGE_BYTES_MAX + 1), {}, "0", 413, "too_large", f"the body is larger than {PAGE_BYTES_MAX} bytes"),
        (BOMB, {"Content-Encoding": "gzip"}, "0", 413, "too_large", f"the page is larger than {PAGE_BYTES_MAX} bytes"),
        (b"\x00\xff{]", {}, "0", 400, "not_json", "the body is not JSON"),
        (b"[" * 10_000, {}, "0", 400, "not_json", "the body is not JSON"),
        (b"[1, 2]", {}, "0", 400, "not_json", "the body is a JSON list, not an object"),
        (b"", {}, "0", 400, "not_json", "the body is not JSON"),
        (page(), {"Content-Encoding": "gzip"}, "0", 400, "not_json", "the body is not gzip"),
        (gzip.compress(page())[:-9], {"Content-Encoding": "gzip"}, "0", 400, "not_json", "gzip that was cut short"),
        (page(), {"Content-Encoding": "br"}, "0", 415, "not_json", "the body is neither gzip nor plain"),
        (page(), {}, "-1", 400, "rejected", "after is not an integer"),
        (page(), {}, "99999999999999999999", 400, "rejected", "after is not an integer"),
        (page(), {}, "", 400, "rejected", "after is not an integer"),
    ],
    ids=[
        "large",
        "bomb",
        "garbage",
        "deep",
        "list",
        "empty",
        "no gzip",
        "short",
        "br",
        "negative",
        "huge",
        "no number",
    ],
)
async def test_what_is_no_page_is_refused_and_the_next_one_is_taken(
    body: bytes, headers: dict[str, str], after: str, status: int, reason: str, said: str
) -> None:
    async with door() as found:
        answered = await found.push(body, after=after, **headers)
        assert answered[0] == status
        assert said in answered[1]
        assert found.receiver.figures().failures == {reason: 1}
        assert found.intake.taken == []
        assert (await found.push(page()))[0] == 200


async def chunks(parts: int) -> AsyncIterator[bytes]:
    for _ in range(parts):
        yield b"x" * 1000


async def test_a_body_that_does_not_say_its_size_is_cut_off_at_the_limit() -> None:
    async with door() as found:
        url = f"http://{found.server.address}{PUSH_PATH}"
        with pytest.raises((aiohttp.ClientError, ConnectionError)):  # noqa: PT012 - either the answer or the cut comes first
            async with found.session.post(url, data=chunks(100_000)) as answer:
                assert answer.status == 413
                raise aiohttp.ClientError
        assert found.receiver.figures().failures == {"too_large": 1}


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("framing", ["Content-Length: 5000", "Transfer-Encoding: chunked"])
async def test_who_goes_away_within_a_page_is_counted_and_fails_nobody(
    framing: str, caplog: pytest.LogCaptureFixture, *, is_reset: bool
) -> None:
    async with door() as found:
        host, port = found.server.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = "1000\r\nhalf a page" if "chunked" in framing else "half a page"
        writer.write(f"POST {PUSH_PATH}?after=0 HTTP/1.1\r\nHost: c\r\n{framing}\r\n\r\n{body}".encode())
        await writer.drain()
        await asyncio.sleep(0.05)  # It is being read by then; sooner is no page at all.
        if is_reset:
            writer.transport.abort()
        else:
            writer.close()
        async with asyncio.timeout(20):
            while True:
                if found.receiver.figures().failures == {"dropped": 1}:
                    break
                await asyncio.sleep(0.01)
        assert found.intake.taken == []
        assert (await found.push(page()))[0] == 200
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("error", "status", "reason", "said"),
    [
        (DISK_FULL, 503, "storage", "No space left on device"),
        (ReadingError("answer: journal is missing"), 400, "rejected", "cannot be taken in: answer: journal is missing"),
        (KeyError("secret"), 500, "internal", "this collector fails on that page; its log says more"),
    ],
)
async def test_a_page_that_cannot_be_taken_in_may_be_pushed_again(
    error: Exception, status: int, reason: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with door() as found:
        found.intake.error = error
        for _ in range(2):
            answered = await found.push(page())
            assert answered[0] == status
            assert said in answered[1]
            assert "secret" not in answered[1]
        assert found.receiver.figures().failures == {reason: 2}
        assert found.board.nodes() == []
        lines = [record for record in caplog.records if record.msg == "push_failed"]
        assert [(vars(line)["reason"], line.exc_info is not None) for line in lines] == [(reason, reason == "internal")]
        found.intake.error = None
        assert (await found.push(page()))[0] == 200


async def test_a_storage_that_is_full_says_when_to_come_again() -> None:
    async with door() as found:
        found.intake.error = DISK_FULL
        url = f"http://{found.server.address}{PUSH_PATH}?after=0"
        async with found.session.post(url, data=page()) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")


async def test_of_reasons_that_go_on_each_is_said_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock()
    receiver = Receiver(intake=FakePushIntake(), board=LiveBoard(), clock=clock, page_bytes_max=PAGE_BYTES_MAX)
    caplog.set_level(logging.INFO)
    for minute in range(25):
        clock.boottime = minute * 60 * 10**9
        await receiver.receive(b"[]", is_compressed=False, after=0)
        await receiver.receive(page(), is_compressed=False, after=0)
    receiver.close()
    assert [record.msg for record in caplog.records] == ["push_failed"] * 3
    assert receiver.figures().failures == {"not_json": 25}


async def test_a_body_that_does_not_come_is_not_waited_for_and_takes_no_place_for_long() -> None:
    async with door(Port(push_bytes_max=PAGE_BYTES_MAX, request_s=0.2, pushes_at_once=1)) as found:
        host, port = found.server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/readings?after=0 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        answer = (await reader.read()).decode()
        assert answer.startswith("HTTP/1.1 408 ")
        assert "the page did not come within 0.2 s" in answer
        writer.close()
        assert found.receiver.figures().failures == {"timeout": 1}
        assert (await found.push(page()))[0] == 200


async def test_more_pages_at_once_than_allowed_are_told_to_come_again() -> None:
    async with door(Port(push_bytes_max=PAGE_BYTES_MAX, pushes_at_once=1)) as found:
        host, port = found.server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = page()
        writer.write(b"POST /v1/readings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        async with asyncio.timeout(60):
            while (answered := await found.push(page()))[0] == 200:
                pass
        assert answered == (503, "1 pages are being received already\n")
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert (await found.push(page()))[0] == 200


async def test_only_whose_key_counts_is_shown_and_only_while_nobody_asks_it() -> None:
    clock, board, intake = StillClock(), LiveBoard(), FakePushIntake(sender=None)
    receiver = Receiver(intake=intake, board=board, clock=clock, page_bytes_max=PAGE_BYTES_MAX)
    await receiver.receive(page(), is_compressed=False, after=0)
    assert board.nodes() == []
    intake.sender = SENDER
    now_ms = clock.wall_ns() // 1_000_000
    polled = Target(url="http://node-1:9400")
    board.note(PAGE, polled, now_ms)
    await receiver.receive(page(), is_compressed=False, after=0)
    assert [node.target for node in board.nodes()] == [polled]
    clock.wall += 121 * 10**9
    await receiver.receive(page(), is_compressed=False, after=0)
    assert [node.target for node in board.nodes()] == [polled, SENDER]
    receiver.close()
