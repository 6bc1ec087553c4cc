# SPDX-License-Identifier: Apache-2.0
"""Verdicts on real recordings: telemetry alone, as it is and calibrated at other places, beside a reference."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuledger.cells import CELL_MS, CELL_SLICE_MS
from gpuledger.hints import Hints
from gpuledger_collector.classify.calibration import Confirmed, calibrate
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import Life
from gpuledger_collector.classify.signs import CellSign
from gpuledger_collector.classify.verdict import Context, Verdict, judge
from tests.abi.recordings import load
from tests.eval import reference
from tests.eval.scores import INFERENCE, TRAINING, Case
from tests.study.separation import Window, manifest, windows

ASSERT_AT = 0.9
FOLDS = 5
SITE = "recordings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One recording as a workload: the sums of all its windows."""

    name: str
    source: str
    label: str
    sums: Mapping[str, int]
    windows: tuple[Window, ...]

    @property
    def gpu_hours(self) -> float:
        return self.sums["sole_ms"] / 3_600_000


def play(path: Path) -> list[Played]:
    """Play every recording to the agent's own features."""
    described = manifest(path)
    found = []
    for recording in load(path):
        parts = tuple(windows(recording, described[recording.name]))
        total: Counter[str] = Counter()
        for part in parts:
            total.update(part.sums)
        if total["sole_ms"]:
            found.append(
                Played(
                    name=recording.name,
                    source=recording.source,
                    label=recording.label,
                    sums=dict(total),
                    windows=parts,
                )
            )
    return found


def verdict_of(played: Played, context: Context) -> Verdict:
    """The verdict on a recording: nobody declared anything, and nobody looked at its processes."""
    life = Life(first_ms=0, last_ms=CELL_MS, cells=2, site=SITE, hour_features=dict(played.sums))
    hints: Hints | None = None
    life.sums.add_cell(CellSign(0, "node", hints, CELL_SLICE_MS, 0, 1))
    return judge(played.name, life, context)


def as_case(played: Played, verdict: Verdict) -> Case:
    """The case of a recording. Without a lean training is as likely as not."""
    training = 0.5
    named = verdict.lean if verdict.kind is Kind.UNCLASSIFIED else verdict.kind
    if named is not None and verdict.probability is not None:
        if named is Kind.TRAINING:
            training = verdict.probability
        elif named is Kind.INFERENCE:
            training = 1 - verdict.probability
    asserted = None if verdict.kind is Kind.UNCLASSIFIED else verdict.kind.value
    return Case(
        group=played.source, label=played.label, asserted=asserted, training=training, gpu_hours=played.gpu_hours
    )


def context(calibration: Mapping[tuple[str, str], object] | None = None) -> Context:
    return Context(rules={}, calibration=calibration or {}, facts={}, labels={})  # type: ignore[arg-type]


def uncalibrated(found: Sequence[Played]) -> list[Case]:
    """Verdicts as they are where nobody confirmed anything."""
    return [as_case(played, verdict_of(played, context())) for played in found]


def calibrated_elsewhere(found: Sequence[Played]) -> list[Case]:
    """Verdicts on each source after all recordings of all other sources were confirmed; a source is an owner."""
    shapes = {played.name: verdict_of(played, context()).pattern for played in found}
    cases = []
    for source in sorted({played.source for played in found}):
        labels = [
            Confirmed(site=SITE, pattern=shapes[played.name], owner=played.source, kind=Kind(played.label))
            for played in found
            if played.source != source and played.label in (TRAINING, INFERENCE)
        ]
        known = context(calibrate(labels))
        cases += [as_case(played, verdict_of(played, known)) for played in found if played.source == source]
    return cases


# ---------------------------------------------------------------------------------------------- the reference

Row = tuple[tuple[float, ...], bool, str, float]
"""Quotients, is training, source, GPU-hours of a window."""


def rows_of(found: Sequence[Played]) -> list[Row]:
    """The windows of training and inference whose power is known."""
    rows = []
    for played in found:
        for window in played.windows:
            values = reference.vector(window.sums)
            if values is not None and played.label in (TRAINING, INFERENCE):
                rows.append((values, played.label == TRAINING, played.source, window.sums["sole_ms"] / 3_600_000))
    return rows


def reference_left_out(rows: Sequence[Row]) -> list[Case]:
    """The reference on each source, fitted without it."""
    cases = []
    for source in sorted({row[2] for row in rows}):
        model = reference.fit([row[:2] for row in rows if row[2] != source])
        cases += [_case(row, model) for row in rows if row[2] == source]
    return cases


def reference_leaky(rows: Sequence[Row]) -> list[Case]:
    """The reference with shuffled windows: other windows of the same recordings are in what it was fitted to."""
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    fold = {index: place % FOLDS for place, index in enumerate(order)}
    cases = []
    for number in range(FOLDS):
        model = reference.fit([row[:2] for index, row in enumerate(rows) if fold[index] != number])
        cases += [_case(row, model) for index, row in enumerate(rows) if fold[index] == number]
    return cases


def _case(row: Row, model: reference.Model) -> Case:
    training = model.training(row[0])
    asserted = TRAINING if training >= ASSERT_AT else INFERENCE if training <= 1 - ASSERT_AT else None
    label = TRAINING if row[1] else INFERENCE
    return Case(group=row[2], label=label, asserted=asserted, training=training, gpu_hours=row[3])


def suspicions(found: Sequence[Played]) -> dict[str, list[tuple[str, float]]]:
    """What is suspected of recordings, in GPU-hours, by suspicion: all of these recordings are real work or idle."""
    told: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for played in found:
        for one in verdict_of(played, context()).suspected:
            told[one.suspicion.value].append((played.label, one.gpu_ms / 3_600_000))
    return told
