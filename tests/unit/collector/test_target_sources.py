# SPDX-License-Identifier: Apache-2.0
"""Lists of targets that change while the collector runs: added, removed, and as they last were where one fails."""

import asyncio
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gpuledger_collector import target_sources
from gpuledger_collector.target_sources import Discovery
from gpuledger_collector.targets import Target, load_groups


@dataclass
class Watch:
    """A discovery, looked at step by step."""

    folder: Path
    text: str
    lists: list[tuple[str, ...]] = field(default_factory=list)
    """The addresses of each list that was handed on, in order."""
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        file = self.folder / "collector.toml"
        file.write_text(self.text.replace("FOLDER", str(self.folder)))
        self.discovery = Discovery(load_groups(file), self.note, random.Random(7))

    def note(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self.lists.append(tuple(target.url for target in targets))

    async def look(self) -> list[float]:
        """Look at every list once; returns after how many seconds each is looked at again."""
        async with self.discovery._session() as session:
            return [await self.discovery.look(session, kept) for kept in self.discovery._kept]

    def now(self) -> tuple[str, ...]:
        return self.lists[-1] if self.lists else ()


FILES = """
[[group]]
site = "fra1"
pool = "h100"
targets = ["http://static:1"]
file_sd_configs = [{ files = ["FOLDER/lists/*.json", "FOLDER/one.yml"] }]
relabel_configs = [
    { source_labels = ["__meta_filepath"], regex = ".*/(.*)[.]json", target_label = "cluster" },
    { source_labels = ["state"], regex = "retired", action = "drop" },
]
"""


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    (tmp_path / "lists").mkdir()
    (tmp_path / "one.yml").write_text("- targets: [y:1]\n  labels: {rack: r7}\n")
    return Watch(tmp_path, FILES)


def write(path: Path, *addresses: str, **labels: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps([{"targets": addresses, "labels": labels}]))
    beside.replace(path)


async def test_targets_of_files_come_and_go_while_it_runs(watch: Watch, tmp_path: Path) -> None:
    before = watch.discovery.is_complete
    await watch.look()
    assert (before, watch.discovery.is_complete) == (False, True)
    assert watch.now() == ("http://static:1", "http://y:1")
    write(tmp_path / "lists" / "train.json", "a:1", "b:2")
    await watch.look()
    assert watch.now() == ("http://static:1", "http://a:1", "http://b:2", "http://y:1")
    write(tmp_path / "lists" / "train.json", "b:2", "https://c:3", site="ber2")
    await watch.look()
    assert watch.now() == ("http://static:1", "http://b:2", "https://c:3", "http://y:1")
    assert watch.targets[1:] == (
        Target(url="http://b:2", site="ber2", cluster="train", pool="h100"),
        Target(url="https://c:3", site="ber2", cluster="train", pool="h100"),
        Target(url="http://y:1", site="fra1", pool="h100", rack="r7"),
    )
    (tmp_path / "lists" / "train.json").unlink()
    await watch.look()
    assert watch.now() == ("http://static:1", "http://y:1")


async def test_what_has_not_changed_is_neither_read_nor_handed_on_again(watch: Watch, tmp_path: Path) -> None:
    await watch.look()
    count = len(watch.lists)
    (tmp_path / "one.yml").chmod(0)  # whoever opened it now would fail, unless it is root
    status = (tmp_path / "one.yml").stat()
    with (tmp_path / "one.yml").open("r+b") as file:
        file.write(b"* not yaml")
    os.utime(tmp_path / "one.yml", ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(3):
        await watch.look()
    assert len(watch.lists) == count


async def test_rules_drop_and_a_target_that_cannot_be_polled_costs_only_itself(
    watch: Watch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lists" / "x.json").write_text(
        json.dumps(
            [
                {"targets": ["good:1", "bad:99999", "a b:1", "good:1", "static:1"]},
                {"targets": ["gone:1"], "labels": {"state": "retired"}},
                {"targets": ["long:1"], "labels": {"site": "x" * 129}},
            ]
        )
    )
    await watch.look()
    assert watch.now() == ("http://static:1", "http://good:1", "http://y:1")
    assert watch.discovery.figures().refused == 3
    lines = [record for record in caplog.records if record.msg == "targets_refused"]
    assert "99999" in vars(lines[-1])["first"]
    await watch.look()
    assert len([record for record in caplog.records if record.msg == "targets_refused"]) == len(lines)


async def test_a_file_that_cannot_be_used_keeps_what_it_said_last_and_the_others_go_on(
    watch: Watch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path / "lists" / "a.json", "a:1")
    await watch.look()
    (tmp_path / "lists" / "a.json").write_text('[{"targets": ["a:1", "half')
    write(tmp_path / "lists" / "b.json", "b:1")
    (tmp_path / "one.yml").unlink()
    for _ in range(2):
        await watch.look()
    assert watch.now() == ("http://static:1", "http://a:1", "http://b:1", "http://y:1")
    name, other = f"{tmp_path}/lists/*.json", f"{tmp_path}/one.yml"
    figures = watch.discovery.figures()
    assert figures.up == {name: False, other: False}
    assert figures.failures == {(name, "invalid"): 2, (other, "unreadable"): 2}
    write(tmp_path / "lists" / "a.json", "a:2")
    (tmp_path / "one.yml").write_text("[]\n")
    await watch.look()
    assert watch.now() == ("http://static:1", "http://a:2", "http://b:1")
    assert watch.discovery.figures().up == {name: True, other: True}
    events = [record.msg for record in caplog.records if record.msg.startswith("target_list")]
    assert events == ["target_list_failed"] * 2 + ["target_list_recovered"] * 2


async def test_more_files_than_allowed_are_a_failure(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_sources, "FILES_MAX", 1)
    for name in ("a", "b"):
        write(tmp_path / "lists" / f"{name}.json", f"{name}:1")
    await watch.look()
    assert watch.now() == ("http://static:1", "http://a:1", "http://y:1")
    assert watch.discovery.figures().failures == {(f"{tmp_path}/lists/*.json", "too_large"): 1}


async def test_more_targets_than_allowed_are_refused_one_by_one(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_sources, "TARGETS_MAX", 2)
    write(tmp_path / "lists" / "a.json", "a:1", "b:1", "c:1")
    await watch.look()
    assert watch.now() == ("http://static:1", "http://a:1")
    assert watch.discovery.figures().refused == 3


# ---------------------------------------------------------------------------------------------- from a URL


@dataclass
class ListServer:
    """Hands out a list; `mode` says how it misbehaves."""

    document: Any = field(default_factory=list)
    mode: str = "good"
    headers: list[dict[str, str]] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        match self.mode:
            case "good":
                return web.json_response(self.document)
            case "500":
                return web.Response(status=500)
            case "redirect":
                return web.Response(status=302, headers={"Location": "/elsewhere"})
            case "huge":
                return web.Response(body=b" " * 5000)
            case "garbage":
                return web.Response(body=b"<html>")
            case "slow":
                await self.release.wait()
            case "drop":
                assert request.transport is not None
                request.transport.close()
            case _:
                raise AssertionError(self.mode)
        return web.Response(status=503)


@asynccontextmanager
async def serving(server: ListServer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/targets", server.answer)
    running = TestServer(app, host="127.0.0.1")
    await running.start_server()
    try:
        yield f"http://127.0.0.1:{running.port}/targets"
    finally:
        server.release.set()
        await running.close()


def url_group(url: str) -> str:
    return (
        f'[[group]]\nsite = "fra1"\nscheme = "https"\n'
        f'http_sd_configs = [{{ url = "{url}?key=secret", refresh_interval_seconds = 20 }}]\n'
        'relabel_configs = [{ source_labels = ["__meta_url"], regex = ".*/(.*)", target_label = "pool" }]\n'
    )


async def test_targets_of_a_url_come_and_go_while_it_runs(tmp_path: Path) -> None:
    server = ListServer([{"targets": ["a:1"], "labels": {"rack": "r1"}}])
    async with serving(server) as url:
        watch = Watch(tmp_path, url_group(url))
        (delay_s,) = await watch.look()
        assert 18 <= delay_s <= 22
        assert watch.targets == (Target(url="https://a:1", site="fra1", pool="targets", rack="r1"),)
        server.document = [{"targets": ["b:1"]}]
        await watch.look()
        assert watch.now() == ("https://b:1",)
        assert watch.discovery.figures().up == {url: True}
        assert server.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("500", "http_status"),
        ("redirect", "http_status"),
        ("huge", "too_large"),
        ("garbage", "invalid"),
        ("slow", "timeout"),
        ("drop", "unreachable"),
    ],
)
async def test_a_url_that_fails_keeps_what_it_said_last_backs_off_and_is_said_once(
    tmp_path: Path, mode: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(target_sources, "DOCUMENT_BYTES_MAX", 4000)
    if mode == "slow":
        monkeypatch.setattr(target_sources, "TIMEOUT_S", 0.2)
    caplog.set_level(logging.INFO)
    server = ListServer([{"targets": ["a:1"]}])
    async with serving(server) as url:
        watch = Watch(tmp_path, url_group(url))
        await watch.look()
        server.mode = mode
        delays = [(await watch.look())[0] for _ in range(6)]
        assert watch.now() == ("https://a:1",)
        for delay_s, wanted_s in zip(delays, (20, 40, 80, 160, 300, 300), strict=True):
            assert wanted_s * 0.75 <= delay_s <= wanted_s
        figures = watch.discovery.figures()
        assert (figures.up, figures.failures) == ({url: False}, {(url, reason): 6})
        server.mode = "good"
        server.release.set()
        await watch.look()
        assert watch.discovery.figures().up == {url: True}
    lines = [record for record in caplog.records if record.msg.startswith("target_list")]
    assert [line.msg for line in lines] == ["target_list_failed", "target_list_recovered"]
    assert "secret" not in str(vars(lines[0]))


async def test_a_list_that_never_came_is_looked_for_and_gives_nothing(tmp_path: Path) -> None:
    async with serving(ListServer()) as url:
        pass
    watch = Watch(tmp_path, url_group(url))
    await watch.look()
    assert watch.discovery.is_complete
    assert watch.now() == ()
    assert watch.discovery.figures().failures == {(url, "unreachable"): 1}


async def test_a_token_that_cannot_be_read_costs_only_its_list(tmp_path: Path) -> None:
    text = (
        "[[group]]\nhttp_sd_configs = [{ url = 'https://127.0.0.1:1/t', bearer_token_file = 'FOLDER/none' }]\n"
        "[[group]]\nfile_sd_configs = [{ files = ['FOLDER/a.json'] }]\n"
    )
    write(tmp_path / "a.json", "a:1")
    watch = Watch(tmp_path, text)
    await watch.look()
    assert watch.now() == ("http://a:1",)
    assert watch.discovery.figures().failures == {("https://127.0.0.1:1/t", "credentials"): 1}


async def test_it_runs_by_itself_until_cancelled(watch: Watch, tmp_path: Path) -> None:
    write(tmp_path / "lists" / "a.json", "a:1")
    seen = asyncio.Event()
    note = watch.note

    def notice(targets: Sequence[Target]) -> None:
        note(targets)
        if len(targets) == 3:
            seen.set()

    watch.discovery._on_change = notice
    running = asyncio.create_task(watch.discovery.run())
    async with asyncio.timeout(60):
        await seen.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert set(watch.now()) == {"http://static:1", "http://a:1", "http://y:1"}


async def test_without_lists_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    watch = Watch(tmp_path, "[[group]]\ntargets = ['http://a:1']\n")
    assert watch.discovery.is_complete
    assert watch.discovery.figures().up == {}
    assert await watch.look() == []
