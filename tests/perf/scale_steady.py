# SPDX-License-Identifier: Apache-2.0
"""Fleets of several sizes polled side by side in real time, each by a collector of its own: what a cell of 300 s costs.

CPU time is the kernel's account of each process. A machine that is busy with other work lets the largest collector ask
less often than it would; what the polls that did not happen would have cost is added (see Steady.cpu_s_per_cell).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gpuledger.cells import CELL_MS
from tests.perf.scale_load import Collector, Fleets, start_agents, start_collector, start_fleets, start_prometheus
from tests.perf.scale_table import CELL_S, Measured, Peer, Steady

SAMPLE_EVERY_S = 5.0


@dataclass(slots=True)
class _Sample:
    at_s: float
    cpu_s: float
    polls: int
    readings: int
    settled_ms: int


@dataclass(slots=True)
class _Watched:
    """One collector, and what was seen of it."""

    collector: Collector
    fleets: Fleets
    fleet: int
    samples: list[_Sample] = field(default_factory=list)
    memory_mib: float = 0.0
    begun_bytes: dict[str, int] = field(default_factory=dict)

    def look(self) -> _Sample:
        self.collector.program.check()
        sample = _Sample(
            time.monotonic(),
            self.collector.program.cpu_s(),
            self.fleets.polls(self.fleet),
            self.collector.readings(),
            self.collector.settled_ms(),
        )
        self.memory_mib = max(self.memory_mib, self.collector.resident_mib())
        self.samples.append(sample)
        return sample

    def steady(self, cells: float) -> Steady:
        first, last = self.samples[0], self.samples[-1]
        quiet_cpu_s, quiet_polls = 0.0, 0
        for before, after in zip(self.samples, self.samples[1:], strict=False):
            if (before.readings, before.settled_ms) == (after.readings, after.settled_ms):
                quiet_cpu_s += after.cpu_s - before.cpu_s
                quiet_polls += after.polls - before.polls
        now = self.collector.disk_bytes()
        return Steady(
            nodes=self.collector.nodes,
            cells=cells,
            cpu_s=last.cpu_s - first.cpu_s,
            polls=last.polls - first.polls,
            readings=last.readings - first.readings,
            settled_cells=(last.settled_ms - first.settled_ms) // CELL_MS,
            quiet_cpu_s=quiet_cpu_s,
            quiet_polls=quiet_polls,
            memory_mib=max(self.memory_mib, self.collector.program.memory_peak_mib()),
            grown_bytes={name: amount - self.begun_bytes[name] for name, amount in now.items()},
        )


def measure(folder: Path, sizes: Sequence[int], peer: int, *, cells: int, start_s: float) -> Measured:
    """Run collectors of all sizes, and Prometheus beside the one of `peer` nodes, for so many cells.

    What a collector has not caught up with `start_s` after its start is part of what is measured.
    """
    with ExitStack() as stack:
        agents = start_agents(folder, stack)
        fleets = start_fleets(folder, [*sizes, peer], agents, stack)
        watched = [
            _Watched(start_collector(folder / f"collector{fleet}", fleets, fleet, stack), fleets, fleet)
            for fleet in range(len(fleets.sizes))
        ]
        prometheus, version = start_prometheus(folder / "prometheus", fleets, len(sizes), stack)
        _wait_until_caught_up(watched, time.monotonic() + start_s)
        began_s, prometheus_cpu_s = time.monotonic(), prometheus.cpu_s()
        for one in watched:
            one.begun_bytes = one.collector.disk_bytes()
            one.look()
        while (left_s := began_s + cells * CELL_S - time.monotonic()) > 0:
            time.sleep(min(SAMPLE_EVERY_S, left_s))
            for one in watched:
                one.look()
        took_s = time.monotonic() - began_s
        return Measured(
            machine="",
            steady=[one.steady(took_s / CELL_S) for one in watched],
            peer=Peer(
                name=f"Prometheus {version}",
                nodes=peer,
                cpu_s_per_cell=(prometheus.cpu_s() - prometheus_cpu_s) / (took_s / CELL_S),
                memory_mib=prometheus.memory_peak_mib(),
            ),
        )


def _wait_until_caught_up(watched: Sequence[_Watched], deadline_s: float) -> None:
    """Wait until each collector has settled a cell, and was then asked by nobody for anything old."""
    while time.monotonic() < deadline_s and not all(_is_settled(one) for one in watched):
        time.sleep(1)


def _is_settled(one: _Watched) -> bool:
    one.collector.program.check()
    return one.collector.settled_ms() > 0
