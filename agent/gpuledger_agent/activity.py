# SPDX-License-Identifier: Apache-2.0
"""Engine activity, from the best source that answers: GPM, the driver's buffered samples, polled utilisation.

GPM and samples are means over the time since the last tick, so they need a tick before them: the first one only seeds.
A value that cannot be is rejected and counted, and the next source is asked; a source that is silent is never a zero.

Percent or ratio? A GPM that counted to 1 instead of 100 would make every busy GPU idle. Until a GPU's GPM has said
more than 1 %, a small value is held against polled utilisation, and what they disagree on is unknown.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from gpuledger.states import THETA_PPM
from gpuledger_agent.gpm import NO_MEANS, Gpm, GpmMeans, GpmSample
from gpuledger_agent.nvml import Handle, Nvml
from gpuledger_agent.sources import GpuReads

_log = logging.getLogger(__name__)

GPM_SOURCE, SAMPLES_SOURCE, POLLED_SOURCE = "gpm", "samples", "polled"
WINDOW_NS_MIN = 100_000_000
"""GPM's counters are refreshed every 100 ms: on Hopper a shorter window is invalid."""
WINDOW_INTERVALS_MAX = 30
FULL_PPM = 1_000_000
PROVEN_PPM = 10_000
"""More than this no ratio taken for a percentage can be."""
DISAGREEMENT_MIN, DISAGREEMENT_MAX = 50, 200
"""How many times GPM's value polled utilisation is, about, where one is a ratio."""
DISAGREEMENTS = 5
"""So many in a row are a finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Means over the time since the last tick in parts per million; None is unknown."""

    activity_ppm: int | None = None
    source: str | None = None
    sm_active_ppm: int | None = None
    sm_occupancy_ppm: int | None = None
    tensor_active_ppm: int | None = None
    dram_active_ppm: int | None = None
    rejected_values: int = 0


@dataclass(slots=True)
class _Gpu:
    """What is kept of one GPU between ticks. `gpm_samples` are two once allocated: the older one first."""

    gpm_samples: list[GpmSample] = field(default_factory=list)
    is_gpm_offered: bool | None = None
    gpm_tick: int | None = None
    gpm_ns: int = 0
    is_gpm_proven: bool = False
    is_gpm_failed: bool = False
    disagreements: int = 0
    are_samples_offered: bool = True
    samples_tick: int | None = None
    samples_us: int = 0


class _Range:
    """Takes percentages in and lets parts per million out; counts what cannot be."""

    def __init__(self) -> None:
        self.rejected = 0

    def ppm(self, percent: float | None) -> int | None:
        if percent is None:
            return None
        value_ppm = round(percent * 10_000) if math.isfinite(percent) else -1
        if 0 <= value_ppm <= FULL_PPM:
            return value_ppm
        self.rejected += 1
        return None


class ActivitySource:
    """Reads the activity of whole GPUs, once per tick each."""

    def __init__(self, nvml: Nvml, now_ns: Callable[[], int], interval_ms: int) -> None:
        """`now_ns` is CLOCK_BOOTTIME: the window of two samples is between the calls that took them."""
        self._nvml = nvml
        self._gpm = Gpm(nvml)
        self._now_ns = now_ns
        self._window_ns_max = WINDOW_INTERVALS_MAX * interval_ms * 1_000_000
        self._gpus: dict[str, _Gpu] = {}
        self._disowned: dict[str, list[_Gpu]] = {}
        self._tick = 0
        self._said: set[str] = set()

    def begin_tick(self, uuids: Collection[str]) -> None:
        """Begin the next tick; what is kept of GPUs that are no longer there is freed."""
        self._tick += 1
        for uuid in [uuid for uuid in self._gpus if uuid not in uuids]:
            self._free(self._gpus.pop(uuid))

    def forget(self) -> None:
        """Trust nothing that was read before; the memory of the samples is kept."""
        for uuid in self._gpus:
            self.interrupt(uuid)

    def interrupt(self, uuid: str) -> None:
        """Trust nothing that was read of one GPU before: it was lost."""
        gpu = self._gpus.get(uuid)
        if gpu is not None:
            self._gpus[uuid] = _Gpu(gpm_samples=gpu.gpm_samples)

    def disown(self, uuid: str) -> None:
        """Leave alone what a call about the GPU that hangs may still be using."""
        gpu = self._gpus.pop(uuid, None)
        if gpu is not None:
            self._disowned.setdefault(uuid, []).append(gpu)
        self._gpm = Gpm(self._nvml)

    def readmit(self, uuid: str) -> None:
        """Free what was left alone: the call returned."""
        for gpu in self._disowned.pop(uuid, ()):
            self._free(gpu)

    def release(self) -> None:
        """Free every sample, before NVML is let go of."""
        while self._gpus:
            self._free(self._gpus.popitem()[1])
        for uuid in list(self._disowned):
            self.readmit(uuid)

    def _free(self, gpu: _Gpu) -> None:
        while gpu.gpm_samples:
            self._gpm.free(gpu.gpm_samples.pop(0))

    def read(self, uuid: str, handle: Handle, reads: GpuReads) -> Activity:
        """Return the GPU's activity; raises GpuLost, ResetRequired and DriverUnavailable."""
        gpu = self._gpus.get(uuid)
        if gpu is None:
            gpu = self._gpus[uuid] = _Gpu()
        checked = _Range()
        means = reads.ask("gpm", self._read_gpm, gpu, handle)
        if means is None:
            means = NO_MEANS
        for error in means.errors:
            reads.count("gpm", error)
        activity_ppm, source = checked.ppm(means.graphics), GPM_SOURCE
        if activity_ppm is not None and self._is_in_doubt(uuid, activity_ppm, handle, reads, checked):
            return Activity(rejected_values=checked.rejected)
        if activity_ppm is None:
            activity_ppm, source = self._sampled(gpu, handle, reads, checked), SAMPLES_SOURCE
        if activity_ppm is None:
            activity_ppm, source = self._polled(handle, reads, checked), POLLED_SOURCE
        return Activity(
            activity_ppm=activity_ppm,
            source=None if activity_ppm is None else source,
            sm_active_ppm=checked.ppm(means.sm),
            sm_occupancy_ppm=checked.ppm(means.sm_occupancy),
            tensor_active_ppm=checked.ppm(means.tensor),
            dram_active_ppm=checked.ppm(means.dram),
            rejected_values=checked.rejected,
        )

    # ------------------------------------------------------------------------------------------ GPM

    def _read_gpm(self, gpu: _Gpu, handle: Handle) -> GpmMeans | None:
        """Return the means since the last tick (empty where this tick only seeds), None where GPM is not offered."""
        if gpu.is_gpm_failed or gpu.is_gpm_offered is False:
            return None
        if gpu.is_gpm_offered is None:
            gpu.is_gpm_offered = self._gpm.is_supported(handle)
            if not gpu.is_gpm_offered:
                return None
        while len(gpu.gpm_samples) < 2:
            gpu.gpm_samples.append(self._gpm.allocate())
        seeded_tick, gpu.gpm_tick = gpu.gpm_tick, None
        before, now = gpu.gpm_samples
        began_ns = self._now_ns()
        if not self._gpm.take(handle, now):
            return None
        window_ns = began_ns - gpu.gpm_ns
        gpu.gpm_samples = [now, before]
        gpu.gpm_tick, gpu.gpm_ns = self._tick, self._now_ns()
        if seeded_tick != self._tick - 1 or not WINDOW_NS_MIN <= window_ns <= self._window_ns_max:
            return NO_MEANS
        return self._gpm.means(before, now)

    def _is_in_doubt(self, uuid: str, gpm_ppm: int, handle: Handle, reads: GpuReads, checked: _Range) -> bool:
        """Return whether a small value of a GPM that has proved nothing yet is contradicted by utilisation."""
        gpu = self._gpus[uuid]
        if gpm_ppm > PROVEN_PPM:
            gpu.is_gpm_proven = True
        if gpu.is_gpm_proven:
            return False
        polled_ppm = self._polled(handle, reads, checked)
        if polled_ppm is None or polled_ppm <= max(THETA_PPM, DISAGREEMENT_MIN * gpm_ppm - 1):
            gpu.disagreements = 0
            return False
        gpu.disagreements = gpu.disagreements + 1 if polled_ppm <= DISAGREEMENT_MAX * gpm_ppm else 0
        if gpu.disagreements == DISAGREEMENTS:
            gpu.is_gpm_failed = True
            reads.count("gpm", "disagreement")
            if uuid not in self._said:
                self._said.add(uuid)
                facts = {"uuid": uuid, "gpm_ppm": gpm_ppm, "polled_ppm": polled_ppm}
                _log.error("gpm_disagrees", extra=facts)
        return True

    # ------------------------------------------------------------------------------------------ the other sources

    def _read_samples(self, gpu: _Gpu, handle: Handle) -> list[int] | None:
        """Return the percentages of the samples since the last tick (none where this one only seeds)."""
        if not gpu.are_samples_offered:
            return None
        is_seeded = gpu.samples_tick == self._tick - 1
        gpu.samples_tick = None
        found = self._gpm.utilization_samples(handle, gpu.samples_us if is_seeded else 0)
        if found is None:
            gpu.are_samples_offered = False
            return None
        gpu.samples_tick = self._tick
        if found:
            gpu.samples_us = max(time_us for time_us, _ in found)
        elif not is_seeded:
            gpu.samples_us = 0
        return [percent for _, percent in found] if is_seeded else []

    def _sampled(self, gpu: _Gpu, handle: Handle, reads: GpuReads, checked: _Range) -> int | None:
        """Return the mean of the samples to the nearest ppm; None of no samples, and where one of them cannot be."""
        percents = reads.ask("samples", self._read_samples, gpu, handle)
        values_ppm = [checked.ppm(percent) for percent in percents or ()]
        known_ppm = [value_ppm for value_ppm in values_ppm if value_ppm is not None]
        count = len(known_ppm)
        if count == 0 or count < len(values_ppm):
            return None
        return (2 * sum(known_ppm) + count) // (2 * count)

    def _polled(self, handle: Handle, reads: GpuReads, checked: _Range) -> int | None:
        return checked.ppm(reads.ask("activity", self._nvml.utilization_percent, handle))
