# SPDX-License-Identifier: Apache-2.0
"""A real agent in each mode of privacy: every byte that it wrote, served and logged is searched for names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from gpuledger.clock import SystemClock
from tests.fakes.agents import records
from tests.integration.agents import RunningAgent, wait_for

USERS = (b"li.wei", b"SIMULATED serving")
WORKLOADS = (b"jupyter-lab", b"SIMULATED vllm")
PAST_S = 3 * 3_600


def everything(state_dir: Path, log: Path, served: list[str]) -> bytes:
    """Return all bytes there are: of every file in the state directory, of the log, and of the answers."""
    files = [path for path in sorted(state_dir.rglob("*")) if path.is_file()]
    assert {"journal.id", "open", "key.pem", "names.secret"} <= {path.name for path in files}
    return b"\n".join([*(path.read_bytes() for path in files), log.read_bytes(), *(text.encode() for text in served)])


def has_caught_up(agent: RunningAgent) -> bool:
    """Return whether it plays the present, with readings on disk."""
    metrics = agent.metrics()
    is_now = SystemClock().wall_ns() / 1e9 - metrics.get("gpuledger_agent_tick_timestamp_seconds", 0) < 60
    return is_now and metrics["gpuledger_agent_journal_last_sequence"] > 0


def play(state_dir: Path, log: Path, users: str, workloads: str) -> list[str]:
    """Run an agent, look at all that it serves, kill it, run it again; returns what was served."""
    environment = {
        "GPULEDGER_AGENT_PRIVACY_USERS": users,
        "GPULEDGER_AGENT_PRIVACY_WORKLOADS": workloads,
        "GPULEDGER_AGENT_LOG_LEVEL": "debug",
    }
    options = ["--simulate", "serving", "--listen", "127.0.0.1:0", "--state-dir", str(state_dir)]
    from_s = SystemClock().wall_ns() // 10**9 - PAST_S
    served = []
    for more in (["--simulate-from", str(from_s), "--interval", "5"], []):
        agent = RunningAgent(log, ["gpuledger", "agent", "run", *options, *more], environment)
        agent.wait_until_started()
        wait_for("the present", partial(has_caught_up, agent))
        served += [agent.get(target) for target in ("/metrics", "/v1/readings?limit=1000", "/healthz")]
        agent.kill()
    return served


@pytest.mark.slow
@pytest.mark.parametrize(
    ("users", "workloads"), [("digest", "digest"), ("digest", "plain"), ("plain", "digest"), ("plain", "plain")]
)
def test_no_name_leaks_that_the_site_did_not_open(tmp_path: Path, users: str, workloads: str) -> None:
    state_dir, log = tmp_path / "state", tmp_path / "log"
    served = play(state_dir, log, users, workloads)
    found = everything(state_dir, log, served)
    for names, mode in ((USERS, users), (WORKLOADS, workloads)):
        assert [name in found for name in names] == [mode == "plain"] * len(names)
    assert any(record["workloads"] for record in records(state_dir)), "there was somebody to name"
