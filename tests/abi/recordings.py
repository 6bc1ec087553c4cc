# SPDX-License-Identifier: Apache-2.0
"""Real recordings of GPUs, as scripts for the library, and their own integrals worked out from the samples alone.

A sample holds until the next one of the same GPU; the last one only ends the recording. A power below 0 W is a meter's
sign for "no reading", so it is none here either. Data that are not there are skipped by whoever asks.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.abi.build import ROOT
from tests.abi.script import NOT_SUPPORTED, UNKNOWN, Constant, Failure, Script, Signal

PID = 4_200_001
THETA_PCT = 5
INTERVAL_MS = 1_000
PPM_PER_PCT = 10_000
DEFAULT_MEMORY_BYTES = 20 << 30


def folder() -> Path | None:
    """The folder of the recordings: GPULEDGER_TRACES, else ../shared/traces beside the checkout; None if absent."""
    path = Path(os.environ.get("GPULEDGER_TRACES") or ROOT.parent / "shared" / "traces")
    return path if (path / "manifest.csv").exists() else None


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of one GPU; None where the recording has nothing."""

    at_ms: int
    power_mw: int | None
    utilization_ppm: int | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recording: what it is of, and its series by GPU (-1: the whole node as one)."""

    name: str
    source: str
    hardware: str
    label: str
    has_utilization: bool
    series: dict[int, list[Sample]]

    @property
    def end_ms(self) -> int:
        """When the first of its series ends: up to there all are known."""
        return min(samples[-1].at_ms for samples in self.series.values())

    def script(self) -> Script:
        """The recording as a script, with a process on every GPU throughout."""
        script = Script()
        for number, samples in enumerate(self.series.values()):
            gpu = script.add_gpu(memory_total_bytes=1 << 40).run(PID + number)
            _follow(gpu.tracks.setdefault("power_mw", []), [(s.at_ms, s.power_mw) for s in samples], UNKNOWN)
            use = [(s.at_ms, s.utilization_ppm) for s in samples]
            _follow(gpu.tracks.setdefault("utilization", []), use, NOT_SUPPORTED)
            memory = [(s.at_ms, DEFAULT_MEMORY_BYTES if s.memory_bytes is None else s.memory_bytes) for s in samples]
            _follow(gpu.tracks.setdefault("memory_used_bytes", []), memory, UNKNOWN)
        # What was recorded is polled utilisation.
        return script.polled()


def load(path: Path, wanted: str | None = None) -> Iterator[Recording]:
    """Every recording of the manifest (or the one named `wanted`)."""
    import pyarrow.parquet  # noqa: PLC0415 - only who has recordings needs it

    with (path / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if wanted is not None and row["trace_id"] != wanted:
            continue
        columns: Mapping[str, Sequence[float | None]] = pyarrow.parquet.read_table(path / row["file"]).to_pydict()
        yield Recording(
            name=row["trace_id"],
            source=row["source"],
            hardware=row["gpu_model"],
            label=row["label"],
            has_utilization="util_pct" in columns,
            series=_series(columns),
        )


def _series(columns: Mapping[str, Sequence[float | None]]) -> dict[int, list[Sample]]:
    nothing: list[float | None] = [None] * len(columns["t_s"])
    series: dict[int, dict[int, Sample]] = {}
    for t_s, gpu, power_w, use_pct, used_mb in zip(
        columns["t_s"],
        columns["gpu"],
        columns["power_w"],
        columns.get("util_pct", nothing),
        columns.get("mem_used_mb", nothing),
        strict=True,
    ):
        if t_s is None or gpu is None:
            raise ValueError("a sample without a time or a GPU")
        at_ms = round(t_s * 1_000)
        series.setdefault(int(gpu), {})[at_ms] = Sample(
            at_ms=at_ms,
            power_mw=None if power_w is None or power_w < 0 else round(power_w * 1_000),
            utilization_ppm=None if use_pct is None else round(use_pct * PPM_PER_PCT),
            memory_bytes=None if used_mb is None else round(used_mb * 1024 * 1024),
        )
    starts_ms = {gpu: min(samples) for gpu, samples in series.items()}
    return {
        gpu: [
            Sample(at_ms - starts_ms[gpu], sample.power_mw, sample.utilization_ppm, sample.memory_bytes)
            for at_ms, sample in sorted(samples.items())
        ]
        for gpu, samples in sorted(series.items())
    }


def _follow(spans: list[tuple[int, Signal]], samples: Sequence[tuple[int, int | None]], code: int) -> None:
    """Append a span wherever the value changes."""
    for at_ms, value in samples:
        signal: Signal = Failure(code) if value is None else Constant(value)
        if not spans or spans[-1][1] != signal:
            spans.append((at_ms, signal))


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrals:
    """A recording's own sums over [0, end) of one GPU, by stepping through its samples.

    `busy_ms` counts the whole seconds whose mean utilisation, rounded to whole percent as NVML reports it, exceeds 5 %;
    `sampled_busy_ms` the time of the samples themselves that are above 5 %.
    """

    energy_mj: float
    power_known_ms: int
    active_ns: int
    busy_ms: int
    sampled_busy_ms: int


def integrate(samples: list[Sample], end_ms: int) -> Integrals:
    """The sums of one series."""
    energy_uj = 0
    known_ms = active_ns = busy_ms = sampled_ms = 0
    windows: dict[int, int] = {}
    for sample, following in pairwise(samples):
        stop_ms = min(following.at_ms, end_ms)
        span_ms = stop_ms - sample.at_ms
        if span_ms <= 0:
            break
        if sample.power_mw is not None:
            energy_uj += sample.power_mw * span_ms
            known_ms += span_ms
        if sample.utilization_ppm is None:
            continue
        active_ns += sample.utilization_ppm * span_ms
        sampled_ms += span_ms * (sample.utilization_ppm > THETA_PCT * PPM_PER_PCT)
        at_ms = sample.at_ms
        while at_ms < stop_ms:
            window = at_ms // INTERVAL_MS
            until_ms = min((window + 1) * INTERVAL_MS, stop_ms)
            windows[window] = windows.get(window, 0) + sample.utilization_ppm * (until_ms - at_ms)
            at_ms = until_ms
    for area in windows.values():
        percent = (area + INTERVAL_MS * PPM_PER_PCT // 2) // (INTERVAL_MS * PPM_PER_PCT)
        busy_ms += INTERVAL_MS * (percent > THETA_PCT)
    return Integrals(
        energy_mj=energy_uj / 1_000,
        power_known_ms=known_ms,
        active_ns=active_ns,
        busy_ms=busy_ms,
        sampled_busy_ms=sampled_ms,
    )
