# SPDX-License-Identifier: Apache-2.0
"""Real agents in trouble: no driver, a full disk. They stay up, say so once, count it, and lose nothing."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.fakes.agents import sealed, spans
from tests.integration.agents import RunningAgent, public_key, simulated, wait_for

START_S = 1_763_812_800


def test_an_agent_without_a_driver_stays_up_says_why_once_and_tries_again(tmp_path: Path) -> None:
    # What is no library stands where the loader looks first, so that this holds on a machine with a driver too.
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library\n")
    arguments = ["gpuledger", "agent", "run", "--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0"]
    agent = RunningAgent(tmp_path / "log", arguments, {"LD_LIBRARY_PATH": str(tmp_path)})
    try:
        agent.wait_until_started()
        failures = 'gpuledger_agent_driver_failures_total{reason="library_not_found"}'
        wait_for("a second attempt", lambda: agent.metrics().get(failures, 0) >= 2)
        assert agent.metrics()["gpuledger_agent_driver_attached"] == 0
        assert "gpuledger_agent_gpus_unidentified" not in agent.metrics()
        assert agent.health() == 200
        assert '"gpus": []' in agent.get("/v1/readings")
    finally:
        agent.terminate()
    assert agent.log.count("driver_unavailable") == 1
    assert "libnvidia-ml.so.1 was not found" in agent.log
    assert "Traceback" not in agent.log


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(path)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("this machine does not let a small file system be mounted")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def is_whole(path: Path) -> bool:
    return path.read_bytes()[-1:] in (b"\n", b"")


def fill_and_free(state_dir: Path, log: Path, fill: Callable[[int], None], free: Callable[[int], None]) -> None:
    """Let an agent seal until it cannot, then let it write again; all it metered must be there, once."""
    agent = simulated(state_dir, log, START_S, interval_s=5)
    try:
        agent.wait_until_started()
        fill(agent.process.pid)
        wait_for("three cells to wait", lambda: agent.metrics()["gpuledger_agent_seals_pending"] >= 3)
        assert agent.metrics()["gpuledger_agent_seal_failures_total"] > 0
        # Each tick tries again, and takes back what did not fit: between the two a look may find half a line.
        journal = state_dir / "journal"
        wait_for("no line to be half written", lambda: all(is_whole(path) for path in journal.glob("*.jsonl")))
        free(agent.process.pid)
        wait_for("all to be sealed", lambda: agent.metrics()["gpuledger_agent_seals_pending"] == 0)
        assert agent.metrics()["gpuledger_agent_seals_dropped_total"] == 0
    finally:
        agent.terminate()
    found = spans(sealed(state_dir, public_key(state_dir)))
    assert all(before[1] == after[0] for before, after in pairwise(found)), "no cell is missing"
    assert agent.log.count("event=seal_failed") == agent.log.count("event=seal_recovered") >= 1
    assert "Traceback" not in agent.log


@pytest.mark.slow
def test_a_full_disk_delays_seals_and_loses_none(tmp_path: Path, small_disk: Path) -> None:
    def grow(_: int) -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)

    fill_and_free(small_disk / "state", tmp_path / "log", lambda pid: None, grow)


@pytest.mark.slow
def test_files_that_may_not_grow_delay_seals_and_lose_none(tmp_path: Path) -> None:
    """As a full disk, for who is not root: the kernel cuts writes short beyond a size."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (60_000, unlimited[1]))

    def lift(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)

    fill_and_free(tmp_path / "state", tmp_path / "log", limit, lift)
