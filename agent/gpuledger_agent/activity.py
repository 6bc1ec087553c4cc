# SPDX-License-Identifier: Apache-2.0
"""Engine activity, from the best source that answers: GPM, the driver's buffered samples, polled utilisation.

GPM and samples are means over the time since the last tick, so they need a tick before them: the first one only seeds.
A value that cannot be is rejected and counted, and the next source is asked; a source that is silent is never a zero.

Percent or ratio? A GPM that counted to 1 instead of 100 would make every busy GPU idle. Until a GPU's GPM has said
more than 1 %, a small value is held against polled utilisation, and what they disagree on is unknown. After that,
utilisation is asked every 10 s while GPM sees next to nothing: what it says then is no activity, and not overheard.

Of a GPU instance (MIG) only GPM tells anything: nothing else is asked, and nothing can be held against it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from gpuledger.states import THETA_PPM
from gpuledger_agent.counters import CounterTrials
from gpuledger_agent.gpm import Gpm, GpmSample
from gpuledger_agent.measures import NO_MEANS, Checked, GpmMeans, Measures
from gpuledger_agent.nvml import CallFailed, Handle, Nvml
from gpuledger_agent.snapshot import Count, InstanceIdentity
from gpuledger_agent.sources import GpuReads

_log = logging.getLogger(__name__)

GPM_SOURCE, SAMPLES_SOURCE, POLLED_SOURCE = "gpm", "samples", "polled"
WINDOW_NS_MIN = 100_000_000
"""GPM's counters are refreshed every 100 ms: on Hopper a shorter window is invalid."""
WINDOW_INTERVALS_MAX = 30
HIGH_PPM = 700_000
UTILIZATION_POLL_NS = 10 * 10**9
"""How often utilisation is asked while GPM sees next to nothing."""
PROVEN_PPM = 10_000
"""More than this no ratio taken for a percentage can be."""
DISAGREEMENT_MIN, DISAGREEMENT_MAX = 50, 200
"""How many times GPM's value polled utilisation is, about, where one is a ratio."""
DISAGREEMENTS = 5
"""So many in a row are a finding."""
REFUSALS_MAX = 3
REFUSED_TICKS = 10
"""An instance whose GPM was refused so often in a row is asked again only at every so many ticks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Means over the time since the last tick in parts per million; None is unknown."""

    activity_ppm: int | None = None
    source: str | None = None
    sm_active_ppm: int | None = None
    sm_occupancy_ppm: int | None = None
    tensor_active_ppm: int | None = None
    dram_active_ppm: int | None = None
    link_bytes: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Count] = field(default_factory=dict)
    high_activity_ms: int | None = None
    rejected_values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """The time between the last two samples of GPM, and the means over it where it is the last tick's."""

    means: GpmMeans | None = None
    window_ns: int = 0
    is_wide: bool = False
    """The samples are far enough apart to be asked about."""


@dataclass(slots=True)
class _Gpu:
    """What is kept of one GPU between ticks. `gpm_samples` are two once allocated: the one last taken first."""

    gpm_samples: list[GpmSample] = field(default_factory=list)
    is_gpm_offered: bool | None = None
    gpm_tick: int | None = None
    gpm_ns: int | None = None
    """When the sample last taken was; None: none was yet."""
    are_counts_offered: bool | None = None
    trials: CounterTrials = field(default_factory=CounterTrials)
    is_gpm_proven: bool = False
    is_gpm_failed: bool = False
    disagreements: int = 0
    are_samples_offered: bool = True
    samples_tick: int | None = None
    samples_us: int = 0
    utilization_ppm: int | None = None
    """What utilisation said last while GPM saw next to nothing; None: unknown, or not asked."""
    utilization_ns: int | None = None
    high_since_ns: int | None = None
    is_high_by_utilization: bool = False
    refusals: int = 0


class ActivitySource:
    """Reads the activity of GPUs and of their instances, once per tick each."""

    def __init__(self, nvml: Nvml, now_ns: Callable[[], int], interval_ms: int) -> None:
        """`now_ns` is CLOCK_BOOTTIME: the window of two samples is between the calls that took them."""
        self._nvml = nvml
        self._gpm = Gpm(nvml)
        self._now_ns = now_ns
        self._window_ns_max = WINDOW_INTERVALS_MAX * interval_ms * 1_000_000
        self._gpus: dict[str, _Gpu] = {}
        self._instances: dict[str, dict[InstanceIdentity, _Gpu]] = {}
        self._disowned: dict[str, list[_Gpu]] = {}
        self._tick = 0
        self._said: set[str] = set()

    def begin_tick(self, uuids: Collection[str]) -> None:
        """Begin the next tick; what is kept of GPUs that are no longer there is freed."""
        self._tick += 1
        for uuid in [uuid for uuid in self._gpus if uuid not in uuids]:
            self._free(self._gpus.pop(uuid))
        for uuid in [uuid for uuid in self._instances if uuid not in uuids]:
            self.keep_instances(uuid, ())

    def keep_instances(self, uuid: str, identities: Collection[InstanceIdentity]) -> None:
        """Free what is kept of a GPU's other instances: an id that is used again must not meet an old sample."""
        kept = self._instances.get(uuid)
        if kept is None:
            return
        for identity in [identity for identity in kept if identity not in identities]:
            self._free(kept.pop(identity))
        if not kept:
            del self._instances[uuid]

    def forget(self) -> None:
        """Trust nothing that was read before; the memory of the samples is kept."""
        for uuid in {*self._gpus, *self._instances}:
            self.interrupt(uuid)

    def interrupt(self, uuid: str) -> None:
        """Trust nothing that was read of one GPU before: it was lost."""
        gpu = self._gpus.get(uuid)
        if gpu is not None:
            self._gpus[uuid] = _Gpu(gpm_samples=gpu.gpm_samples)
        kept = self._instances.get(uuid, {})
        for identity, instance in kept.items():
            kept[identity] = _Gpu(gpm_samples=instance.gpm_samples)

    def disown(self, uuid: str) -> None:
        """Leave alone what a call about the GPU that hangs may still be using."""
        gpu = self._gpus.pop(uuid, None)
        kept = [*([] if gpu is None else [gpu]), *self._instances.pop(uuid, {}).values()]
        if kept:
            self._disowned.setdefault(uuid, []).extend(kept)
        self._gpm = Gpm(self._nvml)

    def readmit(self, uuid: str) -> None:
        """Free what was left alone: the call returned."""
        for gpu in self._disowned.pop(uuid, ()):
            self._free(gpu)

    def release(self) -> None:
        """Free every sample, before NVML is let go of."""
        while self._gpus:
            self._free(self._gpus.popitem()[1])
        for uuid in list(self._instances):
            self.keep_instances(uuid, ())
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
        checked = Checked()
        window, measures = self._measure(gpu, handle, None, checked, reads)
        counts = self._counts(uuid, gpu, window, None if window.means is None else measures, reads)
        activity_ppm, source = measures.graphics_ppm, GPM_SOURCE
        if activity_ppm is not None and self._is_in_doubt(uuid, activity_ppm, handle, reads, checked):
            high_ms = self._high_ms(gpu, gpu.utilization_ppm, is_by_utilization=True)
            return Activity(high_activity_ms=high_ms, rejected_values=checked.rejected)
        if activity_ppm is None:
            activity_ppm, source = self._sampled(gpu, handle, reads, checked), SAMPLES_SOURCE
        if activity_ppm is None:
            activity_ppm, source = self._polled(handle, reads, checked), POLLED_SOURCE
        is_silent = source == GPM_SOURCE and activity_ppm is not None and activity_ppm <= THETA_PPM
        if is_silent:
            self._cross_check(gpu, handle, reads, checked)
        else:
            gpu.utilization_ns, gpu.utilization_ppm = self._now_ns(), None
        heard_ppm = gpu.utilization_ppm if is_silent else activity_ppm
        return Activity(
            activity_ppm=activity_ppm,
            source=None if activity_ppm is None else source,
            sm_active_ppm=measures.sm_active_ppm,
            sm_occupancy_ppm=measures.sm_occupancy_ppm,
            tensor_active_ppm=measures.tensor_active_ppm,
            dram_active_ppm=measures.dram_active_ppm,
            link_bytes=measures.link_bytes,
            counts=counts,
            high_activity_ms=self._high_ms(gpu, heard_ppm, is_by_utilization=is_silent),
            rejected_values=checked.rejected,
        )

    def read_instance(self, uuid: str, identity: InstanceIdentity, board: Handle, reads: GpuReads) -> Activity:
        """Return the activity of a GPU's instance, relative to it; raises as `read` does."""
        whole = self._gpus.get(uuid)
        if whole is not None and whole.is_gpm_failed:
            return Activity()
        instance = self._instances.setdefault(uuid, {}).get(identity)
        if instance is None:
            instance = self._instances[uuid][identity] = _Gpu()
        if instance.refusals >= REFUSALS_MAX and self._tick % REFUSED_TICKS != 0:
            return Activity()
        instance.refusals += 1
        checked = Checked()
        _, measures = self._measure(instance, board, identity.instance, checked, reads)
        if instance.gpm_tick == self._tick:
            instance.refusals = 0
        return Activity(
            activity_ppm=measures.graphics_ppm,
            source=None if measures.graphics_ppm is None else GPM_SOURCE,
            sm_active_ppm=measures.sm_active_ppm,
            sm_occupancy_ppm=measures.sm_occupancy_ppm,
            tensor_active_ppm=measures.tensor_active_ppm,
            dram_active_ppm=measures.dram_active_ppm,
            link_bytes=measures.link_bytes,
            rejected_values=checked.rejected,
        )

    def _high_ms(self, gpu: _Gpu, heard_ppm: int | None, *, is_by_utilization: bool) -> int | None:
        """Return for how long what is heard of the GPU has been high; whose word it is must not change in between."""
        if heard_ppm is None or heard_ppm <= HIGH_PPM:
            gpu.high_since_ns = None
            return None
        now_ns = self._now_ns()
        if gpu.high_since_ns is None or gpu.is_high_by_utilization is not is_by_utilization:
            gpu.high_since_ns, gpu.is_high_by_utilization = now_ns, is_by_utilization
        return (now_ns - gpu.high_since_ns) // 1_000_000

    # ------------------------------------------------------------------------------------------ GPM

    def _measure(
        self, gpu: _Gpu, handle: Handle, instance: int | None, checked: Checked, reads: GpuReads
    ) -> tuple[_Window, Measures]:
        """Take a sample; return the window since the one before it, and what its means say."""
        window = reads.ask("gpm", self._read_gpm, gpu, handle, instance) or _Window()
        means = NO_MEANS if window.means is None else window.means
        for error in means.errors:
            reads.count("gpm", error)
        return window, checked.measure(means, window.window_ns)

    def _read_gpm(self, gpu: _Gpu, handle: Handle, instance: int | None) -> _Window | None:
        """Return what GPM says of the time since the last tick, None where GPM is not offered."""
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
        if not self._gpm.take(handle, now, instance):
            return None
        before_ns, gpu.gpm_ns = gpu.gpm_ns, self._now_ns()
        gpu.gpm_samples = [now, before]
        gpu.gpm_tick = self._tick
        if before_ns is None or began_ns - before_ns < WINDOW_NS_MIN:
            return _Window()
        window_ns = gpu.gpm_ns - before_ns
        if seeded_tick != self._tick - 1 or began_ns - before_ns > self._window_ns_max:
            return _Window(window_ns=window_ns, is_wide=True)
        return _Window(means=self._gpm.means(before, now), window_ns=window_ns, is_wide=True)

    def _counts(
        self, uuid: str, gpu: _Gpu, window: _Window, told: Measures | None, reads: GpuReads
    ) -> Mapping[str, Count]:
        """Return the counters that proved themselves; where the first answer has none, they are not asked again."""
        counts: Mapping[str, Count] | None = None
        if window.is_wide and gpu.are_counts_offered is not False:
            now, before = gpu.gpm_samples
            if gpu.are_counts_offered is None:
                try:
                    counts = self._gpm.counts(before, now)
                except CallFailed:
                    # What an older driver says to a metric that it does not know is not written anywhere.
                    counts = None
                gpu.are_counts_offered = counts is not None
            else:
                counts = reads.ask("gpm_counters", self._gpm.counts, before, now)
        believed = gpu.trials.offer({} if counts is None else counts, told, window.window_ns)
        for name in sorted(gpu.trials.failed):
            if f"{uuid} {name}" not in self._said:
                self._said.add(f"{uuid} {name}")
                reads.count("gpm_counters", "disagreement")
                _log.warning("gpm_counter_disagrees", extra={"uuid": uuid, "counter": name})
        return believed

    def _is_in_doubt(self, uuid: str, gpm_ppm: int, handle: Handle, reads: GpuReads, checked: Checked) -> bool:
        """Return whether a small value of a GPM that has proved nothing yet is contradicted by utilisation."""
        gpu = self._gpus[uuid]
        if gpm_ppm > PROVEN_PPM:
            gpu.is_gpm_proven = True
        if gpu.is_gpm_proven:
            return False
        polled_ppm = gpu.utilization_ppm = self._polled(handle, reads, checked)
        gpu.utilization_ns = self._now_ns()
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

    def _cross_check(self, gpu: _Gpu, handle: Handle, reads: GpuReads, checked: Checked) -> None:
        """Ask utilisation now and then what it says of a GPU of which GPM says next to nothing."""
        now_ns = self._now_ns()
        if gpu.utilization_ns is None or now_ns - gpu.utilization_ns >= UTILIZATION_POLL_NS:
            gpu.utilization_ns = now_ns
            gpu.utilization_ppm = self._polled(handle, reads, checked)

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

    def _sampled(self, gpu: _Gpu, handle: Handle, reads: GpuReads, checked: Checked) -> int | None:
        """Return the mean of the samples to the nearest ppm; None of no samples, and where one of them cannot be."""
        percents = reads.ask("samples", self._read_samples, gpu, handle)
        values_ppm = [checked.ppm(percent) for percent in percents or ()]
        known_ppm = [value_ppm for value_ppm in values_ppm if value_ppm is not None]
        count = len(known_ppm)
        if count == 0 or count < len(values_ppm):
            return None
        return (2 * sum(known_ppm) + count) // (2 * count)

    def _polled(self, handle: Handle, reads: GpuReads, checked: Checked) -> int | None:
        return checked.ppm(reads.ask("activity", self._nvml.utilization_percent, handle))
