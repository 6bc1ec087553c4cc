# SPDX-License-Identifier: Apache-2.0
"""Two collectors of one site keep the same ledger, whatever happens to one of them; one that was away catches up."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuledger.cells import CELL_MS, HOUR_MS, floor_to
from gpuledger.clock import SystemClock
from gpuledger.states import State
from tests.fakes.programs import run_python
from tests.fakes.readings import FakeNode
from tests.integration.test_collector import Collector, NodeAgent, listening, serving, started

pytestmark = pytest.mark.slow

WEEK_CELLS = 2016
PATIENCE_S = 120


class Site:
    """Nodes that sealed something of most cells up to the current hour, and what their agents serve of it."""

    def __init__(self, nodes: int, cells: int, chance: random.Random) -> None:
        self.end_ms = floor_to(SystemClock().wall_ns() // 1_000_000, HOUR_MS)
        self.agents = [NodeAgent(self._node(f"node-{number}", cells, chance)) for number in range(nodes)]

    def _node(self, name: str, cells: int, chance: random.Random) -> FakeNode:
        node = FakeNode(name, gpus=2)
        for index in range(cells, 0, -1):
            if chance.random() > 0.1:
                half_ms = chance.randrange(CELL_MS // 2 + 1)
                states_ms = [{State.BUSY: half_ms}, {State.HELD: half_ms, State.DOWN: half_ms}]
                node.seal(self.end_ms - index * CELL_MS, states_ms=states_ms)
        return node

    @property
    def readings(self) -> int:
        return sum(len(agent.node.sealed) for agent in self.agents)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[list[str]]:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(serving(agent)) for agent in self.agents]

    async def is_taken_in(self, collector: Collector) -> None:
        """Wait until the collector has every node's newest reading, and then has brought its ledger up to date."""
        newest = {agent.node.name: agent.node.sealed[-1].reading.end_ms for agent in self.agents}
        async with asyncio.timeout(PATIENCE_S):
            await collector.fleet_when(
                lambda found: {node["node"]: node["sealed_ms"] for node in found["items"]} == newest, "/api/v1/nodes"
            )
            # The first refresh to end after that may have begun before it.
            for _ in range(2):
                await refresh_after(collector, SystemClock().wall_ns() / 1e9)

    def ledger_digest(self, directory: Path) -> str:
        """Return the digest of the whole ledger up to the hour in which the test began."""
        state = str(directory / "state")
        done = run_python("-m", "gpuledger", "ledger", "rebuild", "--state-dir", state)
        assert done.returncode == 0, done.stderr
        assert "the same as before" in done.stdout
        end = datetime.fromtimestamp(self.end_ms / 1000, UTC).isoformat()
        times = ("--from", "2020-01-01T00:00Z", "--to", end)
        done = run_python("-m", "gpuledger", "ledger", "digest", "--state-dir", state, *times)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[0]


async def refresh_after(collector: Collector, time_s: float) -> None:
    """Wait until the ledger was brought up to date after that time."""
    while True:
        _, metrics = await collector.get("/metrics")
        found = re.search(r"^gpuledger_collector_ledger_refresh_timestamp_seconds (\S+)", metrics, re.MULTILINE)
        if found is not None and float(found[1]) > time_s:
            return
        await asyncio.sleep(0.1)


def directories(parent: Path, *names: str) -> list[Path]:
    found = [parent / name for name in names]
    for path in found:
        path.mkdir()
    return found


async def test_two_collectors_keep_one_ledger_while_one_of_them_is_killed_again_and_again(tmp_path: Path) -> None:
    site = Site(nodes=3, cells=60, chance=random.Random(1))
    steady, killed = directories(tmp_path, "steady", "killed")
    async with site.serving() as urls:
        with started(steady, *urls) as one:
            for delay_s in (0.1, 0.3, 0.6, 1.0):
                with started(killed, *urls) as other:
                    await listening(other)
                    await asyncio.sleep(delay_s)
                    other.process.kill()
            with started(killed, *urls) as other:
                for collector in (one, other):
                    await listening(collector)
                    await site.is_taken_in(collector)
                    assert collector.stop() == 0
    assert site.ledger_digest(steady) == site.ledger_digest(killed)


async def test_a_collector_that_was_away_for_a_week_is_refilled_from_the_journals(tmp_path: Path) -> None:
    site = Site(nodes=1, cells=WEEK_CELLS + 24, chance=random.Random(2))
    (agent,) = site.agents
    later, agent.node.sealed = agent.node.sealed[12:], agent.node.sealed[:12]
    away, there = directories(tmp_path, "away", "there")
    async with site.serving() as urls:
        with started(away, *urls) as before:
            await listening(before)
            await site.is_taken_in(before)
            assert before.stop() == 0
        agent.node.sealed += later
        for directory in (away, there):
            with started(directory, *urls) as collector:
                await listening(collector)
                await site.is_taken_in(collector)
                assert collector.stop() == 0
    assert site.ledger_digest(away) == site.ledger_digest(there)
