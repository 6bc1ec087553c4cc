# SPDX-License-Identifier: Apache-2.0
"""Counters that run on between ticks: held against means before they are believed, and what they say over any time.

What nvml.h says of them is too little to build on. So a counter is used only while it agrees with the mean of the same
window: five times in a row where there was something to see. What disagrees five times in a row is never used again.
Pure, and the same for a whole GPU and for one GPU instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuledger_agent.measures import FULL_PPM, LINK_MIB_PER_S_MAX, MIB, Measures
from gpuledger_agent.snapshot import Count

AGREEMENTS_MIN = 5
DISAGREEMENTS_MAX = 5
TOLD_PPM_MIN = 50_000
TOLD_BYTES_MIN = MIB
"""Of less than this a mean says too little to agree with."""
DIFFERENCE_PPM_MAX = 20_000
DIFFERENCE_SHARE = 20
"""A counter may differ from the mean by 2 % of the time, or by one part in twenty."""


def share_of(base: Count, now: Count, whole: int) -> int | None:
    """Return what part of `whole` a share had between two counts, rounded down; None where they cannot be its."""
    if base.of is None or now.of is None:
        return None
    grown, of = now.amount - base.amount, now.of - base.of
    return grown * whole // of if 0 <= grown <= of and of > 0 else None


def bytes_since(base: Count, now: Count, link: str, time_ms: int) -> int | None:
    """Return the bytes between two counts; None where the counter fell, or ran faster than any link."""
    grown = now.amount - base.amount
    return grown if 0 <= grown * 1000 <= LINK_MIB_PER_S_MAX[link] * MIB * time_ms else None


@dataclass(slots=True)
class _Trial:
    agreements: int = 0
    disagreements: int = 0
    is_failed: bool = False


@dataclass(slots=True)
class CounterTrials:
    """What one GPU's counters have shown so far."""

    failed: set[str] = field(default_factory=set)
    """Counters that were found out."""
    _trials: dict[str, _Trial] = field(default_factory=dict)
    _before: Mapping[str, Count] = field(default_factory=dict)

    def offer(self, counts: Mapping[str, Count], told: Measures | None, window_ns: int) -> dict[str, Count]:
        """Take in this tick's counts; return those that are believed.

        `told` is what means say of the window since the last offer (None: there are none of just that window).
        """
        before, self._before = self._before, counts
        if told is not None:
            for name in counts.keys() & before.keys():
                agrees = _agrees(name, before[name], counts[name], told, window_ns)
                if agrees is not None:
                    self._judge(name, agrees)
        return {name: count for name, count in counts.items() if self._is_believed(name)}

    def _judge(self, name: str, agrees: bool) -> None:
        trial = self._trials.get(name)
        if trial is None:
            trial = self._trials[name] = _Trial()
        trial.agreements = trial.agreements + 1 if agrees else 0
        trial.disagreements = 0 if agrees else trial.disagreements + 1
        if trial.disagreements >= DISAGREEMENTS_MAX:
            self.failed.add(name)

    def _is_believed(self, name: str) -> bool:
        trial = self._trials.get(name)
        return trial is not None and trial.agreements >= AGREEMENTS_MIN and name not in self.failed


def _agrees(name: str, base: Count, now: Count, told: Measures, window_ns: int) -> bool | None:
    """Return whether a counter says what the mean says; None where the mean says too little."""
    if name in LINK_MIB_PER_S_MAX:
        mean = told.link_bytes.get(name)
        if mean is None or mean < TOLD_BYTES_MIN:
            return None
        found = bytes_since(base, now, name, window_ns // 10**6)
        return found is not None and abs(found - mean) * DIFFERENCE_SHARE <= mean
    mean = told.sm_active_ppm if name == "sm" else told.tensor_active_ppm
    if mean is None or mean < TOLD_PPM_MIN:
        return None
    found = share_of(base, now, FULL_PPM)
    return found is not None and abs(found - mean) <= max(DIFFERENCE_PPM_MAX, mean // DIFFERENCE_SHARE)
