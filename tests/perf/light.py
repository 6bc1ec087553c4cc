# SPDX-License-Identifier: Apache-2.0
"""The agent beside nvitop-exporter on simulated nodes: what both cost. Writes docs/performance.md; `make bench-light`.

Real time, all nodes at once; ends with 1 where a bound is broken or nothing could be measured.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.abi.build import ROOT, BuildError, build
from tests.abi.script import FULL, Gpu, Script, Wave, Worker
from tests.abi.stage import set_up
from tests.perf.light_table import Measured, Node, Usage, faults, render
from tests.perf.page import machine
from tests.perf.peers import NVITOP, PeerMissing, provide
from tests.perf.programs import BenchError, Metered, Program, Site, start_holders, start_nvitop

PAGE = ROOT / "docs" / "performance.md"
SECONDS = 300
"""A cell, so that exactly one is sealed."""
SETTLE_S = 20
SCRAPE_EVERY_S = 15
SCRAPES = 40
MAIN = Node(gpus=8, processes=8)
NODES = (
    MAIN,
    Node(gpus=1, processes=0),
    Node(gpus=8, processes=0),
    Node(gpus=16, processes=0),
    Node(gpus=8, processes=64),
)
LARGE = Node(gpus=56, processes=0)
"""As many things with series of their own as 8 GPUs × 7 instances; without the peer."""
MIG = Node(gpus=8, processes=56, instances=7)
_SOURCE = re.compile(r'^gpuledger_agent_source_duration_seconds\{source="(\w+)"\} (\S+)$', re.MULTILINE)
_INSTANCE = re.compile(r'^gpuledger_gpu_state_seconds_total\{.*instance_id="[^"]', re.MULTILINE)
_TICKS = re.compile(r"^gpuledger_agent_ticks_total (\S+)$", re.MULTILINE)


def script_of(node: Node, pids: Sequence[int]) -> Script:
    """GPUs that work in turns where processes hold them, and are free where none does."""
    script = Script()
    for index in range(node.gpus):
        gpu = script.add_gpu().act(0, power_w=412.5 if pids else 70)
        workers: list[Worker] = [gpu]
        if node.instances:
            gpu.divide(0)
            workers = [gpu.add_instance("1g.10gb") for _ in range(node.instances)]
        for number, worker in enumerate(workers):
            _work(worker, index, pids[index + number * node.gpus :: node.gpus * len(workers)])
    return script


def _work(worker: Worker, index: int, pids: Sequence[int]) -> None:
    for pid in pids:
        worker.run(pid)
    worker.set("memory_used_bytes", len(pids) << 30)
    for track, share in (("sm", 4), ("sm_occupancy", 8), ("tensor", 6), ("dram", 10)):
        worker.set(track, FULL // share if pids else 0)
    busy = Wave(period_ms=7_000 + 100 * index, on_ms=1_000 + 500 * index) if pids else 0
    worker.set("graphics", busy)
    if isinstance(worker, Gpu):
        worker.set("utilization", busy)


@dataclass(slots=True)
class Watched:
    """One program under measurement, and what was read of it when the measurement began."""

    metered: Metered
    began_cpu_s: float = 0.0
    began_calls: Counter[str] = field(default_factory=Counter)
    took_cpu_s: float = 0.0
    took_calls: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)

    def begin(self) -> None:
        self.began_cpu_s = self.metered.program.cpu_s()
        self.began_calls = self.metered.calls()

    def finish(self) -> None:
        self.metered.program.check()
        self.took_cpu_s = self.metered.program.cpu_s() - self.began_cpu_s
        self.took_calls = self.metered.calls() - self.began_calls

    def scrape(self) -> None:
        self.metered.program.check()
        self.texts.append(self.metered.endpoint.scrape()[1])

    def usage(self, seconds: float) -> Usage:
        """What it took in `seconds`; scrapes it some more to see what one costs."""
        cpu_ms_per_s = 1_000 * self.took_cpu_s / seconds
        program = self.metered.program
        sent_bytes, began_cpu_s, began_s = 0, program.cpu_s(), time.monotonic()
        for _ in range(SCRAPES):
            sent_bytes, _ = self.metered.endpoint.scrape()
        took_ms = 1_000 * (program.cpu_s() - began_cpu_s)
        ticking_ms = cpu_ms_per_s * (time.monotonic() - began_s)
        return Usage(
            cpu_ms_per_s=cpu_ms_per_s,
            calls_per_s=self.took_calls.total() / seconds,
            memory_mib=program.memory_peak_mib(),
            scrape_ms=(took_ms - ticking_ms) / SCRAPES,
            scrape_bytes=sent_bytes,
        )


@contextmanager
def running(folder: Path, peer: Path) -> Iterator[tuple[dict[Node, Watched], dict[Node, Watched]]]:
    """Start the agent on every node, and the peer on some; end what was started."""
    library = build()
    site = Site(folder)
    ours: dict[Node, Watched] = {}
    others: dict[Node, Watched] = {}
    with ExitStack() as stack:

        def keep(program: Program) -> Program:
            stack.callback(program.end)
            return program

        holders = start_holders(max(node.processes for node in NODES), folder)
        pids = [keep(holder).pid for holder in holders]
        for number, node in enumerate((*NODES, LARGE, MIG)):
            script = script_of(node, pids[: node.processes])
            stage = set_up(folder / f"node{number}", library, script, virtual=False)
            ours[node] = Watched(site.start_agent(stage, stage.folder / "agent"))
            keep(ours[node].metered.program)
            if node in NODES:
                others[node] = Watched(start_nvitop(peer, stage, stage.folder / "peer"))
                keep(others[node].metered.program)
        yield ours, others


def measure(folder: Path, peer: Path, seconds: float) -> Measured:
    """Run everything for `seconds`, scraped every 15 s; raises BenchError."""
    with running(folder, peer) as (ours, others):
        watched = [*ours.values(), *others.values()]
        time.sleep(SETTLE_S)
        began_s = time.monotonic()
        for one in watched:
            one.begin()
        for number in range(1, int(seconds // SCRAPE_EVERY_S) + 1):
            time.sleep(max(0.0, began_s + number * SCRAPE_EVERY_S - 1 - time.monotonic()))
            for one in watched:
                one.scrape()
        time.sleep(max(0.0, began_s + seconds - time.monotonic()))
        for one in watched:
            one.finish()
        took_s = time.monotonic() - began_s
        sources: dict[str, list[float]] = {}
        for text in ours[MAIN].texts:
            for source, value in _SOURCE.findall(text):
                sources.setdefault(source, []).append(1_000 * float(value))
        ticks = [int(float(found[1])) for text in ours[MAIN].texts if (found := _TICKS.search(text)) is not None]
        usages = {node: one.usage(took_s) for node, one in ours.items()}
        mig = usages.pop(MIG)
        return Measured(
            seconds=took_s,
            main=MAIN,
            ours=usages,
            peer={node: one.usage(took_s) for node, one in others.items()},
            peer_name=f"nvitop-exporter {NVITOP.version}",
            mig=mig if _INSTANCE.search(ours[MIG].texts[-1]) is not None else None,
            calls={
                one.metered.program.name: {name: count / took_s for name, count in one.took_calls.items()}
                for one in (ours[MAIN], others[MAIN])
            },
            source_ms=sources,
            ticks=ticks[-1] - ticks[0] if ticks else 0,
            machine=machine(),
        )


def main() -> int:
    """Measure, write the page, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long to measure")
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write the page")
    options = parser.parse_args()
    try:
        peer = provide(NVITOP)
        with tempfile.TemporaryDirectory(prefix="gpuledger-bench-") as folder:
            measured = measure(Path(folder), peer, options.seconds)
    except (BenchError, BuildError, PeerMissing) as exc:
        sys.stderr.write(f"bench-light: {exc}.\n")
        return 1
    options.out.write_text(render(measured), encoding="utf-8")
    found = faults(measured)
    for fault in found:
        sys.stderr.write(f"bench-light: {fault}.\n")
    sys.stdout.write(f"{options.out} is written; {len(found)} bounds are broken.\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
