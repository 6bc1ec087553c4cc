# SPDX-License-Identifier: Apache-2.0
"""A reference classifier that always has an answer: what the nearest windows were.

It is no part of the program. It shows what telemetry would promise, if one believed shuffled windows, and what it keeps
of that at a place that it never saw. Only power is used, which all recordings have: which fields a recording has, and
how often it was sampled, would betray its source.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.study.separation import power_known_ms, unevenness

NEIGHBOURS = 15
QUOTIENTS = "shares of time below 25, from 25 to 60 and above 80 % of the power limit, and unevenness"

Row = tuple[tuple[float, ...], bool]
"""Quotients of a window, and whether it is training."""


def vector(sums: Mapping[str, int]) -> tuple[float, ...] | None:
    """Return the quotients of a window; None where power is not known."""
    known_ms = power_known_ms(sums)
    deviation = unevenness(sums)
    if not known_ms or deviation is None:
        return None
    shares = [
        sum(sums.get(f"power_{percent}_ms", 0) for percent in bands) / known_ms for bands in ((0, 15), (25, 40), (80,))
    ]
    return (*shares, deviation)


@dataclass(frozen=True, slots=True)
class Model:
    """Windows with standardised quotients."""

    scales: tuple[float, ...]
    known: tuple[Row, ...]

    def training(self, values: Sequence[float]) -> float:
        """Return p of training: the share among the nearest windows, with one of each kind added."""
        point = [value / scale for value, scale in zip(values, self.scales, strict=True)]
        near = heapq.nsmallest(NEIGHBOURS, self.known, key=lambda row: math.dist(point, row[0]))
        return (sum(label for _, label in near) + 1) / (len(near) + 2)


def fit(rows: Sequence[Row]) -> Model:
    """Return the model that knows these windows."""
    scales = []
    for index in range(len(rows[0][0])):
        values = [row[0][index] for row in rows]
        mean = sum(values) / len(values)
        scales.append(math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) or 1.0)
    known = tuple((tuple(v / s for v, s in zip(values, scales, strict=True)), label) for values, label in rows)
    return Model(tuple(scales), known)
