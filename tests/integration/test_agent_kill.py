# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments, a hundred times over: nothing sealed is lost and no second is counted twice."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger_agent.crash_file import CrashFile
from tests.fakes.agents import sealed, spans
from tests.integration.agents import RunningAgent, public_key

KILLS = 100
INTERVAL_S = 5
START_S = 1_763_812_800


class Node:
    """A simulated node whose agent plays the past as fast as it can, dies and is started again."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self.state_dir = directory / "state"
        self.log = directory / "log"
        self.now_s = START_S
        self._chance = chance
        self.seen_edges_ms: list[int] = []
        """The last tick that the outside saw of each life."""
        self.first_edges_ms: list[int] = []

    def lines(self) -> list[bytes]:
        """Return the journal's whole lines."""
        paths = sorted((self.state_dir / "journal").glob("*.jsonl"))
        return [line for path in paths for line in path.read_bytes().split(b"\n")[:-1]]

    def start(self) -> RunningAgent:
        arguments = ["--simulate", "serving", "--simulate-from", str(self.now_s), "--interval", str(INTERVAL_S)]
        return RunningAgent(self.state_dir, self.log, arguments)

    def live_and_die(self, *, is_early: bool) -> None:
        agent = self.start()
        try:
            if is_early:
                # Anywhere in starting up: imports, key, recovery, the first ticks.
                time.sleep(self._chance.uniform(0, 0.5))
            else:
                agent.wait_until_started()
                time.sleep(self._chance.uniform(0, 0.25))
                seen = agent.live()
                if seen is not None:
                    self.seen_edges_ms.append(seen[0])
        finally:
            agent.kill()
        if not is_early and seen is not None:
            assert len(self.lines()) >= seen[1], "what was served was on disk"
        # The simulated clock stopped with the agent; the outage is added to the newest time that was written down.
        self.now_s = max(self.now_s, *self._ends_s()) + self._chance.choice([INTERVAL_S, 17, 400])

    def _ends_s(self) -> Iterator[int]:
        yield START_S
        lines = self.lines()
        if lines:
            yield -(-json.loads(lines[-1])["end_ms"] // 1000)
        opened = CrashFile(self.state_dir / "open").read()
        if opened is not None:
            yield -(-json.loads(json.loads(opened)[0]["core"])["end_ms"] // 1000)


@pytest.mark.slow
def test_an_agent_killed_a_hundred_times_loses_nothing_sealed_and_counts_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(20_251_122)
    node = Node(tmp_path, chance)
    before: list[bytes] = []
    for number in range(KILLS):
        node.live_and_die(is_early=number % 3 == 2)
        after = node.lines()
        assert after[: len(before)] == before, f"kill {number}: what was sealed has changed"
        before = after
    last = node.start()
    last.wait_until_started()
    last.terminate()

    readings = sealed(node.state_dir, public_key(node.state_dir))  # signatures, sequence, chain, sums
    found = spans(readings)  # no two overlap
    assert len(readings) >= len(before)
    assert len({reading.session for reading in readings}) > KILLS // 3
    assert len(node.seen_edges_ms) > KILLS // 3
    starts_ms = {start_ms for start_ms, _ in found}
    for edge_ms in node.seen_edges_ms:
        # Everything up to the last tick that anybody saw is sealed, unless that was a session's first tick.
        is_covered = any(start_ms < edge_ms <= end_ms for start_ms, end_ms in found)
        is_first = not any(start_ms <= edge_ms for start_ms in starts_ms) or not any(
            reading.start_ms < edge_ms <= reading.end_ms + INTERVAL_S * 1000 for reading in readings
        )
        assert is_covered or is_first, f"the time up to {edge_ms} was seen and is not sealed"
    log = node.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert log.count("event=open_span_recovered") > KILLS // 4
