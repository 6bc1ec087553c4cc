# SPDX-License-Identifier: Apache-2.0
"""What the agent cost beside a peer, held against the bounds it must keep, as docs/performance.md. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.perf.page import GENERATED, figure, table

CPU_SHARE_MAX = 0.5
CALLS_SHARE_MAX = 0.25
MEMORY_MIB_MAX = 48.0
SCRAPE_MS_MAX = 5.0
SCRAPE_MIG_MS_MAX = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one program took: CPU time and calls a second, the most memory, and CPU time and bytes of one scrape."""

    cpu_ms_per_s: float
    calls_per_s: float
    memory_mib: float
    scrape_ms: float
    scrape_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A simulated node of so many GPUs and processes, and of so many MIG instances on each GPU."""

    gpus: int
    processes: int
    instances: int = 0

    @property
    def name(self) -> str:
        return f"{self.gpus} GPU{'s' * (self.gpus != 1)}, {self.processes} processes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure that has to keep a bound. `figure` None: it could not be measured yet, and `note` says why."""

    name: str
    unit: str
    figure: float | None
    bound: float
    peer: float | None = None
    note: str = ""

    @property
    def is_broken(self) -> bool:
        return self.figure is not None and self.figure > self.bound

    def cells(self) -> tuple[str, ...]:
        ratio = None if self.figure is None or self.peer is None else self.figure / self.peer
        verdict = f"not yet: {self.note}" if self.figure is None else "**no**" if self.is_broken else "yes"
        bound = f"≤ {figure(self.bound)}"
        return (f"{self.name}, {self.unit}", figure(self.figure), bound, figure(self.peer), figure(ratio), verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of the benchmark.

    `mig`: the node with instances; None as long as the agent shows none. `calls`: calls a second on the main node, by
    program and function. `source_ms`: what each source took in the ticks that were scraped.
    """

    seconds: float
    main: Node
    ours: Mapping[Node, Usage]
    peer: Mapping[Node, Usage]
    peer_name: str
    mig: Usage | None
    calls: Mapping[str, Mapping[str, float]]
    source_ms: Mapping[str, Sequence[float]]
    ticks: int
    machine: str


def rows(measured: Measured) -> list[Row]:
    """Return the figures that have a bound."""
    ours, peer = measured.ours[measured.main], measured.peer[measured.main]
    return [
        Row(
            name="CPU time",
            unit="ms a second",
            figure=ours.cpu_ms_per_s,
            bound=CPU_SHARE_MAX * peer.cpu_ms_per_s,
            peer=peer.cpu_ms_per_s,
        ),
        Row(
            name="calls of NVML",
            unit="a second",
            figure=ours.calls_per_s,
            bound=CALLS_SHARE_MAX * peer.calls_per_s,
            peer=peer.calls_per_s,
        ),
        Row(
            name="memory, most resident",
            unit="MiB",
            figure=ours.memory_mib,
            bound=MEMORY_MIB_MAX,
            peer=peer.memory_mib,
        ),
        Row(name="a scrape", unit="ms of CPU", figure=ours.scrape_ms, bound=SCRAPE_MS_MAX, peer=peer.scrape_ms),
        Row(
            name="a scrape, 8 GPUs × 7 MIG instances",
            unit="ms of CPU",
            figure=None if measured.mig is None else measured.mig.scrape_ms,
            bound=SCRAPE_MIG_MS_MAX,
            note="the agent shows no instances",
        ),
    ]


def faults(measured: Measured) -> list[str]:
    """Return a sentence for each bound that is broken."""
    return [
        f"{row.name}: {figure(row.figure)} {row.unit}, and at most {figure(row.bound)} is allowed"
        for row in rows(measured)
        if row.is_broken
    ]


def render(measured: Measured) -> str:
    """Return the page."""
    head = ("figure", "gpuledger", "bound", measured.peer_name, "ratio", "kept")
    bounds = table(head, [row.cells() for row in rows(measured)])
    return (
        GENERATED.format(command="make bench-light")
        + _TITLE
        + f"Measured for {measured.seconds:.0f} s on {measured.machine}.\n\n{bounds}"
        + _ABOUT_BOUNDS.format(cpu=CPU_SHARE_MAX, calls=CALLS_SHARE_MAX)
        + _growth(measured)
        + _calls(measured)
        + _sources(measured)
        + _NOTES
    )


def _growth(measured: Measured) -> str:
    lines = []
    for node, ours in measured.ours.items():
        peer = measured.peer.get(node)
        pairs = (
            (ours.cpu_ms_per_s, None if peer is None else peer.cpu_ms_per_s),
            (ours.calls_per_s, None if peer is None else peer.calls_per_s),
            (ours.memory_mib, None if peer is None else peer.memory_mib),
            (ours.scrape_ms, None if peer is None else peer.scrape_ms),
            (ours.scrape_bytes / 1024, None if peer is None else peer.scrape_bytes / 1024),
        )
        lines.append([node.name, *(f"{figure(mine)} / {figure(other)}" for mine, other in pairs)])
    head = ("node", "CPU, ms a second", "calls a second", "memory, MiB", "a scrape, ms of CPU", "a scrape, KiB")
    return _GROWTH.format(peer=measured.peer_name) + table(head, lines)


def _calls(measured: Measured) -> str:
    functions = sorted({name for calls in measured.calls.values() for name in calls})
    lines = [[f"`{name}`", *(figure(calls.get(name)) for calls in measured.calls.values())] for name in functions]
    return _CALLS + table(("function", *measured.calls), lines)


def _sources(measured: Measured) -> str:
    lines = [
        [source, figure(statistics.median(times)), figure(max(times))]
        for source, times in sorted(measured.source_ms.items())
        if times
    ]
    head = ("source", "median, ms", "most, ms")
    return _SOURCES.format(node=measured.main.name, ticks=measured.ticks) + table(head, lines)


_TITLE = """
# Light and quiet

What the agent costs a node, beside nvitop-exporter, its nearest peer: both at one sample a second, on the same
simulated node of 8 H100, in one run, each scraped every 15 s. The agent has everything on: sealing, TLS and a login,
energy, health, and workloads of 8 live processes. The peer runs as it comes.

    make bench-light

takes six minutes, writes this page and fails where a bound is broken.

"""

_ABOUT_BOUNDS = """
The bounds of CPU time and calls are {cpu:g} and {calls:g} of what the peer took in the same run; the others are fixed.
CPU time is of the whole process, scrapes and the sealing of a cell included; a scrape's is what 40 scrapes in a row
added, each on a connection of its own, with its TLS handshake and its login (the peer's are plain). Memory is the most
that was resident at any time.

Not measured here: the process that asks the kubelet for allocations over gRPC, where that is configured.
"""

_GROWTH = """
## Growth

gpuledger / {peer}, nodes side by side in the same run. GPUs without a process are idle;
until GPM has shown one to be more than 1 % active, the agent holds it against polled utilisation, so it makes one call
more for it. 56 GPUs are no real node: they have as many series as 8 GPUs × 7 instances, and the agent is alone there.

"""

_CALLS = """
## Calls

Calls of NVML a second by 8 GPUs and 8 processes. One that is made for each of 8 GPUs in each tick counts for 8.

"""

_SOURCES = """
## Sources

What each source of the agent took in the last tick that it ran in, over all GPUs, as the agent says of itself
(`gpuledger_agent_source_duration_seconds`) on the node of {node}: one scrape for every 15 of its {ticks}
ticks. This is wall time: the most is often other work that came between.

"""

_NOTES = """
## What is measured, and what is not

- Both programs run on the real nvidia-ml-py; below it is a compiled library of our own that plays a script and counts
  each call ([tests/abi](../tests/abi/README.md)). It answers in microseconds. A real driver takes longer for each call,
  in the kernel and on the GPU, so with real GPUs both figures of CPU time are higher, and the number of calls weighs
  more. What a call costs on a real GPU is an [open question](hardware.md).
- `nvmlDeviceGetPcieThroughput` takes 20 ms there, as the header says it does; waiting costs no CPU time.
- CPU time is the kernel's account of the process, not wall time, so that other work on the machine disturbs little; a
  cold cache still costs. That is why both run side by side.
- The peer's version is locked in `requirements/peer-nvitop-exporter.txt`; it runs in an environment of its own.
"""
