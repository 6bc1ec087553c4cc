# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of accuracy runs side by side, and when: agents, peers, a real Prometheus, lost minutes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from tests.abi.build import build
from tests.abi.stage import Stage, set_up
from tests.perf.cases import CASES, LOST_FROM_MS, LOST_TO_MS, lost_script, script_of
from tests.perf.figures import Window
from tests.perf.peers import GPUCM, GUA, NVITOP, Peer, PeerMissing, provide
from tests.perf.programs import Metered, Program, Site, environment, start_holders, start_nvitop
from tests.perf.prometheus import Prometheus, Series

BEGIN_MS = 25_000
"""When the time begins for which peers are asked, in script time: by then all have started."""
LOST_GPUS = 2
REFRESH_NS, REFRESH_AFTER_TICK_NS = 100_000_000, 1_000_000
AGENT = "gpuledger"
UTILIZATION = "gpu_utilization_Percentage"
ACTIVE, TICK = "gpuledger_gpu_active_seconds_total", "gpuledger_agent_tick_timestamp_seconds"


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

    def shifted(self, later_ns: int) -> Time:
        """The same, so much later."""
        return Time(self.start_boottime_ns + later_ns, self.wall_start_ms + Fraction(later_ns, 10**6))

    def wait(self, script_ms: float) -> None:
        left_ns = self.start_boottime_ns + script_ms * 1e6 - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        time.sleep(max(0.0, left_ns / 1e9))

    def wall_s(self, script_ms: float) -> float:
        return float(self.wall_start_ms + Fraction(script_ms)) / 1_000


@dataclass(slots=True, kw_only=True)
class Scene:
    """Everything that runs; agents by what happens to them, each with a state directory of its own.

    On the node whose GPUs are lost the refresh falls between two ticks: what is looked at there are the ends of what
    was seen, not what chance adds in between.
    """

    folder: Path
    time: Time
    node: Stage
    lost_time: Time
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
        later = now.shifted(REFRESH_NS // 2)
        for stage, start in ((node, now), (lost, later)):
            stage.env["GPULEDGER_ABI_START_NS"] = str(start.start_boottime_ns)
        window = Window(from_ms=Fraction(BEGIN_MS), to_ms=Fraction(BEGIN_MS + round(seconds * 1_000)))
        scene = Scene(folder=folder, time=now, node=node, lost_time=later, lost_node=lost, window=window)
        yield scene, Site(folder), stack


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
    prometheus = Prometheus(scene.folder / "prometheus", {AGENT: scene.agents["seen"], **targets}, site)
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
