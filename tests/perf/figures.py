# SPDX-License-Identifier: Apache-2.0
"""From what each program left behind to the share of time it says a GPU was idle. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tests.abi.truth import CellTruth

GUA_ACTIVE_PCT = 10
"""From this utilisation on gpu-usage-audit's report calls a sample active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of script time in milliseconds."""

    from_ms: Fraction
    to_ms: Fraction

    @property
    def length_s(self) -> Fraction:
        return (self.to_ms - self.from_ms) / 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a program says: idle seconds of a window, from `low_s` to `high_s` (the same where it gives no bounds)."""

    window: Window
    low_s: Fraction
    high_s: Fraction

    def distance_s(self, truth_s: Fraction) -> Fraction:
        """Return how far the truth is outside; 0 inside."""
        return max(self.low_s - truth_s, truth_s - self.high_s, Fraction(0))

    def worst_s(self, truth_s: Fraction) -> Fraction:
        """Return how far from the truth the worse of both bounds is."""
        return max(abs(self.low_s - truth_s), abs(self.high_s - truth_s))


def of_share(window: Window, busy: Fraction) -> Statement:
    """A program that gives one share of busy time, for the whole window."""
    idle_s = window.length_s * (1 - busy)
    return Statement(window=window, low_s=idle_s, high_s=idle_s)


def of_readings(cells: Mapping[int, CellTruth], window: Window) -> Statement:
    """The agent's own sealed readings: what it knows to be idle, and as the high bound all it does not know as well."""
    active_s = Fraction(sum(cell.active_ns for cell in cells.values()), 10**9)
    known_s = Fraction(sum(cell.active_known_ms for cell in cells.values()), 1_000)
    return Statement(window=window, low_s=known_s - active_s, high_s=window.length_s - active_s)


def sealed_window(spans_ms: Iterable[tuple[int, int]], wall_start_ms: Fraction) -> Window:
    """From the start of the first reading to the end of the last; `spans_ms` in POSIX ms."""
    spans = list(spans_ms)
    if not spans:
        raise ValueError("nothing was sealed")
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    return Window(from_ms=first - wall_start_ms, to_ms=last - wall_start_ms)


def of_counter(
    active: Sequence[tuple[Fraction, Fraction]], ticks: Sequence[tuple[Fraction, Fraction]], wall_start_ms: Fraction
) -> Statement | None:
    """The agent through Prometheus: (scrape time, value) of its counter of active seconds and of its last tick.

    The counter's growth from the first scrape to the last belongs to the time between their ticks. None without two.
    """
    at_s = dict(ticks)
    known = [(at_s[time_s], value) for time_s, value in active if time_s in at_s]
    if len(known) < 2:
        return None
    (first_s, before), (last_s, after) = known[0], known[-1]
    window = Window(from_ms=first_s * 1_000 - wall_start_ms, to_ms=last_s * 1_000 - wall_start_ms)
    idle_s = window.length_s - (after - before)
    return Statement(window=window, low_s=idle_s, high_s=idle_s)


def of_gua(samples_pct: Sequence[int], window: Window) -> Statement | None:
    """gpu-usage-audit: the samples that its report calls active, of all; None without any."""
    if not samples_pct:
        return None
    active = sum(pct >= GUA_ACTIVE_PCT for pct in samples_pct)
    return of_share(window, Fraction(active, len(samples_pct)))


def gpucm_busy(lines: Iterable[str]) -> dict[int, Fraction]:
    """gpucm: the mean of the utilisation that it published, by GPU index."""
    published: dict[int, list[int]] = {}
    for line in lines:
        values = json.loads(line).get("int", {})
        if "gpu_id" in values and values.get("gpu_util") is not None:
            published.setdefault(values["gpu_id"], []).append(values["gpu_util"])
    return {index: Fraction(sum(shares), 100 * len(shares)) for index, shares in published.items()}


def bounds_ms(cells: Mapping[int, CellTruth], window: Window, states: frozenset[str]) -> tuple[Fraction, Fraction]:
    """Return the least and the most time of these states: the most takes in what is not known."""
    counted = sum(ms for cell in cells.values() for name, ms in cell.states_ms.items() if name in states)
    known = sum(ms for cell in cells.values() for name, ms in cell.states_ms.items() if name != "unmeasured")
    return Fraction(counted), counted + window.length_s * 1_000 - known
