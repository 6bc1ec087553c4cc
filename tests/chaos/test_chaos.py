# SPDX-License-Identifier: Apache-2.0
"""Chaos: agents and two collectors killed, networks foul, disks full, clocks wrong; the ledger is that of a calm run.

Every run prints its seed and what it does; the same seed does the same to the nodes, in the same virtual time.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from gpuledger.cells import CELL_MS, HOUR_MS, SLICES_PER_GPU, floor_to
from gpuledger.clock import SystemClock
from gpuledger.reading import digest
from gpuledger.states import State
from gpuledger_collector.check import check_log
from gpuledger_collector.ledger import CellRow
from tests.chaos.collectors import PATIENCE_S, Collector
from tests.chaos.nodes import INTERVAL_MS, Node
from tests.chaos.weather import Weather
from tests.fakes.agents import Rig, records
from tests.fakes.storage import Storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    # What may differ from a calm run is judged by cells, and how many are foul depends on how fast the machine is.
    pytest.mark.skipif("CHAOS_MINUTES" not in os.environ, reason="run by `make chaos`, on a machine with nothing else"),
]
MINUTES = float(os.environ.get("CHAOS_MINUTES", "2"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
NODES = 3
ROUND_TICKS = 240
"""Twenty minutes of the nodes' time."""
ROUND_S = 1.5
FAULTS_A_ROUND = 3
ROUNDS_MIN = 12
"""However slow the machine."""
DAYS_MAX = 60
HELD_BACK = {State.DARK, State.UNMEASURED}


def say(*texts: object) -> None:
    os.write(1, (" ".join(map(str, texts)) + "\n").encode())


class Scene:
    """Nodes, two collectors, and the weather between them."""

    def __init__(self, folder: Path, memory: Path, seed: int) -> None:
        self.chance = Random(seed)
        end_ms = floor_to(SystemClock().wall_ns() // 1_000_000, HOUR_MS) - 2 * HOUR_MS
        self.start_ms = end_ms - DAYS_MAX * 24 * HOUR_MS
        self.mutex = threading.Lock()
        """Held while nodes live on, and while one answers."""
        self.nodes = {
            name: Node(name, memory, self.start_ms, Random(f"{seed} {name}"))
            for name in (f"node-{number}" for number in range(NODES))
        }
        self.collectors = []
        for name in ("one", "other"):
            weather = Weather(list(self.nodes), self.page, Random(f"{seed} {name}"))
            self.collectors.append(Collector(folder / name, weather, Random(f"{seed} {name} disk")))

    def page(self, name: str, query: dict[str, str]) -> bytes | None:
        with self.mutex:
            node = self.nodes[name]
            if node.down_ms > 0:
                return None
            rig = node.tried
            after = int(query["after"]) if query.get("journal", rig.journal.id) == rig.journal.id else 0
            if "checkpoint" in query:
                rig.witness.show(query["checkpoint"], query["log_key"])
            return rig.feed().page(after, min(int(query["limit"]), 500), 8 << 20)

    def close(self) -> None:
        for collector in self.collectors:
            collector.kill()
            collector.weather.close()

    # ------------------------------------------------------------------------------------------ faults

    def disturb(self) -> str:
        node = self.chance.choice(list(self.nodes.values()))
        collector = self.chance.choice(self.collectors)
        match self.chance.randrange(20):
            case 0 | 1:
                return node.kill()
            case 2:
                return node.step_clock()
            case 3:
                return node.lose_gpu()
            case 4 | 5 | 6 | 7:
                return collector.kill()
            case 8 | 9:
                collector.kill()
                return collector.start(is_disk_full=True)
            case 10 | 11 | 12 | 13:
                collector.weather.foulness = self.chance.choice((0.0, 0.3, 0.7, 1.0))
                return f"{collector.folder.name}'s network is foul by {collector.weather.foulness:g}"
            case _:
                return collector.start()

    def run(self, until_s: float) -> int:
        """Live and disturb until then; return how many rounds."""
        rounds = 0
        while rounds < ROUNDS_MIN or (
            time.monotonic() < until_s and rounds * ROUND_TICKS * INTERVAL_MS < DAYS_MAX * 24 * HOUR_MS
        ):
            begun_s = time.monotonic()
            with self.mutex:
                said = [self.disturb() for _ in range(FAULTS_A_ROUND)]
            say(f"round {rounds}: {', '.join(said)}")
            for node in self.nodes.values():
                for _ in range(10):
                    with self.mutex:
                        node.advance(ROUND_TICKS // 10)
            time.sleep(max(0.0, ROUND_S - (time.monotonic() - begun_s)))
            rounds += 1
        return rounds

    def settle(self) -> None:
        """Let all run in fair weather until both collectors have all that is sealed."""
        with self.mutex:
            for node in self.nodes.values():
                node.settle()
                node.advance(2 * CELL_MS // INTERVAL_MS)
            journals = {
                (node.tried.key.node_id, node.tried.journal.id): node.tried.journal.last.sequence
                for node in self.nodes.values()
            }
        for collector in self.collectors:
            collector.weather.foulness = 0.0
            collector.kill()
            collector.start()
        deadline_s = time.monotonic() + PATIENCE_S
        while not all(collector.has_taken_in(journals) for collector in self.collectors):
            assert time.monotonic() < deadline_s, [collector.log[-2000:] for collector in self.collectors]
            assert all(collector.is_running for collector in self.collectors)
            time.sleep(0.5)
        assert [collector.stop() for collector in self.collectors] == [0, 0]


def take_journals(storage: Storage, rigs: Mapping[str, Rig]) -> None:
    """Hand a calm collector what the journals hold, all at once."""
    for rig in rigs.values():
        cursor = 0
        while cursor < rig.journal.last.sequence:
            answer = __import__("json").loads(rig.feed().page(cursor, 500, 8 << 20))
            cursor = storage.intake.accept_batch(
                answer, now_ms=storage.now_ms, place=("fra1", "unknown", "h100")
            ).cursor


def compare(row: CellRow, calm: CellRow, node: Node) -> str | None:
    """Return what is wrong with a disturbed cell beside the undisturbed one; None where all is as it must be."""
    cause = node.cause_of(row.cell_ms, row.entry.gpu)
    states, expected = row.account.state_slice_ms, calm.account.state_slice_ms
    if sum(states.values()) != CELL_MS * SLICES_PER_GPU:
        return f"accounts for {sum(states.values())} slice-ms"
    if states == expected or "clock step" in cause:
        # Under a clock that is wrong time stands where the clock said; that it is all there once is what holds.
        return None
    if not cause:
        return f"is {states} without a cause, and {expected} undisturbed"
    more = {
        state: amount - expected.get(state, 0)
        for state, amount in states.items()
        if state not in HELD_BACK and amount > expected.get(state, 0)
    }
    return f"has more of {more} than undisturbed, for {cause}" if more else None


def test_after_chaos_both_ledgers_are_that_of_an_undisturbed_run_or_dark_with_a_cause(tmp_path: Path) -> None:
    say(f"\nCHAOS_SEED={SEED} CHAOS_MINUTES={MINUTES:g}")
    # Agents flush with every tick, and what kill -9 leaves does not depend on the disk.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        chaos(tmp_path, Path(folder))


def chaos(tmp_path: Path, memory: Path) -> None:
    scene = Scene(tmp_path, memory, SEED)
    try:
        # A GPU is installed from the first cell on that its node sealed: the same on both.
        for node in scene.nodes.values():
            node.advance(2 * CELL_MS // INTERVAL_MS)
        for collector in scene.collectors:
            collector.start()
        rounds = scene.run(time.monotonic() + MINUTES * 60)
        scene.settle()
    finally:
        scene.close()
    for collector in scene.collectors:
        assert "Traceback" not in collector.log, collector.log
        assert set(collector.exits) <= {1}, "it ended by itself only where its disk took nothing"
    end_ms = floor_to(min(node.tried.clock.wall_ms for node in scene.nodes.values()), HOUR_MS)
    now_ms = SystemClock().wall_ns() // 1_000_000
    sealed = {
        digest(record["envelope"].encode()) for node in scene.nodes.values() for record in records(node.tried.directory)
    }
    digests, tried = [], dict[tuple[str, int], CellRow]()
    for collector in scene.collectors:
        with Storage(collector.state_dir) as storage:
            storage.now_ms = now_ms
            assert check_log(storage.catalog.log).failures == []
            assert all(storage.store.is_known(one, with_workloads=True) for one in sealed), "a sealed reading was lost"
            assert storage.store.count_readings() == len(sealed)
            storage.refresh()
            digests.append(storage.files.digest(0, end_ms))
            storage.keeper.rebuild()
            assert storage.files.digest(0, end_ms) == digests[-1]
            for cell_ms in range(scene.start_ms, end_ms, CELL_MS):
                tried |= {(row.entry.gpu, cell_ms): row for row in storage.keeper.cell_rows(cell_ms)}
    assert digests[0] == digests[1]
    wrong, dark_ms, kinds = [], 0, Counter[str]()
    with Storage(tmp_path / "calm") as storage:
        storage.now_ms = now_ms
        take_journals(storage, {name: node.calm for name, node in scene.nodes.items()})
        storage.refresh()
        for cell_ms in range(scene.start_ms, end_ms, CELL_MS):
            for calm in storage.keeper.cell_rows(cell_ms):
                row, node = tried[calm.entry.gpu, cell_ms], scene.nodes[calm.entry.node]
                if (said := compare(row, calm, node)) is not None:
                    wrong.append(f"{calm.entry.gpu} at {cell_ms} {said}")
                elif row.account.state_slice_ms != calm.account.state_slice_ms:
                    kinds.update(node.cause_of(cell_ms, calm.entry.gpu))
                    dark_ms += row.account.state_slice_ms.get(State.DARK, 0) // SLICES_PER_GPU
    weather = sum((collector.weather.done for collector in scene.collectors), Counter[str]())
    kills = sum(node.kills for node in scene.nodes.values()), sum(one.kills for one in scene.collectors)
    full = sum(one.full_lives for one in scene.collectors)
    say(f"{rounds} rounds, {len(sealed)} readings, {len(tried)} cells")
    say(f"agents killed {kills[0]} times, collectors {kills[1]}; {full} lives on a full disk; answers {dict(weather)}")
    say(f"cells that differ, by cause: {dict(kinds)}; {dark_ms / 1000:g} GPU-seconds dark")
    assert wrong == [], f"CHAOS_SEED={SEED}: {len(wrong)} cells are wrong"
