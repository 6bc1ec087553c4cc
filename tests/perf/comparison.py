# SPDX-License-Identifier: Apache-2.0
"""What each program left behind after a run, put beside the truth."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tests.abi.build import build
from tests.abi.oracle import Run, expect
from tests.abi.readings import account, sealed
from tests.abi.script import Gpu, Script
from tests.abi.stage import set_up
from tests.abi.truth import CellTruth, Truth
from tests.perf.accuracy_table import OURS, Line, Said, Unseen, Virtual
from tests.perf.cases import CASES, SPIN, UNSEEN, idle_s
from tests.perf.figures import (
    Statement,
    Window,
    bounds_ms,
    gpucm_busy,
    of_counter,
    of_gua,
    of_readings,
    of_share,
    sealed_window,
)
from tests.perf.peers import GPUCM, GUA, NVITOP
from tests.perf.scene import Heard, Scene, Time, label

TICK_MS = 1_000
BY_PROMETHEUS = "by Prometheus"
BUSY, IDLE = frozenset({"busy"}), frozenset({"free", "held"})


def gua_samples(scene: Scene) -> dict[str, list[int]]:
    """Return the utilisation of each sample in % by UUID, as gpu-usage-audit keeps it."""
    path = scene.folder / "gua" / "gua.db"
    if not path.exists():
        return {}
    begin, end = (scene.time.wall_s(float(at_ms)) for at_ms in (scene.window.from_ms, scene.window.to_ms))
    question = "select gpu_uuid, util_pct from gpu_sample where unixepoch(ts) >= ? and unixepoch(ts) < ?"
    found: dict[str, list[int]] = {}
    connection = sqlite3.connect(path)
    for uuid, pct in connection.execute(question, (begin, end)):
        found.setdefault(uuid, []).append(pct)
    connection.close()
    return found


def said(gpu: Gpu, statement: Statement | None) -> Said | None:
    """A statement beside the truth of its window."""
    if statement is None:
        return None
    window = statement.window
    return Said(statement=statement, truth_s=idle_s(gpu, window.from_ms, window.to_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An agent's readings, their window, and what the oracle says an agent seals that is never stopped."""

    found: Truth
    truth: Truth
    window: Window


def open_journal(state_dir: Path, time: Time, script: Script) -> Sealed:
    """Read what an agent sealed; `time` is its script's."""
    spans = [(core["start_ms"], core["end_ms"]) for core in sealed(state_dir)]
    wall_start_ms = round(time.wall_start_ms)
    window = sealed_window(spans, time.wall_start_ms)
    sealed_edges = (window.from_ms + time.wall_start_ms, window.to_ms + time.wall_start_ms)
    # The oracle ticks on the whole second; real ticks come a moment later.
    begin_ms, end_ms = (int(edge // TICK_MS) * TICK_MS - wall_start_ms for edge in sealed_edges)
    run = Run(start_ms=begin_ms, end_ms=end_ms + 1)
    return Sealed(found=account(state_dir), truth=expect(script, [run], wall_start_ms=wall_start_ms), window=window)


def states_off_ms(found: Mapping[int, CellTruth], truth: Mapping[int, CellTruth]) -> int:
    """Return the most by which the time of a state differs over all cells together."""
    most = 0
    for state in {name for cell in (*found.values(), *truth.values()) for name in cell.states_ms}:
        ours, theirs = (sum(cell.states_ms[state] for cell in cells.values()) for cells in (found, truth))
        most = max(most, abs(ours - theirs))
    return most


def lines_of(scene: Scene, heard: Heard, seen: Sealed) -> list[Line]:
    """One line for each case."""
    samples, busy = gua_samples(scene), {}
    published = scene.folder / "gpucm" / "published"
    if published.exists():
        busy = gpucm_busy(published.read_text(encoding="utf-8").splitlines())
    averages = heard.averages.get("seen", {})
    lines = []
    for index, (case, gpu) in enumerate(zip(CASES, scene.node.script.gpus, strict=True)):
        ticks = heard.ticks.get("", [])
        counter = of_counter(heard.active.get(gpu.uuid, []), ticks, scene.time.wall_start_ms)
        average = averages.get(gpu.uuid)
        by_name = {
            OURS: of_readings(seen.found.get(gpu.uuid, {}), seen.window),
            BY_PROMETHEUS: counter,
            label(NVITOP): None if average is None else of_share(scene.window, average / 100),
            label(GUA): of_gua(samples.get(gpu.uuid, []), scene.window),
            label(GPUCM): of_share(scene.window, busy[index]) if index in busy else None,
        }
        lines.append(
            Line(
                name=case.name,
                said={name: said(gpu, statement) for name, statement in by_name.items()},
                states_off_ms=states_off_ms(seen.found.get(gpu.uuid, {}), seen.truth[gpu.uuid]),
                is_apart=case == SPIN,
            )
        )
    return lines


def unseen_of(name: str, gpu: Gpu, agent: Sealed, average: Fraction | None, window: Window) -> Unseen:
    """One line of the lost minutes."""
    cells, truth = agent.found.get(gpu.uuid, {}), agent.truth[gpu.uuid]
    ours = said(gpu, of_readings(cells, agent.window))
    assert ours is not None
    low_high = [bounds_ms(cells, agent.window, states) for states in (BUSY, IDLE)]
    truths = [Fraction(sum(cell.states_ms[s] for cell in truth.values() for s in states)) for states in (BUSY, IDLE)]
    busy, idle = ((low / 1_000, high / 1_000, true / 1_000) for (low, high), true in zip(low_high, truths, strict=True))
    return Unseen(
        name=name,
        ours=ours,
        peer=said(gpu, None if average is None else of_share(window, average / 100)),
        busy_s=busy,
        idle_s=idle,
    )


def unseen_lines(scene: Scene, heard: Heard) -> Iterator[Unseen]:
    """The lines of all lost minutes."""
    for name, what in (("killed", "agent killed"), ("stopped", "agent stopped")):
        agent = open_journal(scene.state_dir(name), scene.time, scene.node.script)
        for case in UNSEEN:
            gpu = scene.node.script.gpus[CASES.index(case)]
            average = heard.averages.get("killed", {}).get(gpu.uuid) if name == "killed" else None
            yield unseen_of(f"{what}: {case.name}", gpu, agent, average, scene.window)
    agent = open_journal(scene.state_dir("lost-agent"), scene.lost_time, scene.lost_node.script)
    for gpu in scene.lost_node.script.gpus:
        what = "GPU lost, handle too" if gpu.outages[0].handle_fails else "GPU lost"
        average = heard.averages.get("lost", {}).get(gpu.uuid)
        yield unseen_of(f"{what}: 25 % on, and nothing while lost", gpu, agent, average, scene.window)


def in_virtual_time(scene: Scene) -> Virtual:
    """Play the node's script again, as fast as it goes."""
    length_ms = round(scene.window.to_ms)
    stage = set_up(scene.folder / "virtual", build(), scene.node.script, duration_ms=length_ms)
    assert stage.clock is not None
    wall_start_ms = stage.clock.wall_ns() // 10**6
    state_dir = scene.folder / "virtual-state"
    stage.run(["-m", "tests.abi.run_agent", str(state_dir)])
    truth = expect(stage.script, [Run(start_ms=0, end_ms=length_ms)], wall_start_ms=wall_start_ms)
    found = account(state_dir)
    spans = [(core["start_ms"], core["end_ms"]) for core in sealed(state_dir)]
    window = sealed_window(spans, Fraction(wall_start_ms))
    errors = [
        one.error
        for gpu in stage.script.gpus
        if (one := said(gpu, of_readings(found.get(gpu.uuid, {}), window))) is not None
    ]
    pairs = [(found.get(uuid, {}).get(start), cell) for uuid, cells in truth.items() for start, cell in cells.items()]
    return Virtual(error=max(errors), cells=len(pairs), different=sum(ours != theirs for ours, theirs in pairs))
