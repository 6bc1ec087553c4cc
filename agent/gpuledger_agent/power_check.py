# SPDX-License-Identifier: Apache-2.0
"""A board's energy counter held against the power that the driver reports. Pure.

Both should say the same; on some board they have differed by almost half. Single values differ, since the counter tells
of the last tick and the driver averages over a second of its own: so the sums of many are compared.
"""

from __future__ import annotations

PAIRS = 30
DISAGREEMENT = 1.25
"""How many times the smaller sum the greater may be."""


class PowerCheck:
    """One board's sums."""

    __slots__ = ("_counted_mw", "_pairs", "_reported_mw")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._pairs = 0
        self._counted_mw = 0.0
        self._reported_mw = 0

    def offer(self, counted_mw: float, reported_mw: int) -> tuple[float, float] | None:
        """Take in the two at one moment; return both means after PAIRS that disagree, and begin anew after PAIRS."""
        self._pairs += 1
        self._counted_mw += counted_mw
        self._reported_mw += reported_mw
        if self._pairs < PAIRS:
            return None
        means = self._counted_mw / self._pairs, self._reported_mw / self._pairs
        self.forget()
        return means if max(means) > DISAGREEMENT * min(means) else None
