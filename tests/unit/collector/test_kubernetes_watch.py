# SPDX-License-Identifier: Apache-2.0
"""Pods and nodes are listed once and then watched, against an API server that pages, changes, ends and fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gpuledger.clock import SystemClock
from gpuledger.errors import ConfigurationError
from gpuledger_collector.schedulers import kubernetes_watch
from gpuledger_collector.schedulers.kubernetes_watch import KubernetesCluster, KubernetesWatch
from tests.unit.collector.test_kubernetes import node, pod

TOKEN = "the-token"


@dataclass
class ApiServer:
    """Lists what it has in pages of two, and sends what a test puts into its queues."""

    objects: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"pods": [], "nodes": [node()]})
    events: dict[str, asyncio.Queue[Any]] = field(
        default_factory=lambda: {"pods": asyncio.Queue(), "nodes": asyncio.Queue()}
    )
    status: int = 200
    lists: list[str] = field(default_factory=list)
    watches: list[tuple[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        kind = request.path.rpartition("/")[2]
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        if self.status != 200:
            return web.Response(status=self.status)
        if "watch" in request.query:
            return await self._watch(request, kind)
        self.lists.append(kind)
        first = int(request.query.get("continue", "0"))
        items = self.objects[kind][first : first + 2]
        more = str(first + 2) if first + 2 < len(self.objects[kind]) else ""
        return web.json_response({"items": items, "metadata": {"resourceVersion": "100", "continue": more}})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        self.watches.append((kind, request.query["resourceVersion"]))
        answer = web.StreamResponse()
        await answer.prepare(request)
        while (event := await self.events[kind].get()) is not None:
            data = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
            for start in range(0, len(data), 50):
                await answer.write(data[start : start + 50])
        return answer

    def send(self, what: str, item: dict[str, Any], version: str, kind: str = "pods") -> None:
        item["metadata"]["resourceVersion"] = version
        self.events[kind].put_nowait({"type": what, "object": item})


@asynccontextmanager
async def watching(api: ApiServer, tmp_path: Path, token: str = TOKEN) -> AsyncIterator[KubernetesWatch]:
    (tmp_path / "token").write_text(f"{token}\n")
    app = web.Application()
    app.router.add_get("/api/v1/{kind}", api.answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    cluster = KubernetesCluster(name="k1", server=str(server.make_url("/")), token_file=tmp_path / "token")
    watch = KubernetesWatch(cluster, SystemClock(), chance=lambda: 0.0)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for queue in api.events.values():
            queue.put_nowait(None)
        await server.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.01)


def jobs(watch: KubernetesWatch) -> list[str]:
    view = watch.view()
    return [] if view is None else [allocation.job for allocation in view.allocations]


async def test_all_pages_are_listed_and_changes_are_taken_in(tmp_path: Path) -> None:
    api = ApiServer()
    api.objects["pods"] = [pod(f"p{number}", uid=str(number)) for number in range(5)]
    async with watching(api, tmp_path) as watch:
        await until(lambda: len(jobs(watch)) == 5)
        api.send("ADDED", pod("p9", uid="9"), "101")
        api.send("DELETED", pod("p0", uid="0"), "102")
        api.send("MODIFIED", pod("p1", uid="1", phase="Succeeded"), "103")
        await until(lambda: jobs(watch) == ["ml/p2", "ml/p3", "ml/p4", "ml/p9"])
        assert api.lists.count("pods") == 3
        assert watch.trouble is None


async def test_a_watch_that_ends_goes_on_from_where_it_was(tmp_path: Path) -> None:
    api = ApiServer()
    async with watching(api, tmp_path) as watch:
        api.send("ADDED", pod("p1", uid="1"), "150")
        api.events["pods"].put_nowait({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "180"}}})
        api.events["pods"].put_nowait(None)
        await until(lambda: ("pods", "180") in api.watches)
        assert jobs(watch) == ["ml/p1"]
        assert api.lists.count("pods") == 1


async def test_a_place_that_is_gone_is_listed_again(tmp_path: Path) -> None:
    api = ApiServer()
    async with watching(api, tmp_path) as watch:
        await until(lambda: ("pods", "100") in api.watches)
        api.objects["pods"] = [pod("p7", uid="7")]
        api.events["pods"].put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        await until(lambda: jobs(watch) == ["ml/p7"])
        assert api.lists.count("pods") == 2


@pytest.mark.parametrize(
    "event",
    [b"not json\n", b"7\n", b'{"type": "ADDED"}\n', b'{"type": "ERROR", "object": {"code": 500, "message": "no"}}\n'],
)
async def test_a_watch_that_says_nonsense_is_said_and_goes_on(
    tmp_path: Path, event: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_watch, "BACK_OFF_S_FIRST", 0.01)
    api = ApiServer()
    async with watching(api, tmp_path) as watch:
        await until(lambda: ("pods", "100") in api.watches)
        api.events["pods"].put_nowait(event)
        api.events["pods"].put_nowait(None)
        await until(lambda: api.watches.count(("pods", "100")) == 2)
        api.send("ADDED", pod("p1", uid="1"), "101")
        await until(lambda: jobs(watch) == ["ml/p1"])
        assert watch.trouble is None


@pytest.mark.parametrize(("status", "said"), [(403, "may not list and watch"), (500, "answers 500")])
async def test_a_server_that_refuses_is_said_until_it_answers(
    tmp_path: Path, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_watch, "BACK_OFF_S_FIRST", 0.01)
    api = ApiServer(status=status)
    async with watching(api, tmp_path) as watch:
        await until(lambda: watch.trouble is not None)
        assert said in str(watch.trouble)
        assert watch.view() is None
        api.status = 200
        await until(lambda: watch.view() is not None and watch.trouble is None)


async def test_a_token_that_is_not_accepted_is_said(tmp_path: Path) -> None:
    async with watching(ApiServer(), tmp_path, token="other") as watch:
        await until(lambda: watch.trouble is not None)
        assert "the token is not accepted" in str(watch.trouble)


async def test_environments_of_pods_are_not_kept(tmp_path: Path) -> None:
    api = ApiServer()
    secret = {
        "name": "main",
        "env": [{"name": "KEY", "value": "s3cret"}],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    api.objects["pods"] = [pod("p1", secret, uid="1")]
    async with watching(api, tmp_path) as watch:
        await until(lambda: jobs(watch) == ["ml/p1"])
        assert "s3cret" not in repr(watch._kept)


async def test_objects_of_any_form_are_kept_as_far_as_they_go(tmp_path: Path) -> None:
    api = ApiServer()
    async with watching(api, tmp_path) as watch:
        await until(lambda: ("pods", "100") in api.watches)
        odd = {
            "metadata": {"name": "odd"},
            "spec": {"containers": [7], "initContainers": 7},
            "status": {"conditions": 7},
        }
        api.send("ADDED", odd, "101")
        api.events["pods"].put_nowait({"type": "ADDED", "object": {"metadata": 7, "spec": [], "status": None}})
        api.send("ADDED", pod("p1", uid="1"), "102")
        await until(lambda: jobs(watch) == ["ml/p1"])


async def test_certificates_that_cannot_be_used_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    cluster = KubernetesCluster(name="k1", server="https://127.0.0.1:1", ca_file=tmp_path / "ca.pem", token_file=None)
    with pytest.raises(ConfigurationError, match=r"ca\.pem: cannot be used as certificates"):
        await KubernetesWatch(cluster, SystemClock()).run()
