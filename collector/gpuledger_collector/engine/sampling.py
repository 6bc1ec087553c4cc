# SPDX-License-Identifier: Apache-2.0
"""How often series are sampled, the grid that follows from it, and how far sampling can be off. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

from gpuledger.cells import CELL_MS, SLICES_PER_GPU, ceil_to

POINTS_PER_SERIES_MAX = 10_000
"""Engines refuse more than 11,000 points of one series in one answer."""
_STEPS_MS = tuple(CELL_MS // parts for parts in range(1, 301) if CELL_MS % (parts * 1000) == 0)
"""Whole seconds that divide a cell, largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How one stream is sampled: a sample stands for at most two intervals, on a grid of `step_ms`."""

    interval_ms: int

    @property
    def stand_ms(self) -> int:
        return 2 * self.interval_ms

    @property
    def step_ms(self) -> int:
        """Return the longest step that divides a cell and is no longer than the interval."""
        return next(step_ms for step_ms in _STEPS_MS if step_ms <= self.interval_ms)

    @property
    def span_ms(self) -> int:
        """Return how long a span one query may ask for, in whole cells."""
        return max(CELL_MS, POINTS_PER_SERIES_MAX * self.step_ms // CELL_MS * CELL_MS)


def interval_of(series: Iterable[Sequence[int]]) -> int | None:
    """Return the time between two samples in ms, to the second: the median of each series', the median of those."""
    medians = []
    for times in series:
        gaps = [later - earlier for earlier, later in pairwise(times) if later > earlier]
        if gaps:
            medians.append(median_low(gaps))
    return max(1000, ceil_to(median_low(medians) - 500, 1000)) if medians else None


def edge_error_slice_ms(changes: int, interval_ms: int) -> int:
    """Return how much time the seen changes of state may have misplaced: each up to one interval."""
    return changes * interval_ms * SLICES_PER_GPU


def standard_error(points: int) -> float | None:
    """Return the largest standard error (a ratio) of a share of so many independent samples; None without any."""
    return 0.5 / math.sqrt(points) if points > 0 else None
