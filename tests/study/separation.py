# SPDX-License-Identifier: Apache-2.0
"""Which features tell training from inference on real recordings, and which do not.

python -m tests.study.separation [--write FILE]: needs the recordings (GPULEDGER_TRACES). Every recording is played to
the agent's own features, a second a tick; a window is a GPU's cell of 300 s (at least a minute of it), and what is
compared is a quotient of its sums, as a classifier would make it.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gpuledger.states import POWER_BANDS_PERCENT, State
from gpuledger_agent.features import Features, Place
from gpuledger_agent.snapshot import GpuSnapshot, Holder
from gpuledger_agent.tally import Part
from tests.abi.recordings import Recording, Sample, folder, load

CELL_S = 300
WINDOW_MS_MIN = 60_000
MEMORY_BYTES = 80 << 30
FAST_STEP_S = 2.1
"""Recorded more slowly than this, a series cannot show what happens from second to second."""
SOMEBODY = (Holder(workload="w", user=None, memory_bytes=None),)
TRAINING, INFERENCE = "training", "inference"

Sums = Counter[str]
Ratio = Callable[[Mapping[str, int]], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One GPU's sums over one cell."""

    source: str
    label: str
    is_fast: bool
    sums: Mapping[str, int]


# ------------------------------------------------------------------------------------------------- from recordings


def seconds(samples: Sequence[Sample], end_s: int) -> Iterator[tuple[int | None, int | None, int | None]]:
    """Energy in mJ, mean utilisation in ppm and memory in bytes of each second; a sample holds until the next one."""
    index = 0
    for second in range(end_s):
        begin_ms, end_ms = second * 1000, second * 1000 + 1000
        while index + 1 < len(samples) and samples[index + 1].at_ms <= begin_ms:
            index += 1
        energy = known = use = use_known = 0
        memory_bytes: int | None = None
        for place in range(index, len(samples)):
            sample = samples[place]
            if sample.at_ms >= end_ms:
                break
            until_ms = samples[place + 1].at_ms if place + 1 < len(samples) else end_ms
            span_ms = min(end_ms, until_ms) - max(begin_ms, sample.at_ms)
            if sample.power_mw is not None:
                energy, known = energy + sample.power_mw * span_ms, known + span_ms
            if sample.utilization_ppm is not None:
                use, use_known = use + sample.utilization_ppm * span_ms, use_known + span_ms
            if sample.memory_bytes is not None:
                memory_bytes = sample.memory_bytes
        yield energy // 1000 if known == 1000 else None, use // use_known if use_known else None, memory_bytes


def windows(recording: Recording, row: Mapping[str, str]) -> Iterator[Window]:
    """The windows of a recording, played to the features a second at a time."""
    gpus = int(row["n_gpus"]) if row["scope"] == "node" else 1
    limit_mw = round(float(row["tdp_w"]) * 1000 * gpus)
    end_s = recording.end_ms // 1000
    series: dict[Place, list[tuple[int | None, int | None, int | None]]] = {
        (str(gpu), None): list(seconds(samples, end_s)) for gpu, samples in recording.series.items()
    }
    watch, sums = Features(), defaultdict[tuple[Place, int], Sums](Counter)
    for second in range(end_s):
        parts: dict[Place, tuple[Part, int | None]] = {}
        for place, values in series.items():
            energy_mj, activity_ppm, memory_bytes = values[second]
            seen = GpuSnapshot(
                activity_ppm=activity_ppm,
                holders=SOMEBODY,
                power_limit_mw=limit_mw,
                memory_used_bytes=memory_bytes,
                memory_total_bytes=MEMORY_BYTES,
            )
            part = Part(slices=7, seen=seen, result=State.BUSY, activity_ppm=activity_ppm, is_single=True)
            parts[place] = (part, energy_mj)
        for place, (_, found) in watch.tick(parts, 1000).items():
            sums[place, second // CELL_S].update(found)
    is_fast = float(row["interval_s"]) <= FAST_STEP_S
    for total in sums.values():
        if total["sole_ms"] >= WINDOW_MS_MIN:
            yield Window(source=recording.source, label=recording.label, is_fast=is_fast, sums=total)


# ------------------------------------------------------------------------------------------------------ quotients


def power_known_ms(sums: Mapping[str, int]) -> int:
    return sum(sums[f"power_{percent}_ms"] for percent in POWER_BANDS_PERCENT)


def _share(*bands: int) -> Ratio:
    def share(sums: Mapping[str, int]) -> float | None:
        known_ms = power_known_ms(sums)
        return sum(sums[f"power_{percent}_ms"] for percent in bands) / known_ms if known_ms else None

    return share


def _a_minute(name: str) -> Ratio:
    def rate(sums: Mapping[str, int]) -> float | None:
        known_ms = power_known_ms(sums)
        return sums[name] * 60_000 / known_ms if known_ms else None

    return rate


def unevenness(sums: Mapping[str, int]) -> float | None:
    """Standard deviation of power over its mean."""
    known_ms = power_known_ms(sums)
    if not known_ms or not sums["energy_mj"]:
        return None
    mean_w = sums["energy_mj"] / known_ms
    return math.sqrt(max(0.0, sums["power_square_w2ms"] / known_ms - mean_w * mean_w)) / mean_w


def irregularity(sums: Mapping[str, int]) -> float | None:
    """Standard deviation of the period of power over its mean: 0 is a clock, 1 is chance."""
    count = sums["power_swings"]
    if count < 4:
        return None
    mean_ms = sums["power_swing_sum_ms"] / count
    return math.sqrt(max(0.0, sums["power_swing_square_ms2"] / count - mean_ms * mean_ms)) / mean_ms


def synchrony(sums: Mapping[str, int]) -> float | None:
    if sums["peers_ms"] == 0 or sums["power_jumps"] < 5:
        return None
    return sums["power_jumps_together"] / sums["power_jumps"]


def activity(sums: Mapping[str, int]) -> float | None:
    return sums["active_ns"] / sums["sole_ms"] / 1e6 if sums["active_ns"] else None


def memory_swings(sums: Mapping[str, int]) -> float:
    return sums["memory_swings"] * 3_600_000 / sums["sole_ms"]


def bursts(sums: Mapping[str, int]) -> float | None:
    return sums["bursts"] * 60_000 / sums["sole_ms"] if sums["active_ns"] else None


QUANTITIES: tuple[tuple[str, Ratio, bool], ...] = (
    ("share of time above 60 % of the limit", _share(60, 80), False),
    ("share of time above 80 % of the limit", _share(80), False),
    ("share of time below 25 % of the limit", _share(0, 15), False),
    ("unevenness of power (deviation / mean)", unevenness, False),
    ("activity (utilisation)", activity, False),
    ("memory swings an hour", memory_swings, False),
    ("bursts a minute", bursts, False),
    ("jumps of power a minute", _a_minute("power_jumps"), True),
    ("swings of power a minute", _a_minute("power_swings"), True),
    ("irregularity of swings (deviation / mean)", irregularity, True),
    ("share of jumps together with the other GPUs", synchrony, True),
)
"""Name, quotient, and whether only what was recorded fast enough can show it."""

# ------------------------------------------------------------------------------------------------------ comparing

Values = dict[str, list[float]]
"""By source."""


def values_of(found: Sequence[Window], ratio: Ratio, needs_fast: bool, label: str) -> Values:
    values: Values = defaultdict(list)
    for window in found:
        value = ratio(window.sums)
        if window.label == label and value is not None and (window.is_fast or not needs_fast):
            values[window.source].append(value)
    return values


def above(ones: Sequence[float], others: Sequence[float]) -> float:
    """How often one of the first is above one of the others (ties count half): 0.5 says nothing, 0 and 1 all."""
    score = sum((one > other) + (one == other) / 2 for one in ones for other in others)
    return score / (len(ones) * len(others))


def best_threshold(training: Values, inference: Values) -> tuple[float, bool]:
    """The threshold, and whether training is above it, with the best mean recall; each source weighs the same."""
    levels = sorted({value for values in (*training.values(), *inference.values()) for value in values})
    marks = [(low + high) / 2 for low, high in pairwise(levels)] or levels
    marks = marks[:: max(1, len(marks) // 200)]
    scored = [
        (recall(training, mark, is_above) + recall(inference, mark, not is_above), mark, is_above)
        for mark in marks
        for is_above in (True, False)
    ]
    _, mark, is_above = max(scored)
    return mark, is_above


def recall(values: Values, mark: float, is_above: bool) -> float:
    """The mean over sources of the share of windows on one side of a threshold."""
    return statistics.mean(statistics.mean((v > mark) is is_above for v in found) for found in values.values())


def transferred(training: Values, inference: Values) -> tuple[float, float] | None:
    """Mean recall of a threshold: found on the very windows it is tried on, and found without the source it meets."""
    if len(training) < 2 or len(inference) < 2:
        return None
    mark, is_above = best_threshold(training, inference)
    within = (recall(training, mark, is_above) + recall(inference, mark, not is_above)) / 2
    recalls = []
    for own, is_training in ((training, True), (inference, False)):
        of_label = []
        for source, found in own.items():
            rest = {name: values for name, values in own.items() if name != source}
            mark, is_above = best_threshold(*((rest, inference) if is_training else (training, rest)))
            of_label.append(recall({source: found}, mark, is_above is is_training))
        recalls.append(statistics.mean(of_label))
    return within, statistics.mean(recalls)


# -------------------------------------------------------------------------------------------------------- writing

PREFACE = """\
# Features on recordings

Generated by `python -m tests.study.separation --write docs/features-study.md`; the recordings are no part of this
project. What follows from it stands in [features.md](features.md).

{count} public recordings from {sources} sources, {windows} windows of a GPU's cell, were played to the agent's own
features. For each quotient that a classifier could make of them:

- *sources*: of training and of inference; *medians*: the least and the greatest median of a source;
- *above*: how often a training window has more of it than an inference window, for each pair of a training and an
  inference source: the median of all pairs and the two most extreme. 0.5 says nothing; what always separated would be
  near 1, or near 0, in every pair;
- *tried on its own*: mean recall of the best threshold on the windows that it was chosen on, each source with the same
  weight;
- *left out*: the same, but each source meets a threshold that was chosen without it. 0.5 is chance.

Most of these recordings have power only. Training was mostly recorded every 10 to 30 s, which hides what happens from
second to second: such quotients are of the {fast} sources that were recorded at least every {step} s. No recording has
tensor, memory or link activity, so nothing here says anything about them.

| quotient | sources | training medians | inference medians | above | tried on its own | left out |
|---|---|---|---|---|---|---|
"""


def rows(found: Sequence[Window]) -> Iterator[str]:
    """The table's lines."""
    for name, ratio, needs_fast in QUANTITIES:
        training = values_of(found, ratio, needs_fast, TRAINING)
        inference = values_of(found, ratio, needs_fast, INFERENCE)
        pairs = [above(one, other) for one in training.values() for other in inference.values()]
        scores = transferred(training, inference)
        pairs_text = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})" if pairs else "–"
        within, without = ("–", "–") if scores is None else (f"{scores[0]:.2f}", f"{scores[1]:.2f}")
        yield (
            f"| {name} | {len(training)}, {len(inference)} | {_medians(training)} | {_medians(inference)} "
            f"| {pairs_text} | {within} | {without} |"
        )


def _medians(values: Values) -> str:
    medians = [statistics.median(found) for found in values.values()]
    return f"{min(medians):.2f} to {max(medians):.2f}" if medians else "–"


def document(found: Sequence[Window], count: int) -> str:
    """docs/features-study.md."""
    preface = PREFACE.format(
        count=count,
        sources=len({window.source for window in found}),
        windows=f"{len(found):,}",
        fast=len({window.source for window in found if window.is_fast and window.label != "other"}),
        step=FAST_STEP_S,
    )
    return preface + "\n".join(rows(found)) + "\n"


def manifest(path: Path) -> dict[str, dict[str, str]]:
    """The recordings' descriptions by name."""
    with (path / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["trace_id"]: row for row in csv.DictReader(file)}


def main() -> None:
    """Play everything, and print or write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the document to this file")
    options = parser.parse_args()
    path = folder()
    if path is None:
        parser.error("there are no recordings: set GPULEDGER_TRACES")
    described = manifest(path)
    found = [window for recording in load(path) for window in windows(recording, described[recording.name])]
    text = document(found, len(described))
    if options.write is None:
        sys.stdout.write(text)
    else:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
