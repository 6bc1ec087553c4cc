# SPDX-License-Identifier: Apache-2.0
"""A week of dcgm-exporter's gauges, replayed from one recorded exposition, and how it was truly spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.states import State
from tests.integration.engines import labels_in

EXPOSITION = (Path(__file__).parent / "expositions" / "dcgm-exporter-4.5.3.txt").read_text(encoding="utf-8")
MONDAY_MS = 1_794_787_200_000
WEEK_MS = 7 * DAY_MS
INTERVAL_MS = 30_000
ACTIVE, UTILISATION, MEMORY = "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"
BLANK = 9223372036854775794.0
_OWN = ("container", "namespace", "pod")
_RESTART = (4 * 24 * HOUR_MS + 3 * HOUR_MS, 4 * 24 * HOUR_MS + 3 * HOUR_MS + 1_200_000)
"""Friday 03:00 to 03:20, in ms of the week: the exporter was not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What one GPU, or instance, showed from one hour of the week to another; values None: no such series."""

    gpu: str
    instance: str | None = None
    from_h: float = 0
    to_h: float = 168
    active: float | None
    utilisation: float | None = None
    memory: float | None
    pod: tuple[str, str] | None = None


WEEK = (
    Span(gpu="0", active=0.934512, utilisation=98, memory=70_995, pod=("research", "train-0")),
    Span(gpu="1", to_h=60, active=0.929001, utilisation=97, memory=70_995, pod=("research", "train-0")),
    Span(gpu="1", from_h=60, active=0.0, utilisation=0, memory=4),
    Span(gpu="2", active=0.0, utilisation=0, memory=20_995, pod=("people", "notebook-7")),
    Span(gpu="3", active=0.0, utilisation=0, memory=4),
    Span(gpu="4", to_h=24, active=0.0, utilisation=0, memory=4, pod=("batch", "eval-3")),
    Span(gpu="4", from_h=24, active=0.0, utilisation=0, memory=4),
    Span(gpu="5", to_h=78, active=0.0, utilisation=0, memory=4),
    Span(gpu="6", instance="1", active=0.612034, memory=22_000, pod=("serving", "llm-1")),
    Span(gpu="6", instance="2", active=0.0, memory=24),
    Span(gpu="7", to_h=120, active=0.941230, utilisation=98, memory=70_995),
    Span(gpu="7", from_h=120, to_h=132, active=0.0, utilisation=98, memory=70_995),
    Span(gpu="7", from_h=132, to_h=144, active=None, utilisation=98, memory=70_995),
    Span(gpu="7", from_h=144, active=0.941230, utilisation=98, memory=70_995),
)
_GAP_H = (_RESTART[1] - _RESTART[0]) / HOUR_MS
TRUTH = {
    State.BUSY: 168 + 60 + 168 * 3 / 7 + 156 - _GAP_H * (2 + 3 / 7),
    State.HELD: 168 - _GAP_H,
    State.RESERVED: 24.0,
    State.FREE: 108 + 168 + 144 + 78 + 168 * 2 / 7 - _GAP_H * (3 + 2 / 7),
    State.UNMEASURED: 168 * 2 / 7 + 12 - _GAP_H * 2 / 7,
    State.DARK: 90.0 + 7 * _GAP_H,
}
"""GPU-hours of eight GPUs. Without profiling utilisation counts; where the two contradict nothing is known."""


def labels_of(span: Span) -> dict[str, str]:
    """Return the recorded labels of the span's GPU, with its pod."""
    wanted = (span.gpu, span.instance)
    found = next(
        labels for labels in labels_in(EXPOSITION, MEMORY) if (labels["gpu"], labels.get("GPU_I_ID")) == wanted
    )
    own = {name: value for name, value in found.items() if name not in _OWN}
    if span.pod is not None:
        own |= {"container": "main", "namespace": span.pod[0], "pod": span.pod[1]}
    return own | {"job": "dcgm", "instance": "10.7.0.7:9400"}


def past(week: Sequence[Span] = WEEK) -> dict[str, list[tuple[dict[str, str], list[tuple[int, float]]]]]:
    """Return the week as it stands in an engine that scraped every 30 s."""
    found: dict[str, list[tuple[dict[str, str], list[tuple[int, float]]]]] = {ACTIVE: [], UTILISATION: [], MEMORY: []}
    series: dict[tuple[str, tuple[str, ...]], list[tuple[int, float]]] = {}
    for span in week:
        labels = labels_of(span)
        for metric, value in ((ACTIVE, span.active), (UTILISATION, span.utilisation), (MEMORY, span.memory)):
            if value is None:
                continue
            key = (metric, tuple(labels.values()))
            if key not in series:
                series[key] = []
                found[metric].append((labels, series[key]))
            series[key] += [(time_ms, value) for time_ms in _times(span)]
    return found


def _times(span: Span) -> Iterator[int]:
    for at_ms in range(round(span.from_h * HOUR_MS) + 11_003, round(span.to_h * HOUR_MS), INTERVAL_MS):
        if not _RESTART[0] <= at_ms < _RESTART[1]:
            yield MONDAY_MS + at_ms
