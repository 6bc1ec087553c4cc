# SPDX-License-Identifier: Apache-2.0
"""How an honest agent calls NVML, and what it makes of a GPU's activity: GPM, then samples, then polled utilisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.abi.answers import LINKS, MIB, MS_NS, SECOND_NS, Calls, GpuAnswers, WorkerAnswers
from tests.abi.counting import Count, Trial
from tests.abi.script import (
    COUNTERS_ABSENT,
    COUNTERS_REFUSED,
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    LIB_RM_VERSION_MISMATCH,
    NOT_FOUND,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    UNINITIALIZED,
    Failure,
)

PPM_PER_PERCENT = 10_000
GPM_METRICS = ("graphics", "sm", "sm_occupancy", "tensor", "dram")
GPM_WINDOW_NS = SECOND_NS // 10
GPM_WINDOW_INTERVALS = 30
NO_STAMP_US = -(10**18)
THETA_PPM = 5 * PPM_PER_PERCENT
HIGH_PPM = 70 * PPM_PER_PERCENT
CROSS_CHECK_EVERY_NS = 10 * SECOND_NS
MIB_PER_S_MOST = {"pcie_tx": 2**18, "pcie_rx": 2**18, "nvlink_tx": 2**23, "nvlink_rx": 2**23}
COUNTERS = ("sm", "tensor", "pcie_tx", "pcie_rx")
LIBRARY_WIDE = (UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH)
NOT_OFFERED = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
GONE = (GPU_IS_LOST, RESET_REQUIRED)


@dataclass(slots=True, kw_only=True)
class Seen:
    """One GPU in one tick. None is unknown. `reason` says why nothing at all can be said.

    A divided GPU has `parts`, each instance by its name, and all else is of the board and of what no instance has;
    where the instances are unknown they are None, and all else is of the whole GPU.
    """

    reason: str | None = None
    down: bool = False
    healthy: bool | None = None
    process: bool | None = None
    activity_ppm: int | None = None
    sm_ppm: int | None = None
    engines_ppm: dict[str, int] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    high_ms: int | None = None
    energy_mj: int | None = None
    divided: bool = False
    parts: list[tuple[tuple[str, int, int, int], Seen]] | None = field(default_factory=list)
    fatal: bool = False
    """It reported a fatal Xid that no clean health read has followed."""
    unknown: bool = False
    """No call answers, and every one that failed said "unknown"."""
    xids: list[int] = field(default_factory=list)
    ecc: dict[str, int] = field(default_factory=dict)
    throttled: list[tuple[str, int, int]] = field(default_factory=list)
    """(reason, since when in script ns, ns) of what the counters grew by."""

    @property
    def is_gone(self) -> bool:
        """The GPU was lost, or waited for a reset."""
        return self.down and self.healthy is None


@dataclass(slots=True)
class Heard:
    """What GPM said in a tick: shares by metric and bytes by link, if they are of this tick alone (`told`).

    `first_ns` is where the sample before was; None: there are no two samples that may be compared.
    """

    shares: dict[str, int] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)
    told: bool = False
    first_ns: int | None = None


class LibraryGone(Exception):
    """NVML as a whole cannot be used; `reason` None: it is not time to try again yet."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


class GpuGone(Exception):
    """The GPU is lost or waits for a reset."""


def raise_if_gone(code: int | None) -> None:
    if code in LIBRARY_WIDE:
        raise LibraryGone("library")
    if code in GONE:
        raise GpuGone


class GpmMemory:
    """What the agent remembers of the GPM of one GPU, or of one instance."""

    def __init__(self) -> None:
        self.offered: bool | None = None
        self.tick: int | None = None
        self.ns: int | None = None
        self.counters_offered: bool | None = None
        self.trial = Trial()
        self.cross_checked_ns: int | None = None
        self.cross_check_ppm: int | None = None
        self.high_from_ns: int | None = None
        self.high_by: str | None = None
        self.sampled: WorkerAnswers | None = None
        self.trusted = False
        self.discredited = False
        self.refusals = 0
        self.spoke = False
        """It told of the activity of the last tick."""


class Memory:
    """What the agent remembers of one GPU from tick to tick."""

    def __init__(self) -> None:
        self.process: bool | None = None
        self.process_read_ns: int | None = None
        self.process_failed = False
        self.process_bytes: int | None = None
        self.recovery: int | None = None
        self.remap_failure: int | None = None
        self.health_read_ns: int | None = None
        self.throttled: dict[str, tuple[int, int]] = {}
        self.ecc: dict[str, int] = {}
        self.health_tried_ns: int | None = None
        self.on_instances = False
        self.energy: tuple[int, int] | None = None
        self.energy_field = True
        self.power_ms: int | None = None
        self.gpm = GpmMemory()
        self.contradictions = 0
        self.samples_offered = True
        self.samples_tick: int | None = None
        self.samples_us = 0
        self.division: Any = None


class ActivityReader:
    """Makes calls about one GPU after the other, and reads activity with them."""

    def __init__(self, calls: Calls, interval_ms: int) -> None:
        self._calls = calls
        self._window_most_ns = GPM_WINDOW_INTERVALS * interval_ms * MS_NS
        self._tick = 0
        self._allocated: dict[tuple[int, Any], int] = {}
        """How many samples are kept, by GPU and instance (None: the whole GPU)."""
        self._codes: list[int | None] = []

    def _call(self, function: str, gpu: WorkerAnswers | None) -> int | None:
        code = self._calls.enter(function, gpu)
        if code in LIBRARY_WIDE:
            raise LibraryGone("library")
        return code

    def _enter(self, function: str, gpu: GpuAnswers) -> bool:
        code = self._call(function, gpu)
        raise_if_gone(code)
        self._codes.append(code)
        return code is None

    def _got(self, answer: int | Failure) -> int | None:
        """A value, or None; a scripted failure counts as the call's own error."""
        if isinstance(answer, Failure):
            raise_if_gone(answer.code)
            self._codes[-1] = answer.code
            return None
        return answer

    def _activity(self, gpu: GpuAnswers, memory: Memory, seen: Seen) -> None:
        """The best source that answers: GPM, then the driver's samples, then what it last polled itself."""
        gpm = memory.gpm
        heard = self._gpm(gpu, gpm)
        counts = {} if heard.first_ns is None else self._counts(gpu, gpm, heard.first_ns)
        seen.counts = gpm.trial.hear(counts, {**heard.shares, **heard.links} if heard.told else None)
        activity_ppm = heard.shares.pop("graphics", None)
        gpm.spoke = False
        if activity_ppm is not None and self._contradicted(gpu, memory, activity_ppm):
            seen.counts = {}
            seen.high_ms = self._high_ms(gpm, gpm.cross_check_ppm, "utilisation")
            return
        seen.engines_ppm, seen.links = heard.shares, heard.links
        seen.sm_ppm = heard.shares.get("sm")
        gpm.spoke = activity_ppm is not None
        silent = activity_ppm is not None and activity_ppm <= THETA_PPM
        if activity_ppm is None:
            activity_ppm = self._sampled(gpu, memory)
        seen.activity_ppm = self._polled(gpu) if activity_ppm is None else activity_ppm
        if not silent:
            # Right after work utilisation still tells of that work.
            gpm.cross_checked_ns, gpm.cross_check_ppm = self._calls.now_ns, None
            seen.high_ms = self._high_ms(gpm, seen.activity_ppm, "itself")
            return
        asked_ns = gpm.cross_checked_ns
        if asked_ns is None or self._calls.now_ns - asked_ns >= CROSS_CHECK_EVERY_NS:
            gpm.cross_checked_ns = self._calls.now_ns
            gpm.cross_check_ppm = self._polled(gpu)
        seen.high_ms = self._high_ms(gpm, gpm.cross_check_ppm, "utilisation")

    def _high_ms(self, memory: GpmMemory, ppm: int | None, by: str) -> int | None:
        """How long it has said more than 70 % on end, and the same source always."""
        if ppm is None or ppm <= HIGH_PPM:
            memory.high_from_ns = None
            return None
        if memory.high_from_ns is None or memory.high_by != by:
            memory.high_from_ns, memory.high_by = self._calls.now_ns, by
        return (self._calls.now_ns - memory.high_from_ns) // MS_NS

    def _polled(self, gpu: GpuAnswers) -> int | None:
        if not self._enter("nvmlDeviceGetUtilizationRates", gpu):
            return None
        percent = self._got(gpu.utilization_pct(self._calls.now_ns))
        return percent * PPM_PER_PERCENT if percent is not None and 0 <= percent <= 100 else None

    def _gpm(self, gpu: GpuAnswers, memory: GpmMemory, name: tuple[str, int, int, int] | None = None) -> Heard:
        """What GPM says of the time since the last tick; of the GPU's instance of that name, if one is given."""
        heard = Heard()
        if not self._has_gpm(gpu, memory):
            return heard
        place = (gpu.index, name)
        while self._allocated.get(place, 0) < 2:
            if self._failed("nvmlGpmSampleAlloc", None):
                return heard
            self._allocated[place] = self._allocated.get(place, 0) + 1
        last_tick, memory.tick = memory.tick, None
        began_ns, first_ns, first = self._calls.now_ns, memory.ns, memory.sampled
        taken = self._take(gpu, name)
        if taken is None:
            return heard
        second_ns = self._calls.now_ns
        memory.tick, memory.ns, memory.sampled = self._tick, second_ns, taken
        if first_ns is None or began_ns - first_ns < GPM_WINDOW_NS:
            self._codes.append(None)
            return heard
        usable = last_tick == self._tick - 1 and began_ns - first_ns <= self._window_most_ns
        if usable and self._failed("nvmlGpmMetricsGet", None):
            return heard
        self._codes.append(None)
        heard.first_ns, heard.told = first_ns, usable
        if usable:
            heard.shares, heard.links = self._means(first or taken, taken, first_ns, second_ns)
        return heard

    def _has_gpm(self, gpu: GpuAnswers, memory: GpmMemory) -> bool:
        if memory.offered is False or memory.discredited:
            return False
        if memory.offered is None:
            if self._failed("nvmlGpmQueryDeviceSupport", gpu):
                if self._codes and self._codes[-1] in NOT_OFFERED:
                    memory.offered = False
                return False
            memory.offered = gpu.gpu.gpm
        return memory.offered

    def _take(self, gpu: GpuAnswers, name: tuple[str, int, int, int] | None) -> WorkerAnswers | None:
        """Take a sample; answers of whom, None where there is none."""
        if name is None:
            if self._failed("nvmlGpmSampleGet", gpu):
                return None
            if gpu.is_divided(self._calls.now_ns) and not gpu.is_gpm_whole:
                self._codes.append(NOT_SUPPORTED)
                return None
            return gpu
        before = gpu.by_id(name[1], self._calls.now_ns)
        if self._failed("nvmlGpmMigSampleGet", gpu if before is None else before):
            return None
        after = gpu.by_id(name[1], self._calls.now_ns)
        if after is None:
            self._codes.append(INVALID_ARGUMENT)
        return after

    def _means(
        self, first: WorkerAnswers, second: WorkerAnswers, first_ns: int, second_ns: int
    ) -> tuple[dict[str, int], dict[str, int]]:
        shares: dict[str, int] = {}
        for metric in GPM_METRICS:
            percent = second.gpm(metric, first_ns, second_ns, first)
            if isinstance(percent, Failure):
                raise_if_gone(percent.code)
            elif percent is not None and 0 <= round(percent * PPM_PER_PERCENT) <= 100 * PPM_PER_PERCENT:
                shares[metric] = round(percent * PPM_PER_PERCENT)
        links: dict[str, int] = {}
        for link in LINKS:
            rate = second.gpm(f"{link}_bytes", first_ns, second_ns, first)
            if isinstance(rate, Failure):
                raise_if_gone(rate.code)
            elif rate is not None and 0 <= rate <= MIB_PER_S_MOST[link]:
                exact = Fraction(rate) * MIB * (second_ns - first_ns) / SECOND_NS
                links[link] = int(exact + Fraction(1, 2))
        return shares, links

    def _counts(self, gpu: GpuAnswers, memory: GpmMemory, first_ns: int) -> dict[str, Count]:
        """The counters as of the last sample: cycles out of cycles, and bytes; asked for as long as they answer."""
        if memory.counters_offered is False or memory.ns is None:
            return {}
        kind = gpu.gpu.counters
        code = self._call("nvmlGpmMetricsGet", None)
        raise_if_gone(code)
        failed = code is not None or kind == COUNTERS_REFUSED
        found: dict[str, Count] = {}
        values = {} if failed else {name: gpu.gpm_count(name, first_ns, memory.ns) for name in ("elapsed", *COUNTERS)}
        for answer in values.values():
            if isinstance(answer, Failure):
                raise_if_gone(answer.code)
        known = {name: int(value) for name, value in values.items() if isinstance(value, float)}
        for name in COUNTERS:
            if name in known and (name in LINKS or "elapsed" in known):
                found[name] = (known[name], None if name in LINKS else known["elapsed"])
        if memory.counters_offered is None:
            memory.counters_offered = kind != COUNTERS_ABSENT and bool(found)
        else:
            self._codes.append(code if failed else None if found else NOT_SUPPORTED)
        return found

    def _contradicted(self, gpu: GpuAnswers, memory: Memory, gpm_ppm: int) -> bool:
        """Could a hundredth be meant? Once GPM has said more than 1 % it cannot; before, utilisation is asked."""
        memory.gpm.trusted = memory.gpm.trusted or gpm_ppm > PPM_PER_PERCENT
        if memory.gpm.trusted:
            return False
        other_ppm = memory.gpm.cross_check_ppm = self._polled(gpu)
        memory.gpm.cross_checked_ns = self._calls.now_ns
        if other_ppm is None or other_ppm <= 5 * PPM_PER_PERCENT or other_ppm < 50 * gpm_ppm:
            memory.contradictions = 0
            return False
        about_a_hundred = gpm_ppm > 0 and Fraction(other_ppm, gpm_ppm) <= 200
        memory.contradictions = memory.contradictions + 1 if about_a_hundred else 0
        memory.gpm.discredited = memory.contradictions == 5
        return True

    def _sampled(self, gpu: GpuAnswers, memory: Memory) -> int | None:
        """The mean of the samples since the last tick, to the nearest millionth; none is not nought."""
        if not memory.samples_offered:
            return None
        seeded = memory.samples_tick == self._tick - 1
        memory.samples_tick = None
        since_us = memory.samples_us if seeded else NO_STAMP_US
        found: list[tuple[int, int]] = []
        # pynvml first asks for the size, then for the samples.
        for _ in range(2):
            if self._failed("nvmlDeviceGetSamples", gpu):
                if self._codes[-1] == NOT_FOUND:
                    self._codes[-1], found = None, []
                    break
                memory.samples_offered = self._codes[-1] not in NOT_OFFERED
                return None
            answer = gpu.utilization_samples(self._calls.now_ns, since_us)
            if isinstance(answer, Failure):
                raise_if_gone(answer.code)
                self._codes.append(answer.code)
                memory.samples_offered = answer.code not in NOT_OFFERED
                return None
            found = answer
            if not found:
                break
        self._codes.append(None)
        memory.samples_tick = self._tick
        memory.samples_us = max((stamp_us for stamp_us, _ in found), default=since_us)
        values = [percent for _, percent in found] if seeded else []
        if not values or not all(0 <= value <= 100 for value in values):
            return None
        return int(Fraction(sum(values) * PPM_PER_PERCENT, len(values)) + Fraction(1, 2))

    def _failed(self, function: str, gpu: WorkerAnswers | None) -> bool:
        """Make a call; one that fails leaves its code, one that gets through leaves nothing yet."""
        code = self._call(function, gpu)
        raise_if_gone(code)
        if code is not None:
            self._codes.append(code)
        return code is not None
