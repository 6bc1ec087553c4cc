# SPDX-License-Identifier: Apache-2.0
"""A real agent whose clients hang and read slowly, as does the collector that it pushes to: no interval is missed."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from gpuledger.clock import SystemClock
from gpuledger_agent.crash_file import CrashFile
from tests.fakes.agents import sealed
from tests.integration.agents import PATIENCE_S, RunningAgent, public_key, simulated, wait_for

CONNECTIONS = 32
TICKS = 10


def open_span_ms(state_dir: Path) -> tuple[int, int] | None:
    """Return the span that the agent has open now, from its crash file."""
    opened = CrashFile(state_dir / "open").read()
    if opened is None:
        return None
    core = json.loads(json.loads(opened)[0]["core"])
    return core["start_ms"], core["end_ms"]


def hang(stack: ExitStack, port: int | None) -> socket.socket:
    """Open a connection, and begin a request that will never be whole."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: x")
    return client


@pytest.mark.slow
def test_hung_and_slow_clients_cost_no_interval(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    past = simulated(state_dir, tmp_path / "past.log", SystemClock().wall_ns() // 10**9 - 2 * 86_400, interval_s=60)
    past.wait_until_started()
    wait_for("two days to be played", lambda: past.metrics().get("gpuledger_agent_seals_total", 0) >= 576)
    past.terminate()
    arguments = ["gpuledger", "agent", "run", "--simulate", "serving", "--listen", "127.0.0.1:0"]
    with ExitStack() as stack:
        # It takes connections and says nothing, ever.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        environment = {
            "GPULEDGER_AGENT_HTTP_REQUEST_SECONDS": "300",
            "GPULEDGER_AGENT_STATE_DIR": str(state_dir),
            "GPULEDGER_AGENT_PUSH_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "GPULEDGER_AGENT_PUSH_INTERVAL_SECONDS": "1",
            "GPULEDGER_AGENT_PUSH_TIMEOUT_SECONDS": "2",
        }
        agent = RunningAgent(tmp_path / "log", arguments, environment)
        agent.wait_until_started()
        port = agent.port()
        for target in ("/metrics", "/v1/readings?limit=1000"):
            # The second answer is more than fits on the way: its sender is stuck for as long as this lasts.
            slow = stack.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            slow.settimeout(PATIENCE_S)
            slow.connect(("127.0.0.1", port))
            slow.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert slow.recv(1) == b"H"
        hung = [hang(stack, port) for _ in range(CONNECTIONS - 1)]
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as other:
            assert other.recv(12) == b"HTTP/1.0 503", "every connection is taken"

        def has_ticked() -> bool:
            for client in hung:
                with suppress(OSError):  # one that came while the answer with the metrics went out was refused
                    client.sendall(b"x")
            span_ms = open_span_ms(state_dir)
            return span_ms is not None and span_ms[1] - span_ms[0] >= TICKS * 1_000

        # A cell that ends meanwhile begins the count anew.
        wait_for(f"{TICKS} ticks", has_ticked)
        assert agent.log.count("event=connections_refused") == 1
        assert "event=push_failed reason=timeout" in agent.log
        agent.terminate()
    readings = [one for one in sealed(state_dir, public_key(state_dir)) if one.interval_ms == 1_000]
    assert sum(one.end_ms - one.start_ms for one in readings) >= TICKS * 1_000
    for reading in readings:
        for gpu in reading.gpus:
            assert gpu.uncovered_slice_ms == {}, "an interval was missed"
            assert sum(gpu.state_slice_ms.values()) == 7 * (reading.end_ms - reading.start_ms)
    assert "Traceback" not in agent.log
