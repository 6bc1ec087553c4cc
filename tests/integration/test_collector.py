# SPDX-License-Identifier: Apache-2.0
"""The collector as a process of its own, polling agents over HTTP on this machine: start, figures, restart, refusal."""

import asyncio
import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, floor_to
from gpuledger.checkpoint import line_of, note_of
from gpuledger.clock import SystemClock
from gpuledger.sealing import load_or_create_key
from gpuledger.states import State
from tests.fakes.readings import FakeNode

PATIENCE_S = 60

pytestmark = pytest.mark.slow


@dataclass
class NodeAgent:
    """An agent of a node that does not exist: real seals, served page by page."""

    node: FakeNode
    live: dict[str, Any] | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        after = (
            int(request.query["after"]) if request.query.get("journal", self.node.journal) == self.node.journal else 0
        )
        page = [one for one in self.node.sealed if one.reading.sequence > after][: int(request.query["limit"])]
        return web.json_response(self.node.answer(page, live=self.live, checkpoints=self.checkpoints))


@asynccontextmanager
async def serving(agent: NodeAgent) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/v1/readings", agent.answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@dataclass
class Collector:
    """`gpuledger collector run` and what it logs."""

    process: subprocess.Popen[str]
    log: Path
    url: str = ""

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def fleet_when(self, is_there: Callable[[Any], bool], path: str = "/api/v1/fleet") -> Any:
        """Return what the interface says as soon as it shows what is wanted."""
        fleet: Any = None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status, text = await self.get(path)
                if status == 200 and is_there(fleet := json.loads(text)):
                    return fleet
                await asyncio.sleep(0.2)

    async def text_when(self, path: str, is_there: Callable[[str], bool]) -> str:
        """Return what is at a path as soon as it is what is wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                _, text = await self.get(path)
                if is_there(text):
                    return text
                await asyncio.sleep(0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextmanager
def started(directory: Path, *targets: str, settings: str = "") -> Iterator[Collector]:
    config = directory / "collector.toml"
    config.write_text(
        f'listen = "127.0.0.1:0"\nstate_dir = "{directory / "state"}"\npoll_interval_seconds = 1\n'
        # With so long a grace the node has sealed all that is settled, even if a cell ends while the test runs.
        f"refresh_interval_seconds = 1\nsettle_grace_seconds = 290\n{settings}\n"
        f'[[group]]\nsite = "fra1"\npool = "h100"\ntargets = {json.dumps(targets)}\n',
        encoding="utf-8",
    )
    log = directory / "collector.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuledger", "collector", "run", "--config", str(config)], stderr=file, text=True
        )
    collector = Collector(process, log)
    try:
        yield collector
    finally:
        process.kill()
        process.wait()


async def listening(collector: Collector) -> None:
    """Wait until the collector says where it listens."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := re.search(r"event=collector_started listen=(\S+)", collector.log.read_text())) is None:
            assert collector.process.poll() is None, collector.log.read_text()
            await asyncio.sleep(0.05)
    collector.url = f"http://{found.group(1)}"


def a_node_until_now(cells: int = 3) -> FakeNode:
    node = FakeNode(gpus=2)
    end_ms = floor_to(SystemClock().wall_ns() // 1_000_000, CELL_MS)
    busy = {State.BUSY: CELL_MS}
    for index in range(cells, 0, -1):
        node.seal(end_ms - index * CELL_MS, states_ms=[busy, {}])
    return node


async def test_sealed_readings_become_figures_on_the_page_in_json_and_in_metrics(tmp_path: Path) -> None:
    node = a_node_until_now()
    now_ms = SystemClock().wall_ns() // 1_000_000
    live = {"cell_ms": 0, "edge_ms": now_ms, "interval_ms": 1000, "gpus": [{"uuid": node.uuids[0], "state": "busy"}]}
    async with serving(NodeAgent(node, live)) as url:
        with started(tmp_path, url) as collector:
            await listening(collector)
            fleet = await collector.fleet_when(lambda found: found["settled_cell"] is not None)
            assert (fleet["simulated"], fleet["agents"]["up"]) == (False, 1)
            states = fleet["total"]["state_slice_ms"]
            assert states["busy"] in {2 * CELL_SLICE_MS, 3 * CELL_SLICE_MS}
            assert states == {"busy": states["busy"], "free": states["busy"]}
            nodes = await collector.fleet_when(lambda found: found["items"], "/api/v1/nodes")
            assert nodes["items"][0]["sealed_ms"] == node.sealed[-1].reading.end_ms
            gpus = await collector.fleet_when(lambda found: found["items"], "/api/v1/gpus?state=busy")
            assert [gpu["gpu"] for gpu in gpus["items"]] == node.uuids[:1]
            assert gpus["items"][0]["figures"]["state_slice_ms"] == {"busy": states["busy"]}
            status, page = await collector.get("/")
            assert status == 200
            assert "at least 50.0 %" in page
            assert "SIMULATED" not in page
            _, metrics = await collector.get("/metrics")
            assert "gpuledger_collector_readings_accepted_total 3.0" in metrics
            assert re.search(r'gpuledger_fleet_state_seconds_total\{[^}]*state="busy"\} [36]00.0', metrics)
            assert await collector.get("/healthz") == (200, "ok\n")
            assert collector.stop() == 0
            assert "Traceback" not in collector.log.read_text()


async def test_a_restart_asks_on_where_it_stopped_and_counts_nothing_again(tmp_path: Path) -> None:
    agent = NodeAgent(a_node_until_now())
    runs: list[list[dict[str, str]]] = []
    async with serving(agent) as url:
        for _ in range(2):
            with started(tmp_path, url) as collector:
                await listening(collector)
                fleet = await collector.fleet_when(lambda found: found["settled_cell"] is not None)
                assert collector.stop() == 0
            states = fleet["total"]["state_slice_ms"]
            assert states == {"busy": states["busy"], "free": states["busy"]}
            runs.append(list(agent.asked))
            agent.asked.clear()
    assert "journal" not in runs[0][0]
    # Where there is a log, a start asks first what agents were shown of it, and for no readings.
    witness, first = runs[1][:2]
    assert witness == {"after": str(2**63 - 1), "limit": "1"}
    assert (first["journal"], first["after"]) == (agent.node.journal, "3")


async def test_an_older_copy_put_back_signs_nothing_says_why_and_loses_nothing(tmp_path: Path) -> None:
    agent = NodeAgent(a_node_until_now(cells=1))
    async with serving(agent) as url:
        with started(tmp_path, url) as collector:
            await listening(collector)
            await collector.fleet_when(lambda found: found["nodes"] > 0)
            _, first = await collector.get("/log/checkpoint")
            assert collector.stop() == 0
        shutil.copytree(tmp_path / "state", tmp_path / "copy")
        agent.node.seal(agent.node.sealed[-1].reading.end_ms)
        with started(tmp_path, url) as collector:
            await listening(collector)
            newest = await collector.text_when("/log/checkpoint", lambda text: text != first)
            assert collector.stop() == 0
        shown = [asked["checkpoint"] for asked in agent.asked if "checkpoint" in asked]
        assert {asked["log_key"] for asked in agent.asked if "checkpoint" in asked} == {shown_key(tmp_path / "state")}
        assert note_of(shown[0]).decode().splitlines()[0] == newest.splitlines()[0]
        shutil.rmtree(tmp_path / "state")
        shutil.copytree(tmp_path / "copy", tmp_path / "state")
        agent.checkpoints = [line_of(newest)]
        with started(tmp_path, url) as collector:
            await listening(collector)
            await collector.text_when(
                "/healthz", lambda text: "an older copy was put back; put the right files back" in text
            )
            assert await collector.get("/log/checkpoint") == (200, first)
            assert collector.stop() == 0
        assert "event=log_refused" in collector.log.read_text()
        assert "Traceback" not in collector.log.read_text()
        done = run_collector("--config", str(tmp_path / "collector.toml"))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "(gpuledger log new-origin)" in done.stderr


def shown_key(state: Path) -> str:
    return base64.b64encode(load_or_create_key(state / "log.key").public_bytes).decode()


async def test_an_agent_that_cannot_be_reached_is_named_and_costs_only_itself(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{unused.getsockname()[1]}"
    async with serving(NodeAgent(a_node_until_now())) as url:
        with started(tmp_path, gone, url) as collector:
            await listening(collector)
            fleet = await collector.fleet_when(lambda found: found["agents"]["troubles"] and found["nodes"] > 0)
            text = f"{gone} refuses the connection: no agent listens there"
            assert fleet["agents"]["troubles"] == [{"agent": gone, "text": text}]
            assert fleet["agents"]["up"] == 1
            assert collector.log.read_text().count("event=target_failed") == 1


async def test_simulated_readings_are_not_taken_in_unless_wanted_and_then_all_is_marked(tmp_path: Path) -> None:
    node = FakeNode(gpus=1, simulated=True)
    node.seal_cells(floor_to(SystemClock().wall_ns() // 1_000_000, CELL_MS) - 3 * CELL_MS, 3)
    async with serving(NodeAgent(node)) as url:
        with started(tmp_path, url) as collector:
            await listening(collector)
            await collector.fleet_when(lambda found: found["agents"]["up"] == 1)
            _, metrics = await collector.get("/metrics")
            assert 'gpuledger_collector_readings_refused_total{reason="simulated"}' in metrics
            assert "gpuledger_collector_readings_accepted_total 0.0" in metrics
        with started(tmp_path, url, settings="accept_simulated = true") as collector:
            await listening(collector)
            fleet = await collector.fleet_when(lambda found: found["settled_cell"] is not None)
            assert fleet["simulated"] is True
            _, page = await collector.get("/")
            assert "<title>SIMULATED" in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('targets = ["http://a:1"]', 'targets = ["a:1"]'), "group 1: targets: 'a:1' is not http://HOST:PORT"),
        (('site = "fra1"', "site = 7"), "group 1: site: 7 is not a text of 1 to 128 characters"),
        (("listen = ", "listne = "), "unknown key 'listne'"),
        (("[[group]]", "[[group]"), "not valid TOML"),
    ],
    ids=["address", "site", "key", "toml"],
)
def test_bad_configuration_is_one_sentence_and_exit_code_2(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    config = tmp_path / "collector.toml"
    text = f'listen = "127.0.0.1:0"\nstate_dir = "{tmp_path / "state"}"\n[[group]]\nsite = "fra1"\ntargets = ["http://a:1"]\n'
    assert change[0] in text
    config.write_text(text.replace(*change), encoding="utf-8")
    done = run_collector("--config", str(config))
    assert done.returncode == 2
    assert re.fullmatch(r"Error: .*\n", done.stderr)
    assert str(config) in done.stderr
    assert said in done.stderr


def test_a_port_in_use_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_collector("--listen", address, "--state-dir", str(tmp_path / "state"))
    assert done.returncode == 2
    assert done.stderr == f"Error: listen: {address}: the port is in use by another program\n"


def run_collector(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpuledger", "collector", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
