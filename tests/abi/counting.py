# SPDX-License-Identifier: Apache-2.0
"""Counters of GPM as an honest agent uses them: on trial against means first, then wherever a mean is missing."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from tests.abi.answers import LINKS, MIB

Count = tuple[int, int | None]
TIMES = 5
PPM = 1_000_000
LEAST = {"sm": 50_000, "tensor": 50_000, "pcie_tx": MIB, "pcie_rx": MIB}


class Trial:
    """One GPU's counters against its means: five agreements in a row, and never again after five contradictions."""

    def __init__(self) -> None:
        self._last: dict[str, Count] = {}
        self._agreed: dict[str, int] = {}
        self._disagreed: dict[str, int] = {}
        self._condemned: set[str] = set()

    def hear(self, counts: dict[str, Count], told: dict[str, int] | None) -> dict[str, Count]:
        """A tick's counts, and what means say of exactly the time since the last tick's; gives back the trusted."""
        for name, count in counts.items():
            mean = (told or {}).get(name)
            if mean is None or mean < LEAST[name] or name not in self._last:
                continue
            if self._fits(name, self._last[name], count, mean):
                self._agreed[name] = self._agreed.get(name, 0) + 1
                self._disagreed[name] = 0
            else:
                self._agreed[name] = 0
                self._disagreed[name] = self._disagreed.get(name, 0) + 1
                if self._disagreed[name] == TIMES:
                    self._condemned.add(name)
        self._last = counts
        trusted = (name for name in counts if self._agreed.get(name, 0) >= TIMES and name not in self._condemned)
        return {name: counts[name] for name in trusted}

    @staticmethod
    def _fits(name: str, first: Count, second: Count, mean: int) -> bool:
        grown = second[0] - first[0]
        if name in LINKS:
            return grown >= 0 and abs(Fraction(grown - mean, mean)) <= Fraction(1, 20)
        elapsed = (second[1] or 0) - (first[1] or 0)
        if not 0 <= grown <= elapsed or elapsed == 0:
            return False
        return abs(grown * PPM // elapsed - mean) <= max(20_000, mean // 20)


class Spans:
    """Where each trusted counter last stood: what it says from there to a tick for which no mean tells."""

    def __init__(self, most_ms: int) -> None:
        self._most_ms = most_ms
        self._stands: dict[str, tuple[Count, int]] = {}

    def begin(self, counts: dict[str, Count], edge_ms: int) -> None:
        """Count from here: what was before is not to be spoken of."""
        self._stands = {name: (count, edge_ms) for name, count in counts.items()}

    def reach(self, counts: dict[str, Count], edge_ms: int, told: set[str]) -> Iterator[tuple[str, int, int]]:
        """(name, amount, since) for what no mean tells: ns for engines, bytes for links."""
        for name in (*LEAST, "nvlink_tx", "nvlink_rx"):
            stand = self._stands.get(name)
            now = counts.get(name)
            if stand is not None and (name in told or edge_ms - stand[1] > self._most_ms):
                del self._stands[name]
                stand = None
            if now is None:
                continue
            self._stands[name] = (now, edge_ms)
            if stand is None or edge_ms == stand[1]:
                continue
            grown = now[0] - stand[0][0]
            if name in LINKS:
                if grown >= 0:
                    yield name, grown, stand[1]
                continue
            elapsed = (now[1] or 0) - (stand[0][1] or 0)
            if 0 <= grown <= elapsed and elapsed > 0:
                yield name, grown * (edge_ms - stand[1]) * PPM // elapsed, stand[1]


def shares(amount: int, since_ms: int, end_ms: int, start_ms: int, grid_ms: int) -> list[int]:
    """The parts of an amount over [since, end) that fall on the pieces from `start_ms` on."""
    edges = [since_ms, *(begin for begin in [start_ms] if begin > since_ms)]
    at_ms = start_ms // grid_ms * grid_ms + grid_ms
    while at_ms < end_ms:
        edges.append(at_ms)
        at_ms += grid_ms
    parts = [amount * (to - begin) // (end_ms - since_ms) for begin, to in pairwise([*edges, end_ms])]
    parts[-1] += amount - sum(parts)
    return parts[1:] if start_ms > since_ms else parts
