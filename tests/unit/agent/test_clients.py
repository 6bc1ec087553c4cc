# SPDX-License-Identifier: Apache-2.0
"""Clients that hang or read slowly hold up nothing but themselves: no tick waits for a request."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpuledger_agent import server as server_module
from gpuledger_agent.exporter import AgentCollector, registry_of
from gpuledger_agent.http import Service
from gpuledger_agent.server import Limits, Server, serve
from tests.fakes.agents import Rig, spans
from tests.fakes.nvml import gpus

CONNECTIONS = 32


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A node that has something to hand out: fifty sealed cells."""
    rig = Rig(tmp_path, gpus(8))
    for gpu in rig.nvml.gpus:
        gpu.work(90, 4100)
    rig.agent.tick()
    for _ in range(50):
        rig.tick(60, interval_ms=5_000)
    return rig


@pytest.fixture
def server(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(server_module, "LOOK_S", 0.01)
    service = Service(
        view=lambda: rig.agent.view,
        feed=rig.feed(),
        interval_ms=1_000,
        clock=rig.clock,
        registry=registry_of(AgentCollector(lambda: rig.agent.view, rig.key.node_id, "node-1", 1.0, simulated=False)),
    )
    found = serve("127.0.0.1", 0, service, Limits(connections=CONNECTIONS, request_s=300))
    yield found
    found.shutdown()
    found.server_close()


def slow_reader(port: int, target: str) -> socket.socket:
    """Ask, take the first byte of the answer and no more: where the answer is large, its sender is stuck."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    client.settimeout(60)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert client.recv(1) == b"H"
    return client


def test_while_every_connection_hangs_the_agent_ticks_and_seals_without_a_gap(rig: Rig, server: Server) -> None:
    before = len(rig.readings())
    with ExitStack() as stack:
        stack.enter_context(slow_reader(server.server_port, "/metrics"))
        stack.enter_context(slow_reader(server.server_port, "/v1/readings?limit=1000"))
        for number in range(CONNECTIONS - 1):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=60))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: " + b"x" * number)
        rig.tick(900)
    readings = rig.readings()
    assert len(readings) == before + 3
    assert len(spans(readings)) == len(readings)
    for reading in readings[before:]:
        for gpu in reading.gpus:
            assert gpu.uncovered_slice_ms == {}
            assert sum(gpu.state_slice_ms.values()) == 7 * (reading.end_ms - reading.start_ms)
