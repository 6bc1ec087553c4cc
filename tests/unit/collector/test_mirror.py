# SPDX-License-Identifier: Apache-2.0
"""The log over HTTP: a stranger mirrors it and proves it with nothing but what C2SP tlog-tiles says."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gpuledger.checkpoint import verify_checkpoint
from gpuledger.errors import StorageError
from gpuledger.merkle import TILE_WIDTH, Frontier, Tile, hash_leaf, nodes_of_tiles, root_of, tiles_of
from gpuledger_collector.documents import Document
from gpuledger_collector.http import LOG_REQUESTS_MAX, LogFiles, Server, open_listener
from gpuledger_collector.mirror import LogMirror
from gpuledger_collector.shelf import Shelf
from gpuledger_collector.tiles import LogReader
from tests.fakes.logs import IDENTITY, append, entries, open_log


@asynccontextmanager
async def serving(log: LogFiles | None) -> AsyncIterator[str]:
    server = Server(Shelf(), open_listener("127.0.0.1:0"), lambda: None, log=log)
    await server.start()
    try:
        yield f"http://{server.address}/log"
    finally:
        await server.stop()


async def fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as answer:
        assert answer.status == 200, url
        return await answer.read()


async def test_a_mirror_gets_every_file_and_proves_the_tree_with_them(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for count in (200, 300, 90):
            append(log, count)
        logged = entries(log)
    async with serving(LogMirror(LogReader(tmp_path))) as url, aiohttp.ClientSession() as session:
        found = verify_checkpoint(await fetch(session, f"{url}/checkpoint"), IDENTITY.key.public_bytes)
        tiles: dict[tuple[int, int], bytes] = {}
        bundles = []
        for level, count in tiles_of(found.size):
            for index in range(-(-count // TILE_WIDTH)):
                width = min(TILE_WIDTH, count - index * TILE_WIDTH)
                path = Tile(level=level, index=index, width=width).path
                tiles[level, index] = await fetch(session, f"{url}/{path}")
                if level == 0:
                    bundles.append(await fetch(session, f"{url}/{Tile(level=None, index=index, width=width).path}"))
                    beside = await fetch(session, f"{url}/{path.replace('tile/0', 'workloads')}")
                    assert beside.count(b"beside") == sum(number % 2 for number in numbers(logged, index))
    mirrored = [record for bundle in bundles for record in split(bundle)]
    assert mirrored == logged
    tree = Frontier()
    for record in mirrored:
        tree.append(hash_leaf(record))
    node = nodes_of_tiles(lambda level, index, width: tiles[level, index])
    assert tree.root() == found.root == root_of(found.size, node)


def numbers(logged: list[bytes], bundle: int) -> list[int]:
    """Return the numbers of the entries of a bundle, as tests.fakes.logs writes them."""
    some = logged[bundle * TILE_WIDTH : (bundle + 1) * TILE_WIDTH]
    return [int(data.split(b"entry ")[1]) for data in some if data.startswith(b"entry ")]


def split(bundle: bytes) -> list[bytes]:
    found = []
    while bundle:
        length = int.from_bytes(bundle[:2], "big")
        found.append(bundle[2 : 2 + length])
        bundle = bundle[2 + length :]
    return found


async def test_what_never_changes_may_be_kept_for_ever_and_the_checkpoint_not(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append(log, 5)
    async with serving(LogMirror(LogReader(tmp_path))) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/checkpoint") as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-cache"
        for path in ("tile/0/000.p/6", "tile/entries/000.p/2", "workloads/000.p/6"):
            async with session.get(f"{url}/{path}") as answer:
                assert answer.headers["Content-Type"] == "application/octet-stream"
                assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        *("tile/0/000", "tile/0/000.p/7", "tile/1/000.p/1", "tile/0/001.p/1", "tile/0/0", "tile/entries/000"),
        *("workloads/000", "workloads/0", "key", "lock", "ahead"),
        *("..%2flog.key", "%2e%2e/log.key", "tile/0/..%2f..%2fcheckpoint"),
    ],
)
async def test_what_is_not_published_is_not_found(tmp_path: Path, path: str) -> None:
    (tmp_path / "log.key").write_text("secret")
    with open_log(tmp_path / "log") as log:
        append(log, 5)
    async with (
        serving(LogMirror(LogReader(tmp_path / "log"))) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/{path}") as answer,
    ):
        assert answer.status == 404


async def test_before_the_first_checkpoint_and_without_a_log_there_is_nothing(tmp_path: Path) -> None:
    for log in (LogMirror(LogReader(tmp_path)), None):
        async with serving(log) as url, aiohttp.ClientSession() as session, session.get(f"{url}/checkpoint") as answer:
            assert answer.status == 404


async def test_large_files_come_compressed_to_those_who_take_it(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append([(b"the same again and again" * 10, None)] * 255, 0)
        expected = log.tile(Tile(level=None, index=0))
    async with serving(LogMirror(LogReader(tmp_path))) as url, aiohttp.ClientSession(auto_decompress=False) as session:
        path = f"{url}/tile/entries/000"
        async with session.get(path, headers={"Accept-Encoding": "gzip"}) as answer:
            assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
            assert len(await answer.read()) < len(expected or b"") / 10
        async with session.get(path, headers={"Accept-Encoding": "identity"}) as answer:
            assert "Content-Encoding" not in answer.headers
            assert await answer.read() == expected
    async with aiohttp.ClientSession() as session, serving(LogMirror(LogReader(tmp_path))) as url:
        assert await fetch(session, f"{url}/tile/entries/000") == expected


async def test_a_file_that_is_damaged_is_an_error_that_names_it(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append(log, 5)
    (tmp_path / "tile" / "0" / "000").unlink()
    async with (
        serving(LogMirror(LogReader(tmp_path))) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/tile/0/000.p/6") as answer,
    ):
        assert (answer.status, "tile/0/000: is missing" in await answer.text()) == (500, True)


class SlowLog:
    """A log on a disk that does not answer until it is let go."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked = 0

    def find(self, path: str) -> Document | None:
        self.asked += 1
        if not self.release.wait(20):
            raise StorageError("nobody let it go")
        return Document(body=b"x", content_type="text/plain")


async def test_more_files_than_are_read_at_once_are_refused_for_now(tmp_path: Path) -> None:
    log = SlowLog()
    async with serving(log) as url, aiohttp.ClientSession() as session:

        async def status() -> int:
            async with session.get(f"{url}/checkpoint") as answer:
                return answer.status

        waiting = [asyncio.create_task(status()) for _ in range(LOG_REQUESTS_MAX + 3)]
        refused, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in refused} == {503}
        log.release.set()
        statuses = await asyncio.gather(*waiting)
        assert (statuses.count(200), statuses.count(503)) == (LOG_REQUESTS_MAX, 3)
        assert await status() == 200
