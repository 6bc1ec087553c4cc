# SPDX-License-Identifier: Apache-2.0
"""Faults from the node to the ledger, each with the account that is expected of it."""

from __future__ import annotations

import json
from pathlib import Path

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS, SLICES_PER_GPU, floor_to
from gpuledger.states import State
from gpuledger_agent.config import AgentConfig
from gpuledger_collector.check import check_log
from tests.fakes.agents import Rig
from tests.fakes.boards import FakeGpu, gpus
from tests.fakes.clock import NOON_MS, FakeClock
from tests.fakes.programs import run_python
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

INTERVAL_MS = 5_000


def rig(directory: Path, devices: list[FakeGpu], name: str, clock: FakeClock | None = None) -> Rig:
    directory.mkdir(parents=True, exist_ok=True)
    config = AgentConfig(state_dir=directory, node_name=name, interval_seconds=INTERVAL_MS / 1000)
    found = Rig(directory, devices, clock, config)
    found.agent.tick()
    return found


def live(node: Rig, span_ms: int) -> None:
    node.tick(span_ms // INTERVAL_MS, interval_ms=INTERVAL_MS)


def take(storage: Storage, node: Rig) -> list[str]:
    """Take in all that a node has sealed; returns the kinds of what was found."""
    storage.now_ms = node.clock.wall_ms
    found = []
    after = 0
    while after < node.journal.last.sequence:
        page = json.loads(node.feed().page(after, 100, 8 << 20))
        result = storage.intake.accept_batch(page, now_ms=storage.now_ms, target=node.name)
        assert result.refused == {}
        after = max(one["sequence"] for one in page["readings"])
        found += [finding.kind for finding in result.findings]
    return found


def totals(storage: Storage, start_ms: int, end_ms: int) -> dict[State, int]:
    """GPU-milliseconds by state."""
    groups = storage.files.sum_by([], start_ms, end_ms)
    sums = groups[0].account.state_slice_ms if groups else {}
    return {state: amount // SLICES_PER_GPU for state, amount in sums.items() if amount}


def test_a_clock_step_is_a_finding_from_the_agent_to_the_report(tmp_path: Path) -> None:
    node = rig(tmp_path / "node", gpus(1), "node-1")
    live(node, HOUR_MS + 30_000)
    node.clock.step_ms(20 * 60_000)
    live(node, HOUR_MS)
    with Storage(tmp_path / "state") as storage:
        kinds = take(storage, node)
        storage.refresh()
        found = storage.files.findings(0, 2**62)
        assert "clock_step" in kinds
        assert [finding.subject for finding in found if finding.kind == "clock_step"] == ["node-1"]
        # What the clock left out is nobody's: dark, and the rest is there once.
        end_ms = floor_to(node.clock.wall_ms, CELL_MS)
        spent = totals(storage, NOON_MS, end_ms)
        assert sum(spent.values()) == end_ms - NOON_MS
        assert 20 * 60_000 <= spent[State.DARK] <= 20 * 60_000 + 2 * INTERVAL_MS


def test_an_energy_counter_that_falls_is_a_finding_from_the_agent_to_the_report(tmp_path: Path) -> None:
    node = rig(tmp_path / "node", gpus(1), "node-1")
    node.gpu.energy_base_mj = 10**12
    live(node, HOUR_MS)
    # A driver that was loaded again, in a machine that was not booted again, counts from 0.
    node.gpu.energy_base_mj = 0
    live(node, HOUR_MS)
    with Storage(tmp_path / "state") as storage:
        kinds = take(storage, node)
        storage.refresh()
        assert "odometer_fell" in kinds
        assert "odometer_fell" in {finding.kind for finding in storage.files.findings(0, 2**62)}


def test_a_node_of_64_gpus_is_accounted_for_whole(tmp_path: Path) -> None:
    devices = gpus(64)
    for index, gpu in enumerate(devices):
        gpu.work(90 if index % 2 else 0, 4100)
    node = rig(tmp_path / "node", devices, "node-1")
    live(node, 2 * CELL_MS)
    with Storage(tmp_path / "state") as storage:
        assert take(storage, node) == []
        storage.refresh()
        end_ms = floor_to(node.clock.wall_ms, CELL_MS)
        spent = totals(storage, NOON_MS, end_ms)
        assert sum(spent.values()) == 64 * (end_ms - NOON_MS)
        assert spent.get(State.DARK, 0) <= 64 * INTERVAL_MS
        assert check_log(storage.catalog.log).failures == []


def test_two_agents_on_one_node_count_its_gpus_once_and_are_a_finding(tmp_path: Path) -> None:
    devices = gpus(2)
    one = rig(tmp_path / "one", devices, "node-1")
    live(one, CELL_MS)
    other = rig(tmp_path / "other", devices, "node-1-again", FakeClock(one.clock.wall_ms))
    for _ in range(3 * CELL_MS // INTERVAL_MS):
        live(one, INTERVAL_MS)
        live(other, INTERVAL_MS)
    with Storage(tmp_path / "state") as storage:
        take(storage, one)
        take(storage, other)
        storage.refresh()
        end_ms = floor_to(one.clock.wall_ms, CELL_MS)
        assert sum(totals(storage, NOON_MS, end_ms).values()) == 2 * (end_ms - NOON_MS)
        assert {row.node for row in storage.files.rows(0, 2**62)} == {"node-1"}
        assert "foreign_claim" in {finding.kind for finding in storage.files.findings(0, 2**62)}


def test_a_late_reading_reopens_its_hour_in_a_week_that_was_reported(tmp_path: Path) -> None:
    node = FakeNode("node-1", gpus=1)
    week_cells = 7 * DAY_MS // CELL_MS
    for index in range(week_cells):
        node.seal(MONDAY_MS + index * CELL_MS, states_ms={State.BUSY: CELL_MS})
    late = node.sealed[700]
    state = tmp_path / "state"

    def report() -> str:
        command = ("-m", "gpuledger", "report", "weekly", "--state-dir", str(state), "--week", "2026-W45")
        done = run_python(*command, "--format", "json", "--out", str(tmp_path / "report"))
        assert done.returncode == 0, done.stderr
        return "".join(path.read_text() for path in sorted((tmp_path / "report").rglob("*.json")))

    with Storage(state) as storage:
        storage.now_ms = MONDAY_MS + 8 * DAY_MS
        storage.take(node, [one for one in node.sealed if one is not late])
        storage.refresh()
        before = storage.files.digest(MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
        assert totals(storage, MONDAY_MS, MONDAY_MS + 7 * DAY_MS) == {
            State.BUSY: 7 * DAY_MS - CELL_MS,
            State.DARK: CELL_MS,
        }
    reported = report()
    with Storage(state) as storage:
        storage.now_ms = MONDAY_MS + 20 * DAY_MS
        storage.take(node, [late])
        done = storage.refresh()
        assert done.readings >= 12, "the hour of the late reading was made again"
        assert totals(storage, MONDAY_MS, MONDAY_MS + 7 * DAY_MS) == {State.BUSY: 7 * DAY_MS}
        assert storage.files.digest(MONDAY_MS, MONDAY_MS + 7 * DAY_MS) != before
        storage.keeper.rebuild()
        assert totals(storage, MONDAY_MS, MONDAY_MS + 7 * DAY_MS) == {State.BUSY: 7 * DAY_MS}
    assert report() != reported
