# SPDX-License-Identifier: Apache-2.0
"""Real agents on small file systems: the journal keeps to its bounds, and a full disk costs nothing for good."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from gpuledger.clock import SystemClock
from tests.fakes.agents import records, sealed, spans
from tests.integration.agents import RunningAgent, public_key, simulated, wait_for

pytestmark = pytest.mark.slow
START_S = 1_763_812_800
MIB = 1 << 20
JOURNAL_BYTES = 16 * MIB
SEGMENT_BYTES = 4 * MIB
PLAYED_DAYS = 14
CELLS = PLAYED_DAYS * 288 - 2
TICKS = "gpuledger_agent_ticks_total"

MakeDisk = Callable[[int], Path]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """`make_disk(size_bytes)`: an ext4 file system of that size, in a file of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing: install Debian's package e2fsprogs")
    mounted: list[Path] = []

    def make(size_bytes: int) -> Path:
        image, place = tmp_path / "image", tmp_path / "disk"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        place.mkdir()
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
        done = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"this machine does not let a file system be mounted from a file: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    """Take all that is left of the disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.flush()
        try:
            os.fsync(file.fileno())
        except OSError:
            return


def has_ticked(agent: RunningAgent, goal: float) -> bool:
    return agent.metrics()[TICKS] >= goal


def test_a_disk_that_others_fill_again_and_again_stops_no_tick_and_costs_no_reading(
    tmp_path: Path, make_disk: MakeDisk
) -> None:
    disk = make_disk(32 * MIB)
    agent = simulated(disk / "state", tmp_path / "log", START_S, interval_s=5)
    try:
        agent.wait_until_started()
        for _ in range(3):
            wait_for("readings", lambda: agent.metrics().get("gpuledger_agent_seals_total", 0) > 0)
            fill(disk / "others")
            wait_for("cells to wait", lambda: agent.metrics()["gpuledger_agent_seals_pending"] >= 5)
            goal = agent.metrics()[TICKS] + 1
            wait_for("ticks", partial(has_ticked, agent, goal))
            assert agent.metrics()["gpuledger_agent_seal_failures_total"] > 0
            assert json.loads(agent.get("/v1/readings"))["readings"], "what is on disk is served"
            (disk / "others").unlink()
            wait_for("all to be sealed", lambda: agent.metrics()["gpuledger_agent_seals_pending"] == 0)
        assert agent.metrics()["gpuledger_agent_seals_dropped_total"] == 0
    finally:
        agent.terminate()
    found = spans(sealed(disk / "state", public_key(disk / "state")))
    assert all(before[1] == after[0] for before, after in pairwise(found)), "no cell is missing"
    assert agent.log.count("event=seal_failed") == agent.log.count("event=seal_recovered") >= 3
    assert "Traceback" not in agent.log


def test_a_journal_keeps_to_its_size_and_so_never_fills_a_disk_that_has_room_for_it(
    tmp_path: Path, make_disk: MakeDisk
) -> None:
    disk = make_disk(JOURNAL_BYTES + SEGMENT_BYTES + 8 * MIB)
    start_s = SystemClock().wall_ns() // 10**9 - PLAYED_DAYS * 86_400
    options = ["--simulate", "serving", "--simulate-from", str(start_s), "--interval", "150", "--listen", "127.0.0.1:0"]
    arguments = ["gpuledger", "agent", "run", *options, "--state-dir", str(disk / "state")]
    agent = RunningAgent(tmp_path / "log", arguments, {"GPULEDGER_AGENT_JOURNAL_BYTES": str(JOURNAL_BYTES)})
    try:
        agent.wait_until_started()
        wait_for("days", lambda: agent.metrics().get("gpuledger_agent_seals_total", 0) >= CELLS)
        metrics = agent.metrics()
        assert metrics["gpuledger_agent_seal_failures_total"] == 0
        assert metrics["gpuledger_agent_crash_file_failures_total"] == 0
        served = json.loads(agent.get("/v1/readings?limit=1"))
    finally:
        agent.terminate()
    files = sorted((disk / "state" / "journal").glob("*.jsonl"))
    assert sum(path.stat().st_size for path in files) <= JOURNAL_BYTES
    assert sum(path.stat().st_size for path in files) > JOURNAL_BYTES - SEGMENT_BYTES, (
        "no more was dropped than had to be"
    )
    kept = [record["sequence"] for record in records(disk / "state")]
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert kept[0] == served["first_sequence"] == served["readings"][0]["sequence"] > 1
    assert kept[-1] >= CELLS
