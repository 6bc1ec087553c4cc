# SPDX-License-Identifier: Apache-2.0
"""A real collector whose agents come from a file and from a URL, and change while it runs."""

import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.integration.test_collector import NodeAgent, a_node_until_now, listening, serving, started

pytestmark = pytest.mark.slow


def entry(*urls: str, **labels: str) -> str:
    return json.dumps([{"targets": [url.removeprefix("http://") for url in urls], "labels": labels}])


async def test_agents_are_polled_as_soon_as_they_are_listed_and_until_they_are_not(tmp_path: Path) -> None:
    agents = [NodeAgent(a_node_until_now()) for _ in range(2)]
    listed = {"text": "[]"}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=listed["text"], content_type="application/json")

    app = web.Application()
    app.router.add_get("/targets", answer)
    inventory = TestServer(app, host="127.0.0.1")
    await inventory.start_server()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(inventory.close)
        one, other = [await stack.enter_async_context(serving(agent)) for agent in agents]
        file = tmp_path / "targets.yml"
        file.write_text("[]\n")
        url = f"http://127.0.0.1:{inventory.port}/targets"
        settings = (
            f'[[group]]\npool = "h100"\n'
            f'file_sd_configs = [{{ files = ["{file}"], refresh_interval_seconds = 1 }}]\n'
            f'http_sd_configs = [{{ url = "{url}", refresh_interval_seconds = 1 }}]\n'
            'relabel_configs = [{ source_labels = ["dc"], target_label = "site", action = "lowercase" }]\n'
        )
        with started(tmp_path, settings=settings) as collector:
            await listening(collector)
            await collector.fleet_when(lambda found: found["agents"]["configured"] == 0)
            file.write_text(f"- targets: [{one.removeprefix('http://')}]\n  labels: {{dc: FRA1, rack: r12}}\n")
            await collector.fleet_when(lambda found: found["agents"]["up"] == 1)
            found = await collector.fleet_when(lambda found: bool(found["items"]), "/api/v1/nodes")
            assert [(node["node"], node["site"], node["agent"]) for node in found["items"]] == [("node-1", "fra1", one)]
            assert found["items"][0]["rack"] == "r12"
            listed["text"] = entry(other, dc="BER2")
            await collector.fleet_when(lambda found: found["agents"]["up"] == 2)
            listed["text"] = "no list at all"
            _, metrics = await collector.get("/metrics")
            while f'gpuledger_collector_target_list_up{{list="{url}"}} 0.0' not in metrics:
                _, metrics = await collector.get("/metrics")
            assert "gpuledger_collector_targets 2.0" in metrics
            file.write_text("[]\n")
            await collector.fleet_when(lambda found: found["agents"]["configured"] == 1)
            listed["text"] = "[]"
            await collector.fleet_when(lambda found: found["agents"]["configured"] == 0)
            assert collector.stop() == 0
        log = collector.log.read_text()
    assert "Traceback" not in log
    assert log.count("event=target_list_failed") == log.count("event=target_list_recovered") == 1
    assert log.count("event=targets_changed") == 4
