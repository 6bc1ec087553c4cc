# SPDX-License-Identifier: Apache-2.0
"""What a collector costs by the size of its fleet, held against the bounds, as docs/scale.md. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.perf.light_table import Row
from tests.perf.page import figure, table

GPUS_PER_NODE = 8
CELL_S = 300.0
POLLS_PER_CELL = 10
"""Of one node: every 30 s."""
CELLS_PER_DAY = 288
LINEAR = 1.1
"""Growth in proportion is 1; a tenth is what two runs on a busy machine differ by."""
GENERATED = "<!-- Written by `make bench-scale` down to the end of its tables; edit the rest. -->\n"
END = "<!-- End of what `make bench-scale` writes. -->\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A collector of so many nodes over so many cells of 300 s.

    `quiet_` is of the time in which no reading came and no cell was settled; `grown_bytes` by log, index, ledger.
    """

    nodes: int
    cells: float
    cpu_s: float
    polls: int
    readings: int
    settled_cells: int
    quiet_cpu_s: float
    quiet_polls: int
    memory_mib: float
    grown_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        return self.nodes * GPUS_PER_NODE

    @property
    def poll_ms(self) -> float | None:
        """CPU time for a poll without news, all that goes on meanwhile included; None where too few were seen."""
        return None if self.quiet_polls < self.nodes else 1000 * self.quiet_cpu_s / self.quiet_polls

    @property
    def missing_polls(self) -> float:
        """Polls that would have been made on a machine that had the time."""
        return max(0.0, self.nodes * POLLS_PER_CELL * self.cells - self.polls)

    @property
    def cpu_s_per_cell(self) -> float:
        """CPU time for 300 s, the polls that were not made included at what the others cost."""
        return (self.cpu_s + self.missing_polls * (self.poll_ms or 0.0) / 1000) / self.cells

    @property
    def is_complete(self) -> bool:
        """Whether all readings of its time came in, its cells were settled, and what a poll costs could be told."""
        return (
            self.poll_ms is not None
            and self.readings >= round(self.nodes * self.cells * 0.98)
            and self.settled_cells >= int(self.cells)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Prometheus scraping the same agents every 15 s."""

    name: str
    nodes: int
    cpu_s_per_cell: float
    memory_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One run of the weekly report; `why_not` is empty where it succeeded."""

    gpus: int
    rows: int
    seconds: float
    cpu_s: float
    memory_mib: float
    ledger_bytes: int
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One weekly query: over so many series or GPUs, of so many samples or rows."""

    name: str
    series: int
    samples: int
    seconds: float
    cpu_s: float

    def for_series(self, series: int) -> float:
        """Return the seconds for so many, in proportion."""
        return self.seconds * series / self.series


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured; what was not is empty."""

    machine: str
    steady: Sequence[Steady] = ()
    peer: Peer | None = None
    reported: Sequence[Reported] = ()
    asked: Sequence[Asked] = ()


def rows(measured: Measured) -> list[Row]:
    """Return the figures that have a bound."""
    largest = max(measured.steady, key=lambda one: one.nodes, default=None)
    behind = "the collector did not keep up"
    last = max(measured.reported, key=lambda one: one.gpus, default=None)
    found = []
    if largest is not None:
        name = f"polling {largest.nodes:,} nodes × {GPUS_PER_NODE} GPUs"
        found += [
            Row(
                name=name,
                unit="cores",
                figure=largest.cpu_s_per_cell / CELL_S if largest.is_complete else None,
                bound=1.0,
                note=behind,
            ),
            Row(
                name=f"{name}, most resident",
                unit="MiB",
                figure=largest.memory_mib if largest.is_complete else None,
                bound=2048.0,
                note=behind,
            ),
        ]
    if last is not None:
        name = f"weekly report over {last.gpus:,} GPUs"
        found += [
            Row(name=name, unit="s", figure=last.seconds, bound=20.0),
            Row(name=f"{name}, most resident", unit="MiB", figure=last.memory_mib, bound=2048.0),
        ]
    found += _beside_peers(measured)
    return found + _growth(measured)


def _beside_peers(measured: Measured) -> list[Row]:
    found = []
    own = next((one for one in measured.steady if measured.peer is not None and one.nodes == measured.peer.nodes), None)
    if measured.peer is not None and own is not None:
        theirs = 1000 * measured.peer.cpu_s_per_cell / measured.peer.nodes
        found.append(
            Row(
                name=f"CPU time a node and 300 s, {own.gpus:,} GPUs, beside {measured.peer.name}",
                unit="ms",
                figure=1000 * own.cpu_s_per_cell / own.nodes,
                bound=theirs / 10,
                peer=theirs,
            )
        )
    if not measured.asked:
        return found
    ours, *others = measured.asked
    for other in others:
        theirs = other.for_series(ours.series)
        found.append(
            Row(
                name=f"weekly query over {ours.series:,} GPUs, beside {other.name}",
                unit="s",
                figure=ours.seconds,
                bound=theirs / 20 if other.name.startswith("Prometheus") else theirs,
                peer=theirs,
            )
        )
    return found


def _growth(measured: Measured) -> list[Row]:
    found = []
    steady = sorted((one for one in measured.steady if one.is_complete), key=lambda one: one.nodes)
    reported = sorted((one for one in measured.reported if not one.why_not), key=lambda one: one.gpus)
    if len(steady) > 1:
        first, last = steady[0], steady[-1]
        name = f"CPU time a node, {last.gpus:,} GPUs against {first.gpus:,}"
        grown = (last.cpu_s_per_cell / last.nodes) / (first.cpu_s_per_cell / first.nodes)
        found.append(Row(name=name, unit="times", figure=grown, bound=LINEAR))
    if len(reported) > 1:
        one, other = reported[0], reported[-1]
        name = f"time of the report a GPU, {other.gpus:,} GPUs against {one.gpus:,}"
        grown = (other.seconds / other.gpus) / (one.seconds / one.gpus)
        found.append(Row(name=name, unit="times", figure=grown, bound=LINEAR))
    return found


def faults(measured: Measured) -> list[str]:
    """Return a sentence for each bound that is broken, and for what did not come to its end."""
    found = [
        f"{row.name}: {figure(row.figure)} {row.unit}, and at most {figure(row.bound)} is allowed"
        for row in rows(measured)
        if row.is_broken
    ]
    found += [f"report over {one.gpus:,} GPUs: {one.why_not}" for one in measured.reported if one.why_not]
    return found + [
        f"{one.nodes:,} nodes: the collector did not keep up: {one.polls:,} polls were made, {one.readings:,} readings "
        f"came in and {one.settled_cells} cells were settled, of {round(one.nodes * one.cells * POLLS_PER_CELL):,}, "
        f"{round(one.nodes * one.cells):,} and {one.cells:.1f}; it took {one.cpu_s:.0f} s of CPU time meanwhile"
        for one in measured.steady
        if not one.is_complete
    ]


def render(measured: Measured) -> str:
    """Return the generated part of the page."""
    bounds = table(("figure", "measured", "bound", "peer", "ratio", "kept"), [row.cells() for row in rows(measured)])
    problems = "".join(f"- {fault}\n" for fault in faults(measured))
    return (
        GENERATED
        + "\n# Scale\n\nMeasured on "
        + f"{measured.machine}. All nodes and rows are SIMULATED.\n\n{bounds}\n"
        + (f"Not kept, or not reached:\n\n{problems}\n" if problems else "")
        + _steady(measured)
        + _reports(measured)
        + _queries(measured)
        + END
    )


def _steady(measured: Measured) -> str:
    lines = [
        [
            f"{one.nodes:,} × {GPUS_PER_NODE}",
            figure(one.cpu_s_per_cell if one.is_complete else None),
            figure(one.cpu_s_per_cell / CELL_S if one.is_complete else None),
            figure(1000 * one.cpu_s_per_cell / one.nodes if one.is_complete else None),
            figure(one.poll_ms),
            figure(one.memory_mib),
            f"{one.readings:,} of {round(one.nodes * one.cells):,}",
            f"{one.polls:,} of {round(one.nodes * one.cells * POLLS_PER_CELL):,}",
            str(one.settled_cells),
        ]
        for one in sorted(measured.steady, key=lambda one: one.nodes)
    ]
    head = (
        *("nodes × GPUs", "CPU, s for 300 s", "cores", "CPU a node, ms for 300 s", "a poll without news, ms"),
        *("most resident, MiB", "readings", "polls", "cells settled"),
    )
    disk = [
        [f"{one.nodes:,} × {GPUS_PER_NODE}", *(_per_gpu_day(one, part) for part in ("log", "index", "ledger"))]
        for one in sorted(measured.steady, key=lambda one: one.nodes)
    ]
    return (
        "## Polling\n\n"
        + table(head, lines)
        + "\nOn disk, KiB a GPU and day:\n\n"
        + table(("nodes × GPUs", "log", "index", "ledger"), disk)
        + "\n"
    )


def _per_gpu_day(one: Steady, part: str) -> str:
    if one.readings == 0 or part not in one.grown_bytes:
        return "-"
    return figure(one.grown_bytes[part] / one.readings / GPUS_PER_NODE * CELLS_PER_DAY / 1024)


def _reports(measured: Measured) -> str:
    lines = [
        [
            f"{one.gpus:,}",
            f"{one.rows:,}",
            figure(one.seconds),
            figure(one.cpu_s),
            figure(one.memory_mib),
            figure(one.ledger_bytes / one.rows),
            "yes" if not one.why_not else "**no**",
        ]
        for one in sorted(measured.reported, key=lambda one: one.gpus)
    ]
    head = ("GPUs", "hourly rows", "s", "CPU, s", "most resident, MiB", "bytes a row on disk", "came to its end")
    return "## Weekly report\n\n" + table(head, lines) + "\n"


def _queries(measured: Measured) -> str:
    if not measured.asked:
        return ""
    series = measured.asked[0].series
    lines = [
        [
            one.name,
            f"{one.series:,}",
            f"{one.samples:,}",
            figure(one.seconds),
            figure(one.cpu_s),
            figure(one.for_series(series)),
        ]
        for one in measured.asked
    ]
    head = ("", "series loaded", "samples or rows", "s", "CPU, s", f"s for {series:,} in proportion")
    return "## Weekly query\n\n" + table(head, lines) + "\n"
