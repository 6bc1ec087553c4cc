# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments, a hundred times over: nothing sealed is lost and no second is counted twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuledger_agent.crash_file import CrashFile
from tests.fakes.agents import sealed, spans
from tests.integration.agents import RunningAgent, public_key, simulated, wait_for

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
        self.seen_ms: list[tuple[int, int]] = []
        """The first and the last tick of each life that somebody looked at before it ended."""
        self.owed_ms: list[tuple[int, int]] = []
        """The span that each death left in the crash file and not in the journal: what has to be recovered."""

    def lines(self) -> list[bytes]:
        """Return the journal's whole lines."""
        paths = sorted((self.state_dir / "journal").glob("*.jsonl"))
        return [line for path in paths for line in path.read_bytes().split(b"\n")[:-1]]

    def start(self) -> RunningAgent:
        return simulated(self.state_dir, self.log, self.now_s, INTERVAL_S)

    def die_early(self) -> None:
        """Anywhere in starting up: imports, key, recovery, the first ticks."""
        agent = self.start()
        time.sleep(self._chance.uniform(0, 0.5))
        agent.kill()

    def die_at_work(self) -> None:
        """After a look at it from outside: what was seen then must be there for ever."""
        agent = self.start()
        agent.wait_until_started()
        time.sleep(self._chance.uniform(0, 0.25))
        seen = agent.metrics()
        agent.kill()
        if "gpuledger_agent_tick_timestamp_seconds" in seen:
            last_ms = round(seen["gpuledger_agent_tick_timestamp_seconds"] * 1000)
            ticks = round(seen["gpuledger_agent_ticks_total"])
            self.seen_ms.append((last_ms - (ticks - 1) * INTERVAL_S * 1000, last_ms))
        assert len(self.lines()) >= seen.get("gpuledger_agent_journal_last_sequence", 0), "what was served was on disk"

    def die_in_a_cell(self) -> None:
        """At work, and not while a cell is being sealed, which is most of the time where the disk is slow."""
        agent = self.start()
        agent.wait_until_started()
        wait_for("an open span on disk", lambda: self._is_stopped_in_a_cell(agent.process.pid))
        agent.kill()

    def _is_stopped_in_a_cell(self, pid: int) -> bool:
        """Stop the agent where it is; let it go on if its death would leave nothing to recover."""
        time.sleep(self._chance.uniform(0, 0.1))
        os.kill(pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        if self._owed_ms() is not None:
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    def note_death(self) -> None:
        """Note what this death left to be recovered."""
        owed_ms = self._owed_ms()
        if owed_ms is not None and owed_ms not in self.owed_ms:
            self.owed_ms.append(owed_ms)

    def _owed_ms(self) -> tuple[int, int] | None:
        opened = CrashFile(self.state_dir / "open").read()
        if opened is None:
            return None
        core = json.loads(json.loads(opened)[0]["core"])
        lines = self.lines()
        sealed_ms = json.loads(lines[-1])["end_ms"] if lines else 0
        assert core["start_ms"] >= sealed_ms or core["end_ms"] <= sealed_ms, "sealed whole or not at all"
        return (core["start_ms"], core["end_ms"]) if core["end_ms"] > sealed_ms else None

    def wait(self) -> None:
        """The node is away for a while after the newest time that was written down."""
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
        die = (node.die_at_work, node.die_in_a_cell, node.die_early)[number % 3]
        die()
        node.note_death()
        node.wait()
        after = node.lines()
        assert after[: len(before)] == before, f"kill {number}: what was sealed has changed"
        before = after
    last = node.start()
    last.wait_until_started()
    last.terminate()

    readings = sealed(node.state_dir, public_key(node.state_dir))  # checks signatures, sequence, chain and sums
    found = spans(readings)  # checks that no two overlap
    assert len(readings) >= len(before)
    assert len(node.seen_ms) > KILLS // 4
    for first_ms, last_ms in node.seen_ms:
        # From a life's first tick to the last that was seen no millisecond is dark: death took an interval at most.
        inside_ms = sum(max(0, min(end_ms, last_ms) - max(start_ms, first_ms)) for start_ms, end_ms in found)
        assert inside_ms == last_ms - first_ms
    log = node.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    # How many deaths leave an open span is a matter of the disk's speed; that each one is recovered is not.
    assert len(node.owed_ms) >= KILLS // 3
    recovered = re.findall(r"event=open_span_recovered start_ms=(\d+) end_ms=(\d+)", log)
    assert {(int(start), int(end)) for start, end in recovered} == set(node.owed_ms) <= set(found)
