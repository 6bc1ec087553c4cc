# SPDX-License-Identifier: Apache-2.0
"""Calibration: what a pattern of evidence turned out to mean at a site, from the labels confirmed there. Pure.

The counts of confirmed kinds are put beside what is believed without them, which weighs as much as PRIOR_LABELS labels.
Workloads of one owner are much alike, so an owner counts a few times only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gpuledger_collector.classify.evidence import Support, log_odds, probability
from gpuledger_collector.classify.kinds import KINDS, Kind

PRIOR_LABELS = 10
LABELS_MIN = 5
TELEMETRY_LABELS_MIN = 30
"""Fewer labels calibrate nothing; telemetry alone needs more."""
OWNER_LABELS_MAX = 5
CALIBRATED_MAX = 3.0
TELEMETRY_CALIBRATED_MAX = 2.5
"""Log-odds that a calibrated pattern may say at most; of telemetry alone, p 0.92."""
_TELEMETRY = "telemetry-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A workload that somebody labelled, with the pattern of its evidence."""

    site: str
    pattern: str
    owner: str | None
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Labels of one pattern at one site by kind."""

    kinds: Mapping[Kind, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


Calibration = Mapping[tuple[str, str], Counts]
"""By (site, pattern)."""


def calibrate(labels: Iterable[Confirmed]) -> dict[tuple[str, str], Counts]:
    """Return the counts that are enough to calibrate; it does not matter in which order labels come."""
    by_owner: Counter[tuple[str, str, str | None, Kind]] = Counter()
    alone: Counter[tuple[str, str, Kind]] = Counter()
    for label in labels:
        if not label.pattern:
            continue  # Whatever shows nothing has nothing in common.
        if label.owner is None:
            alone[label.site, label.pattern, label.kind] += 1
        else:
            by_owner[label.site, label.pattern, label.owner, label.kind] += 1
    sums: dict[tuple[str, str], Counter[Kind]] = {}
    for (site, pattern, _, kind), count in by_owner.items():
        sums.setdefault((site, pattern), Counter())[kind] += min(count, OWNER_LABELS_MAX)
    for (site, pattern, kind), count in alone.items():
        sums.setdefault((site, pattern), Counter())[kind] += min(count, OWNER_LABELS_MAX)
    return {
        key: Counts(kinds=dict(sorted(kinds.items()))) for key, kinds in sums.items() if kinds.total() >= _least(key[1])
    }


def _least(pattern: str) -> int:
    return TELEMETRY_LABELS_MIN if is_telemetry_alone(pattern) else LABELS_MIN


def is_telemetry_alone(pattern: str) -> bool:
    """Return whether the pattern has nothing but hints of telemetry."""
    return all(part.startswith(_TELEMETRY) for part in pattern.split("+"))


def calibrated(pattern: str, counts: Counts, default: Support) -> Support:
    """Return the log-odds by kind that labels and the default support give together."""
    most = TELEMETRY_CALIBRATED_MAX if is_telemetry_alone(pattern) else CALIBRATED_MAX
    total, odds = counts.total, log_odds(default)
    found = {}
    for kind in KINDS:
        believed = probability(odds[kind]) * PRIOR_LABELS
        confirmed = counts.kinds.get(kind, 0)
        value = math.log((confirmed + believed) / (total - confirmed + PRIOR_LABELS - believed))
        found[kind] = max(-most, min(most, value))
    return found
