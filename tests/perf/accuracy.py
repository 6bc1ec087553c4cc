# SPDX-License-Identifier: Apache-2.0
"""The agent and its peers beside the exact truth of a script, in real time. Writes docs/accuracy.md.

`make bench-accuracy`; ends with 1 where a bound is broken or nothing could be measured.
"""

from __future__ import annotations

import argparse
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from tests.abi.build import ROOT, BuildError, build
from tests.abi.oracle import CellTruth, Run, Truth, expect
from tests.abi.readings import account, sealed
from tests.abi.script import Gpu, Script
from tests.abi.stage import Stage, set_up
from tests.perf.accuracy_table import OURS, Line, Measured, Said, Unseen, Virtual, faults, render
from tests.perf.cases import CASES, LOST_FROM_MS, LOST_TO_MS, SPIN, UNSEEN, idle_s, lost_script, script_of
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
from tests.perf.page import machine
from tests.perf.peers import GPUCM, GUA, NVITOP, Peer, PeerMissing, provide
from tests.perf.programs import (
    BenchError,
    Metered,
    Program,
    Site,
    environment,
    start_holders,
    start_nvitop,
)
from tests.perf.prometheus import Prometheus, Series

PAGE = ROOT / "docs" / "accuracy.md"
SECONDS = 600
SECONDS_MIN = LOST_TO_MS // 1_000 + 30
BEGIN_MS = 25_000
"""When the time begins for which peers are asked, in script time: by then all have started."""
LOST_GPUS = 2
REFRESH_NS, REFRESH_AFTER_TICK_NS = 100_000_000, 1_000_000
TICK_MS = 1_000
BY_PROMETHEUS = "by Prometheus"
UTILIZATION = "gpu_utilization_Percentage"
ACTIVE, TICK = "gpuledger_gpu_active_seconds_total", "gpuledger_agent_tick_timestamp_seconds"
BUSY, IDLE = frozenset({"busy"}), frozenset({"free", "held"})


@dataclass(slots=True)
class Time:
    """Script time on the machine's clocks."""

    start_boottime_ns: int
    wall_start_ms: Fraction

    @classmethod
    def now(cls) -> Time:
        """The script starts now, within 0.1 s: GPM is refreshed just when the agent takes its samples, the worst case.

        A tick that comes early has the counters of 100 ms ago, one that comes late those of this moment.
        """
        boottime_ns, wall_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
        later_ns = (REFRESH_AFTER_TICK_NS - wall_ns) % REFRESH_NS
        return cls(boottime_ns + later_ns, Fraction(wall_ns + later_ns, 10**6))

    def wait(self, script_ms: float) -> None:
        left_ns = self.start_boottime_ns + script_ms * 1e6 - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        time.sleep(max(0.0, left_ns / 1e9))

    def wall_s(self, script_ms: float) -> float:
        return float(self.wall_start_ms + Fraction(script_ms)) / 1_000


@dataclass(slots=True, kw_only=True)
class Scene:
    """Everything that runs; agents by what happens to them, each with a state directory of its own."""

    folder: Path
    time: Time
    node: Stage
    lost_node: Stage
    window: Window
    agents: dict[str, Metered] = field(default_factory=dict)
    exporters: dict[str, Metered] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def state_dir(self, name: str) -> Path:
        return self.folder / name / "state"


@contextmanager
def playing(folder: Path, seconds: float) -> Iterator[tuple[Scene, Site, ExitStack]]:
    """Set the scripts up; what is pushed on the stack is ended at the end."""
    length_ms = round(seconds * 1_000) + 2 * BEGIN_MS
    with ExitStack() as stack:
        holders = start_holders(len(CASES) + LOST_GPUS, folder)
        pids = []
        for holder in holders:
            stack.callback(holder.end)
            pids.append(holder.pid)
        library = build()
        node = set_up(folder / "node", library, script_of(length_ms, pids[: len(CASES)]), virtual=False)
        lost = set_up(folder / "lost", library, lost_script(length_ms, pids[len(CASES) :]), virtual=False)
        now = Time.now()
        for stage in (node, lost):
            stage.env["GPULEDGER_ABI_START_NS"] = str(now.start_boottime_ns)
        window = Window(from_ms=Fraction(BEGIN_MS), to_ms=Fraction(BEGIN_MS + round(seconds * 1_000)))
        yield Scene(folder=folder, time=now, node=node, lost_node=lost, window=window), Site(folder), stack


def start_gua(scene: Scene, command: Path) -> Program:
    """gpu-usage-audit with its defaults."""
    folder = scene.folder / "gua"
    folder.mkdir()
    env = environment(scene.node, folder / "counters", ours=False) | {"HOME": str(folder)}
    arguments = ["daemon", "--foreground", "--db", str(folder / "gua.db")]
    return Program("gpu-usage-audit", [str(command), *arguments], folder / "log", env)


def start_gpucm(scene: Scene, command: Path) -> Program:
    """gpucm's monitor with its defaults, into a file."""
    folder = scene.folder / "gpucm"
    folder.mkdir()
    env = environment(scene.node, folder / "counters", ours=False) | {"HOME": str(folder)}
    sink = ["--sink", "file", "-o", f"file_path={folder / 'published'}"]
    arguments = ["nvml_monitor", *sink, "--log-folder", str(folder / "logs"), "--cluster", "bench"]
    return Program("gpucm", [str(command), *arguments], folder / "log", env)


def install() -> tuple[dict[str, Path], dict[str, str]]:
    """Return the programs of the peers that can be had, and why others cannot."""
    found, missing = {}, {}
    for peer in (NVITOP, GUA, GPUCM):
        try:
            found[peer.name] = provide(peer)
        except PeerMissing as exc:
            missing[label(peer)] = str(exc)
    return found, missing


def label(peer: Peer) -> str:
    return f"{peer.name} {peer.version}"


def play(scene: Scene, site: Site, stack: ExitStack, peers: Mapping[str, Path]) -> Prometheus:
    """Run everything until the end of the window."""

    def keep(metered: Metered) -> Metered:
        stack.callback(metered.program.end)
        return metered

    for name in ("seen", "killed", "stopped"):
        scene.agents[name] = keep(site.start_agent(scene.node, scene.folder / name))
    scene.agents["lost"] = keep(site.start_agent(scene.lost_node, scene.folder / "lost-agent"))
    nvitop = peers.get(NVITOP.name)
    if nvitop is not None:
        for name, stage in (("seen", scene.node), ("killed", scene.node), ("lost", scene.lost_node)):
            scene.exporters[name] = keep(start_nvitop(nvitop, stage, scene.folder / f"nvitop-{name}"))
    others = []
    for peer, start in ((GUA, start_gua), (GPUCM, start_gpucm)):
        if peer.name in peers:
            others.append(start(scene, peers[peer.name]))
            stack.callback(others[-1].end, signal.SIGINT)
    targets = {f"nvitop-{name}": metered for name, metered in scene.exporters.items()}
    prometheus = Prometheus(scene.folder / "prometheus", {OURS: scene.agents["seen"], **targets}, site)
    stack.callback(prometheus.program.end)

    scene.time.wait(LOST_FROM_MS)
    scene.agents["killed"].program.end(signal.SIGKILL)
    scene.agents["stopped"].program.end(signal.SIGTERM)
    if nvitop is not None:
        scene.exporters["killed"].program.end(signal.SIGKILL)
    scene.time.wait(LOST_TO_MS)
    for name in ("killed", "stopped"):
        scene.agents[name] = keep(site.start_agent(scene.node, scene.folder / name))
    if nvitop is not None:
        port = int(scene.exporters["killed"].endpoint.url.rpartition(":")[2].partition("/")[0])
        keep(start_nvitop(nvitop, scene.node, scene.folder / "nvitop-killed", port))
    scene.time.wait(float(scene.window.to_ms) + 500)
    for program in (*(agent.program for agent in scene.agents.values()), *others):
        program.check()
    return prometheus


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was asked of Prometheus: gauges' averages by exporter, and the agent's counters."""

    averages: Mapping[str, Mapping[str, Fraction]]
    active: Series
    ticks: Series


def listen(scene: Scene, prometheus: Prometheus) -> Heard:
    """Ask Prometheus for the whole window."""
    at_s = scene.time.wall_s(float(scene.window.to_ms))
    span = f"[{round(scene.window.length_s)}s]"
    averages = {
        name: prometheus.values(f'avg_over_time({UTILIZATION}{{job="nvitop-{name}"}}{span})', at_s)
        for name in scene.exporters
    }
    active = prometheus.series(f"{ACTIVE}{span}", at_s)
    return Heard(averages=averages, active=active, ticks=prometheus.series(f"{TICK}{span}", at_s))


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


def open_journal(scene: Scene, name: str, script: Script) -> Sealed:
    """Read what an agent sealed."""
    state_dir = scene.state_dir(name)
    spans = [(core["start_ms"], core["end_ms"]) for core in sealed(state_dir)]
    wall_start_ms = round(scene.time.wall_start_ms)
    window = sealed_window(spans, scene.time.wall_start_ms)
    sealed_edges = (window.from_ms + scene.time.wall_start_ms, window.to_ms + scene.time.wall_start_ms)
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
        agent = open_journal(scene, name, scene.node.script)
        for case in UNSEEN:
            gpu = scene.node.script.gpus[CASES.index(case)]
            average = heard.averages.get("killed", {}).get(gpu.uuid) if name == "killed" else None
            yield unseen_of(f"{what}: {case.name}", gpu, agent, average, scene.window)
    agent = open_journal(scene, "lost-agent", scene.lost_node.script)
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


def measure(folder: Path, seconds: float) -> Measured:
    """Run everything; raises BenchError."""
    peers, missing = install()
    with playing(folder, seconds) as (scene, site, stack):
        prometheus = play(scene, site, stack, peers)
        heard = listen(scene, prometheus)
        for agent in scene.agents.values():
            agent.program.end()
        return Measured(
            seconds=float(scene.window.length_s),
            lines=lines_of(scene, heard, open_journal(scene, "seen", scene.node.script)),
            unseen=list(unseen_lines(scene, heard)),
            virtual=in_virtual_time(scene),
            peers=[label(peer) for peer in (NVITOP, GUA, GPUCM) if peer.name in peers],
            also=[BY_PROMETHEUS],
            missing=missing,
            machine=f"{machine()}; Prometheus {prometheus.version}",
        )


def main() -> int:
    """Measure, write the page, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long to measure, {SECONDS_MIN} at least")
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write the page")
    options = parser.parse_args()
    if options.seconds < SECONDS_MIN:
        parser.error(f"--seconds: {options.seconds:g} is less than {SECONDS_MIN}")
    try:
        with tempfile.TemporaryDirectory(prefix="gpuledger-bench-") as folder:
            measured = measure(Path(folder), options.seconds)
    except (BenchError, BuildError) as exc:
        sys.stderr.write(f"bench-accuracy: {exc}.\n")
        return 1
    options.out.write_text(render(measured), encoding="utf-8")
    found = faults(measured)
    for fault in found:
        sys.stderr.write(f"bench-accuracy: {fault}.\n")
    sys.stdout.write(f"{options.out} is written; {len(found)} bounds are broken.\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
