# SPDX-License-Identifier: Apache-2.0
"""What the oracle says of a GPU: its truth in each cell, and how a reading would round it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

CELL_MS = 300_000
SLICES = 7
BIN_EDGES_PPM = (0, 10_000, 50_000, 100_000, 250_000, 500_000, 750_000, 1_000_000)


def of_gpu(slice_ms: int) -> int | Fraction:
    """Slice-milliseconds as milliseconds of the whole GPU."""
    return slice_ms // SLICES if slice_ms % SLICES == 0 else Fraction(slice_ms, SLICES)


@dataclass(slots=True)
class InstanceTruth:
    """One GPU instance's truth in one cell: slice-ms of its own slices, and integrals relative to it."""

    slices: int
    states_slice_ms: Counter[str] = field(default_factory=Counter)
    uncovered_slice_ms: Counter[str] = field(default_factory=Counter)
    bins_slice_ms: list[int] = field(default_factory=lambda: [0] * len(BIN_EDGES_PPM))
    active_ns: int = 0
    active_known_ms: int = 0
    engines_ns: Counter[str] = field(default_factory=Counter)
    engines_known_ms: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class CellTruth:
    """One GPU's truth in one cell; milliseconds of the whole GPU (times 7: slice-ms), of its instances by UUID too.

    Integrals are rounded as each reading rounds them: down, and what is known of them up.
    """

    states_ms: Counter[str] = field(default_factory=Counter)
    uncovered_ms: Counter[str] = field(default_factory=Counter)
    bins_ms: list[int | Fraction] = field(default_factory=lambda: [0] * len(BIN_EDGES_PPM))
    active_ns: int = 0
    active_known_ms: int = 0
    engines_ns: Counter[str] = field(default_factory=Counter)
    engines_known_ms: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)
    links_known_ms: Counter[str] = field(default_factory=Counter)
    hang_ms: int = 0
    energy_mj: Counter[str] = field(default_factory=Counter)
    energy_epochs: int = 0
    xids: Counter[int] = field(default_factory=Counter)
    ecc: Counter[str] = field(default_factory=Counter)
    instances: dict[str, InstanceTruth] = field(default_factory=dict)

    def slice_ms(self) -> dict[str, int]:
        """Slice-milliseconds per state."""
        return {state: int(ms * SLICES) for state, ms in self.states_ms.items() if ms}


@dataclass(slots=True)
class OpenReading:
    """What a reading that is not sealed yet has, in slice-ms and slice-ns."""

    states: Counter[str] = field(default_factory=Counter)
    uncovered: Counter[str] = field(default_factory=Counter)
    bins: Counter[int] = field(default_factory=Counter)
    active: int = 0
    known: int = 0
    engines: Counter[str] = field(default_factory=Counter)
    engines_known: Counter[str] = field(default_factory=Counter)

    def seal(self, cell: CellTruth) -> None:
        """Add all of it to a cell, rounded as a reading is."""
        for name, amount in self.states.items():
            cell.states_ms[name] = whole(cell.states_ms[name] + of_gpu(amount))
        for name, amount in self.uncovered.items():
            cell.uncovered_ms[name] = whole(cell.uncovered_ms[name] + of_gpu(amount))
        for place, amount in self.bins.items():
            cell.bins_ms[place] = whole(cell.bins_ms[place] + of_gpu(amount))
        cell.active_ns += self.active // SLICES
        cell.active_known_ms -= -self.known // SLICES
        for name, amount in self.engines.items():
            cell.engines_ns[name] += amount // SLICES
        for name, amount in self.engines_known.items():
            cell.engines_known_ms[name] -= -amount // SLICES


def whole(amount: int | Fraction) -> Any:
    """An integer where it is one."""
    return int(amount) if amount == int(amount) else amount


Truth = dict[str, dict[int, CellTruth]]
"""UUID → cell start (POSIX ms) → truth."""


def bin_of(activity_ppm: int) -> int:
    """The number of the bin that holds an activity."""
    return next(index for index, edge in enumerate(BIN_EDGES_PPM) if activity_ppm <= edge)
