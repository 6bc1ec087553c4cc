# SPDX-License-Identifier: Apache-2.0
"""Scores of verdicts: accuracy among asserted, coverage, Brier, ECE, recall by source, intervals over whole groups."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

TRAINING, INFERENCE, NOTHING = "training", "inference", "unclassified"
REPETITIONS = 1_000
BINS = 10
BOUNDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload (or window): what it is, what was asserted (None: nothing), p that it is training, its weight."""

    group: str
    label: str
    asserted: str | None
    training: float
    gpu_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """None where there is nothing to divide by."""

    cases: int
    accuracy: float | None
    """Right among those asserted."""
    coverage: float
    """Asserted, in GPU-hours."""
    brier: float | None
    ece: float | None
    auc: float | None


def score(cases: Sequence[Case]) -> Scores:
    """Return the scores of cases; Brier, ECE and AUC of training against inference only."""
    asserted = [case for case in cases if case.asserted is not None]
    hours = sum(case.gpu_hours for case in cases)
    told = [case for case in cases if case.label in (TRAINING, INFERENCE)]
    return Scores(
        cases=len(cases),
        accuracy=_mean([float(case.asserted == case.label) for case in asserted]),
        coverage=sum(case.gpu_hours for case in asserted) / hours if hours else 0.0,
        brier=_mean([(case.training - (case.label == TRAINING)) ** 2 for case in told]),
        ece=_ece(told),
        auc=auc(told),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _ece(cases: Sequence[Case]) -> float | None:
    bins: dict[int, list[Case]] = {}
    for case in cases:
        bins.setdefault(min(BINS - 1, int(case.training * BINS)), []).append(case)
    if not cases:
        return None
    total = 0.0
    for found in bins.values():
        said = sum(case.training for case in found) / len(found)
        was = sum(case.label == TRAINING for case in found) / len(found)
        total += abs(said - was) * len(found) / len(cases)
    return total


def auc(cases: Sequence[Case]) -> float | None:
    """Return how often a training case has the higher p than an inference case; ties count half."""
    ones = [case.training for case in cases if case.label == TRAINING]
    others = sorted(case.training for case in cases if case.label == INFERENCE)
    if not ones or not others:
        return None
    wins = sum(sum((one > other) + (one == other) / 2 for other in others) for one in ones)
    return wins / (len(ones) * len(others))


def recall_by_group(cases: Iterable[Case]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return (asserted rightly, all) by (group, label)."""
    found: dict[tuple[str, str], list[int]] = {}
    for case in cases:
        counts = found.setdefault((case.group, case.label), [0, 0])
        counts[0] += case.asserted == case.label
        counts[1] += 1
    return {key: (right, total) for key, (right, total) in sorted(found.items())}


def confusion(cases: Iterable[Case]) -> Mapping[tuple[str, str], int]:
    """Return counts by (label, asserted or unclassified)."""
    return Counter((case.label, NOTHING if case.asserted is None else case.asserted) for case in cases)


def interval(
    cases: Sequence[Case], figure: Callable[[Scores], float | None], seed: int = 1
) -> tuple[float, float] | None:
    """Return the 95 % interval of a figure when whole groups are drawn again, with replacement; None without one."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    names = sorted(groups)
    rng = random.Random(seed)
    values = []
    for _ in range(REPETITIONS):
        drawn = [case for _ in names for case in groups[rng.choice(names)]]
        value = figure(score_light(drawn))
        if value is not None:
            values.append(value)
    if not values:
        return None
    values.sort()
    low, high = (values[min(len(values) - 1, int(bound * len(values)))] for bound in BOUNDS)
    return low, high


def score_light(cases: Sequence[Case]) -> Scores:
    """Return the scores without those that compare all pairs."""
    asserted = [case for case in cases if case.asserted is not None]
    hours = sum(case.gpu_hours for case in cases)
    told = [case for case in cases if case.label in (TRAINING, INFERENCE)]
    return Scores(
        cases=len(cases),
        accuracy=_mean([float(case.asserted == case.label) for case in asserted]),
        coverage=sum(case.gpu_hours for case in asserted) / hours if hours else 0.0,
        brier=_mean([(case.training - (case.label == TRAINING)) ** 2 for case in told]),
        ece=None,
        auc=None,
    )
