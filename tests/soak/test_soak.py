# SPDX-License-Identifier: Apache-2.0
"""The agent for long, before the scripted library: flat memory, descriptors and threads, and an exact account.

Two ways to be long. Virtual time plays hours in seconds: it answers for memory and for exactness, since every tick is
made. Real time (SOAK_MINUTES, two in CI, an hour by `make soak`) has what virtual time has not: real processes that
end, clients that scrape, poll and hang, and a collector that cannot be reached.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from gpuledger.clock import SystemClock
from gpuledger.states import OBSERVED
from tests.abi.conftest import library, stage
from tests.abi.oracle import Run, expect
from tests.abi.readings import account
from tests.abi.stage import WALL_START_MS, Stage
from tests.fakes.agents import sealed, spans
from tests.integration.agents import RunningAgent, public_key
from tests.soak.churn import restless
from tests.soak.footprint import Footprint, describe, look, settled

__all__ = ["library", "stage"]
pytestmark = [pytest.mark.abi, pytest.mark.slow, pytest.mark.soak]
HOUR_MS = 3_600_000
VIRTUAL_HOURS = float(os.environ.get("SOAK_VIRTUAL_HOURS", "2"))
MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))
PROCESSES_AN_HOUR = 10_000
"""Far more names than the agent remembers: whatever keeps something of each shows."""
LIFE_MS = (10_000, 20_000)
"""So long that each is seen: the agent reads the lists of processes every ten seconds."""
GROWTH_BYTES_MAX = 1 << 20
"""For the allocator's own moods, and caches that fill."""
GROWTH_BYTES_AN_HOUR_MAX = 32 << 10
"""For the journal's index: an entry for each reading that can be served."""
FIRST_PID = 4_200_001


def assert_flat(looks: list[Footprint], hours: float) -> None:
    """After the first quarter nothing grows, but for what the journal's index takes."""
    later = settled(looks)
    grown = max(look.resident_bytes for look in later[-len(later) // 4 :]) - later[0].resident_bytes
    allowed = GROWTH_BYTES_MAX + hours * GROWTH_BYTES_AN_HOUR_MAX
    assert grown <= allowed, f"{grown} bytes more than after a quarter of the time: {describe(looks)}"
    # One more of each may be open while a request is answered or a file is written.
    for name in ("descriptors", "threads"):
        counts = [getattr(look, name) for look in later]
        assert min(counts[-len(counts) // 4 :]) <= min(counts[: len(counts) // 4]) + 1, f"{name}: {describe(looks)}"


def test_hours_of_churn_in_virtual_time_leave_memory_flat_and_the_account_exact(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    duration_ms = round(VIRTUAL_HOURS * HOUR_MS)
    pids = range(FIRST_PID, FIRST_PID + round(VIRTUAL_HOURS * PROCESSES_AN_HOUR))
    script = restless(duration_ms, pids, LIFE_MS, Random(11))
    put = stage(script, duration_ms=duration_ms)
    clock = put.clock
    assert clock is not None
    looks: list[Footprint] = []
    command = [sys.executable, "-m", "tests.abi.run_agent", str(tmp_path / "state")]
    with (tmp_path / "log").open("wb") as log:
        agent = subprocess.Popen(command, env=put.env, stdout=log, stderr=log)
    while agent.poll() is None:
        found = look(agent.pid, clock.script_ms() / 1000)
        if found is not None and found.time_s > 0:
            looks.append(found)
        with suppress(subprocess.TimeoutExpired):
            agent.wait(0.05)
    assert agent.returncode == 0, (tmp_path / "log").read_text()
    # The last looks may have met the end of the program.
    looks = [found for found in looks if found.time_s < 0.99 * duration_ms / 1000]
    print(f"virtual time, {describe(looks)}")  # noqa: T201 - for whoever runs `make soak`
    assert_flat(looks, VIRTUAL_HOURS)
    truth = expect(script, [Run(start_ms=0, end_ms=duration_ms)], wall_start_ms=WALL_START_MS)
    assert account(tmp_path / "state") == truth
    assert "Traceback" not in (tmp_path / "log").read_text()


# ---------------------------------------------------------------------------------------------- real time


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    """Real processes that end one after the other while the soak lasts, and some that stay."""
    count = max(12, min(120, round(4 * MINUTES)))
    with ExitStack() as stack:
        pids = []
        for number in range(count):
            ends_s = 60 * MINUTES * (number + 1) / count if number % 3 else 10 * 60 * MINUTES
            process = stack.enter_context(subprocess.Popen(["sleep", f"{ends_s:.1f}"]))
            stack.callback(process.kill)
            pids.append(process.pid)
        yield pids


def visit(port: int, target: str) -> int:
    """Ask once, on a connection of its own; returns the status."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request("GET", target)
        answer = client.getresponse()
        answer.read()
        return answer.status


def test_minutes_of_churn_in_real_time_leave_everything_flat_and_no_second_uncounted(
    stage: Callable[..., Stage], tmp_path: Path, sleepers: list[int]
) -> None:
    duration_ms = round(MINUTES * 60_000)
    life_ms = (10_000, max(20_000, duration_ms // 4))
    put = stage(restless(duration_ms, sleepers, life_ms, Random(12)), virtual=False)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nobody = f"http://127.0.0.1:{gone.getsockname()[1]}"
    environment = {
        "LD_LIBRARY_PATH": put.env["LD_LIBRARY_PATH"],
        "GPULEDGER_ABI_SCRIPT": put.env["GPULEDGER_ABI_SCRIPT"],
        "GPULEDGER_AGENT_PUSH_URL": nobody,
        "GPULEDGER_AGENT_PUSH_INTERVAL_SECONDS": "1",
        "GPULEDGER_AGENT_HTTP_REQUEST_SECONDS": "5",
    }
    state_dir = tmp_path / "state"
    arguments = ["gpuledger", "agent", "run", "--listen", "127.0.0.1:0", "--state-dir", str(state_dir)]
    agent = RunningAgent(tmp_path / "log", arguments, environment)
    looks: list[Footprint] = []
    clock = SystemClock()
    try:
        agent.wait_until_started()
        port = agent.port()
        assert port is not None
        begin_ns = clock.boottime_ns()
        for second in range(round(MINUTES * 60)):
            clock.wait_until(begin_ns + second * 10**9)
            found = look(agent.process.pid, second)
            assert found is not None, agent.log
            looks.append(found)
            if second % 15 == 0:
                assert visit(port, "/metrics") == visit(port, "/v1/readings") == 200
                visit(port, "/healthz")
            if second % 20 == 10:
                # A client that asks and goes away, and one that says nothing until it is cut off.
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        ticks = agent.metrics()["gpuledger_agent_ticks_total"]
        failures = {name for name in agent.metrics() if name.startswith("gpuledger_agent_push_failures_total")}
    finally:
        agent.process.send_signal(signal.SIGTERM)
        agent.process.wait(60)
    print(f"real time, {describe(looks)}")  # noqa: T201 - for whoever runs `make soak`
    assert_flat(looks, MINUTES / 60)
    assert failures, "the collector that is not there was asked"
    assert "Traceback" not in agent.log
    readings = sealed(state_dir, public_key(state_dir))
    found_spans = spans(readings)
    assert all(before[1] == after[0] for before, after in pairwise(found_spans)), "a second is missing"
    span_ms = found_spans[-1][1] - found_spans[0][0]
    # A tick a second: how many there were says how long the agent must have metered, whatever the machine was at.
    assert abs(span_ms - ticks * 1000) <= 0.05 * span_ms + 5_000
    for reading in readings:
        for gpu in reading.gpus:
            assert gpu.state_slice_ms.keys() <= set(OBSERVED)
            accounted = sum(gpu.state_slice_ms.values()) + sum(gpu.uncovered_slice_ms.values())
            assert accounted == 7 * (reading.end_ms - reading.start_ms)
