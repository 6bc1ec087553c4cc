# SPDX-License-Identifier: Apache-2.0
"""A real agent pushes to a real collector over TLS, and either is killed again and again: nothing is lost or twice."""

from __future__ import annotations

import base64
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpuledger.access import new_token
from gpuledger.clock import SystemClock
from gpuledger.reading import digest
from gpuledger.sealing import load_or_create_key
from gpuledger_collector.check import check_log
from gpuledger_collector.identity import LOG
from gpuledger_collector.tiles import LogReader
from tests.fakes.agents import records
from tests.fakes.certificates import Authority
from tests.fakes.storage import Storage
from tests.integration.agents import PATIENCE_S, RunningAgent, simulated, wait_for

pytestmark = pytest.mark.slow
KILLS = 16
PAST_S = 60 * 86_400
PLACE = ("fra1", "unknown", "unknown")
INTERVAL_S = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Site:
    """A node and a collector, each with a directory; both may be started and killed in any order."""

    folder: Path
    authority: Authority
    chance: random.Random
    is_polled: bool
    token: str = ""
    start_s: int = field(default_factory=lambda: SystemClock().wall_ns() // 10**9 - PAST_S)
    port: int = field(default_factory=free_port)
    agent_port: int = field(default_factory=free_port)
    agent: RunningAgent | None = None
    collector: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.token, tokens_digest = new_token()
        for name, text in (("token", self.token), ("tokens", tokens_digest)):
            (self.folder / name).write_text(text + "\n")
            (self.folder / name).chmod(0o600)
        pair = self.authority.issue("collector")
        group = f'[[group]]\nsite = "fra1"\ntargets = ["http://127.0.0.1:{self.agent_port}"]\n' * self.is_polled
        (self.folder / "collector.toml").write_text(
            f'listen = "127.0.0.1:{self.port}"\nstate_dir = "{self.folder / "collector"}"\naccept_simulated = true\n'
            "poll_interval_seconds = 1\nrefresh_interval_seconds = 1\n"
            f'[tls_server_config]\ncert_file = "{pair.cert}"\nkey_file = "{pair.key}"\n'
            f'[push]\nenabled = true\nsite = "fra1"\nbearer_tokens_file = "{self.folder / "tokens"}"\n{group}'
        )

    @property
    def state_dir(self) -> Path:
        return self.folder / "node"

    def start_agent(self, from_s: int, until_s: int | None = None) -> None:
        """Start an agent that plays the past from a moment on; with `until_s` its time stands still there."""
        environment = {
            "GPULEDGER_AGENT_LISTEN": f"127.0.0.1:{self.agent_port}",
            "GPULEDGER_AGENT_PUSH_URL": f"https://127.0.0.1:{self.port}",
            "GPULEDGER_AGENT_PUSH_TLS_CONFIG_CA_FILE": str(self.authority.ca),
            "GPULEDGER_AGENT_PUSH_BEARER_TOKEN_FILE": str(self.folder / "token"),
            "GPULEDGER_AGENT_PUSH_INTERVAL_SECONDS": "1",
            "GPULEDGER_AGENT_PUSH_BATCH_READINGS": "50",
            "GPULEDGER_AGENT_JOURNAL_DAYS": "400",
        }
        if until_s is not None:
            environment["UNTIL_S"] = str(until_s)
        self.agent = simulated(self.state_dir, self.folder / "agent.log", from_s, INTERVAL_S, environment)

    def start_collector(self) -> None:
        arguments = ["-m", "gpuledger", "collector", "run", "--config", str(self.folder / "collector.toml")]
        with (self.folder / "collector.log").open("ab") as stream:
            self.collector = subprocess.Popen([sys.executable, *arguments], stdout=stream, stderr=stream)

    def kill_collector(self) -> None:
        assert self.collector is not None
        self.collector.kill()
        self.collector.wait()

    def end_s(self) -> int:
        """Return a moment after all that the node has written down."""
        path = self.state_dir / "open"
        opened = re.findall(rb'end_ms\\":(\d+)', path.read_bytes()) if path.exists() else []
        ends_ms = [int(found) for found in opened] + [record["end_ms"] for record in records(self.state_dir)]
        return max(ends_ms, default=self.start_s * 1000) // 1000 + INTERVAL_S

    def close(self) -> None:
        for process in (self.collector, None if self.agent is None else self.agent.process):
            if process is not None:
                process.kill()
                process.wait()


@contextmanager
def site(folder: Path, *, is_polled: bool) -> Iterator[Site]:
    folder.mkdir(exist_ok=True)
    found = Site(folder, Authority(folder / "authority"), random.Random(5), is_polled)
    try:
        yield found
    finally:
        found.close()


def check(site_: Site, sealed: list[dict[str, Any]]) -> None:
    """Prove the collector's log, and that its ledger is that of a collector that got everything at once."""
    with LogReader(site_.folder / "collector" / LOG) as log:
        checked = check_log(log)
    assert checked.failures == []
    assert checked.repeated == 0
    now_ms = SystemClock().wall_ns() // 1_000_000
    with (
        Storage(site_.folder / "collector", accept_simulated=True) as pushed,
        Storage(site_.folder / "fresh", accept_simulated=True) as fresh,
    ):
        arrived = [found.digest for found in pushed.store.readings(0, now_ms)]
        assert len(set(arrived)) == len(arrived)
        assert {digest(record["envelope"].encode()) for record in sealed} == set(arrived)
        # Each simulated life of the agent has a driver of its own, whose energy counters begin at 0.
        assert {finding.kind for finding in pushed.store.findings()} <= {"odometer_fell"}
        key = load_or_create_key(site_.state_dir / "key.pem")
        answer = {
            "node_id": key.node_id,
            "node": "simulated",
            "public_key": base64.b64encode(key.public_bytes).decode(),
            "journal": "journal",
            "first_sequence": 1,
            "last_sequence": len(sealed),
            "simulated": True,
            "readings": [],
        }
        for index in range(0, len(sealed), 1000):
            fresh.intake.accept_batch({**answer, "readings": sealed[index : index + 1000]}, now_ms=now_ms, place=PLACE)
        digests = []
        for storage in (pushed, fresh):
            storage.now_ms = now_ms
            storage.keeper.rebuild()
            storage.refresh()
            extent = storage.files.extent()
            assert extent is not None
            digests.append((extent, storage.files.digest(*extent)))
        assert digests[0] == digests[1]


def acknowledged(agent: RunningAgent) -> float:
    return agent.metrics().get("gpuledger_agent_push_acknowledged_sequence", 0)


@pytest.mark.parametrize("is_polled", [False, True], ids=["pushed", "pushed and polled"])
def test_whichever_is_killed_every_sealed_reading_arrives_once(tmp_path: Path, *, is_polled: bool) -> None:
    with site(tmp_path, is_polled=is_polled) as found:
        found.start_collector()
        found.start_agent(found.start_s)
        assert found.agent is not None
        for number in range(KILLS):
            time.sleep(found.chance.uniform(0, 1.2))
            if number % 2 == 0:
                found.kill_collector()
                found.start_collector()
            else:
                found.agent.kill()
                found.start_agent(found.end_s())
        # No more is sealed from here on: what is left of the backlog is pushed by lives that come to an end.
        agent = found.agent
        agent.wait_until_started()
        wait_for("the collector to take pages", lambda: acknowledged(agent) > 0)
        agent.terminate()
        sealed = records(found.state_dir)
        assert len(sealed) > 100
        found.start_agent(found.end_s(), until_s=found.end_s())
        after = found.agent
        after.wait_until_started()
        wait_for("all to be acknowledged", lambda: acknowledged(after) >= len(sealed))
        after.kill()
        assert found.collector is not None
        found.collector.send_signal(signal.SIGTERM)
        assert found.collector.wait(PATIENCE_S) == 0
        assert len(records(found.state_dir)) == len(sealed)
        check(found, sealed)
        log = (tmp_path / "collector.log").read_text() + (tmp_path / "agent.log").read_text()
        assert "Traceback" not in log
        assert "event=finding" not in log.replace("event=finding kind=odometer_fell", "")
