# SPDX-License-Identifier: Apache-2.0
"""How an honest agent calls NVML, and what it makes of a GPU's activity: GPM, then samples, then polled utilisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from tests.abi.answers import LINKS, MIB, MS_NS, SECOND_NS, Calls, GpuAnswers
from tests.abi.counting import Trial
from tests.abi.script import (
    COUNTERS_ABSENT,
    COUNTERS_REFUSED,
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
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
    """One GPU in one tick. None is unknown. `reason` says why nothing at all can be said."""

    reason: str | None = None
    down: bool = False
    healthy: bool | None = None
    process: bool | None = None
    activity_ppm: int | None = None
    sm_ppm: int | None = None
    engines_ppm: dict[str, int] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)
    counts: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    high_ms: int | None = None
    energy_mj: int | None = None
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
        self.energy: tuple[int, int] | None = None
        self.power_ms: int | None = None
        self.gpm_offered: bool | None = None
        self.gpm_tick: int | None = None
        self.gpm_ns: int | None = None
        self.counters_offered: bool | None = None
        self.trial = Trial()
        self.cross_checked_ns: int | None = None
        self.cross_check_ppm: int | None = None
        self.high_from_ns: int | None = None
        self.high_by: str | None = None
        self.gpm_trusted = False
        self.gpm_discredited = False
        self.contradictions = 0
        self.samples_offered = True
        self.samples_tick: int | None = None
        self.samples_us = 0


class ActivityReader:
    """Makes calls about one GPU after the other, and reads activity with them."""

    def __init__(self, calls: Calls, interval_ms: int) -> None:
        self._calls = calls
        self._window_most_ns = GPM_WINDOW_INTERVALS * interval_ms * MS_NS
        self._tick = 0
        self._allocated: dict[int, int] = {}
        self._codes: list[int | None] = []

    def _call(self, function: str, gpu: GpuAnswers | None) -> int | None:
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
        means, links = self._gpm(gpu, memory, seen)
        activity_ppm = means.pop("graphics", None)
        if activity_ppm is not None and self._contradicted(gpu, memory, activity_ppm):
            seen.counts = {}
            seen.high_ms = self._high_ms(memory, memory.cross_check_ppm, "utilisation")
            return
        seen.engines_ppm, seen.links = means, links
        seen.sm_ppm = means.get("sm")
        silent = activity_ppm is not None and activity_ppm <= THETA_PPM
        if activity_ppm is None:
            activity_ppm = self._sampled(gpu, memory)
        seen.activity_ppm = self._polled(gpu) if activity_ppm is None else activity_ppm
        if not silent:
            memory.cross_checked_ns = None
            seen.high_ms = self._high_ms(memory, seen.activity_ppm, "itself")
            return
        asked_ns = memory.cross_checked_ns
        if asked_ns is None or self._calls.now_ns - asked_ns >= CROSS_CHECK_EVERY_NS:
            memory.cross_checked_ns = self._calls.now_ns
            memory.cross_check_ppm = self._polled(gpu)
        seen.high_ms = self._high_ms(memory, memory.cross_check_ppm, "utilisation")

    def _high_ms(self, memory: Memory, ppm: int | None, by: str) -> int | None:
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

    def _gpm(self, gpu: GpuAnswers, memory: Memory, seen: Seen) -> tuple[dict[str, int], dict[str, int]]:
        """What GPM says of the time since the last tick: shares by metric and bytes by link; the rest is left out."""
        nothing: tuple[dict[str, int], dict[str, int]] = {}, {}
        counts: dict[str, tuple[int, int | None]] = {}
        told, window = nothing, None
        if self._has_gpm(gpu, memory):
            window = self._take(gpu, memory)
        if window is not None:
            first_ns, usable = window
            if usable and self._failed("nvmlGpmMetricsGet", None):
                window = None
            else:
                self._codes.append(None)
                second_ns = self._calls.now_ns if memory.gpm_ns is None else memory.gpm_ns
                told = self._means(gpu, first_ns, second_ns) if usable else nothing
                counts = self._counts(gpu, memory, first_ns, second_ns)
        shares, links = told
        is_told = window is not None and window[1]
        seen.counts = memory.trial.hear(counts, {**shares, **links} if is_told else None)
        return told

    def _has_gpm(self, gpu: GpuAnswers, memory: Memory) -> bool:
        if memory.gpm_offered is False or memory.gpm_discredited:
            return False
        if memory.gpm_offered is None:
            if self._failed("nvmlGpmQueryDeviceSupport", gpu):
                if self._codes and self._codes[-1] in NOT_OFFERED:
                    memory.gpm_offered = False
                return False
            memory.gpm_offered = gpu.gpu.gpm
        return memory.gpm_offered

    def _take(self, gpu: GpuAnswers, memory: Memory) -> tuple[int, bool] | None:
        """Take a sample: where the one before was, and whether means between the two are of this tick alone."""
        while self._allocated.get(gpu.index, 0) < 2:
            if self._failed("nvmlGpmSampleAlloc", None):
                return None
            self._allocated[gpu.index] = self._allocated.get(gpu.index, 0) + 1
        last_tick, memory.gpm_tick = memory.gpm_tick, None
        began_ns, first_ns = self._calls.now_ns, memory.gpm_ns
        if self._failed("nvmlGpmSampleGet", gpu):
            return None
        memory.gpm_tick, memory.gpm_ns = self._tick, self._calls.now_ns
        if first_ns is None or began_ns - first_ns < GPM_WINDOW_NS:
            self._codes.append(None)
            return None
        return first_ns, last_tick == self._tick - 1 and began_ns - first_ns <= self._window_most_ns

    def _means(self, gpu: GpuAnswers, first_ns: int, second_ns: int) -> tuple[dict[str, int], dict[str, int]]:
        shares: dict[str, int] = {}
        for metric in GPM_METRICS:
            percent = gpu.gpm(metric, first_ns, second_ns)
            if isinstance(percent, Failure):
                raise_if_gone(percent.code)
            elif percent is not None and 0 <= round(percent * PPM_PER_PERCENT) <= 100 * PPM_PER_PERCENT:
                shares[metric] = round(percent * PPM_PER_PERCENT)
        links: dict[str, int] = {}
        for link in LINKS:
            rate = gpu.gpm(f"{link}_bytes", first_ns, second_ns)
            if isinstance(rate, Failure):
                raise_if_gone(rate.code)
            elif rate is not None and 0 <= rate <= MIB_PER_S_MOST[link]:
                exact = Fraction(rate) * MIB * (second_ns - first_ns) / SECOND_NS
                links[link] = int(exact + Fraction(1, 2))
        return shares, links

    def _counts(
        self, gpu: GpuAnswers, memory: Memory, first_ns: int, second_ns: int
    ) -> dict[str, tuple[int, int | None]]:
        """The counters as of the second sample: cycles out of cycles, and bytes; asked for as long as they answer."""
        if memory.counters_offered is False:
            return {}
        kind = gpu.gpu.counters
        code = self._call("nvmlGpmMetricsGet", None)
        raise_if_gone(code)
        failed = code is not None or kind == COUNTERS_REFUSED
        found: dict[str, tuple[int, int | None]] = {}
        values = {} if failed else {name: gpu.gpm_count(name, first_ns, second_ns) for name in ("elapsed", *COUNTERS)}
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
        memory.gpm_trusted = memory.gpm_trusted or gpm_ppm > PPM_PER_PERCENT
        if memory.gpm_trusted:
            return False
        other_ppm = memory.cross_check_ppm = self._polled(gpu)
        memory.cross_checked_ns = self._calls.now_ns
        if other_ppm is None or other_ppm <= 5 * PPM_PER_PERCENT or other_ppm < 50 * gpm_ppm:
            memory.contradictions = 0
            return False
        about_a_hundred = gpm_ppm > 0 and Fraction(other_ppm, gpm_ppm) <= 200
        memory.contradictions = memory.contradictions + 1 if about_a_hundred else 0
        memory.gpm_discredited = memory.contradictions == 5
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

    def _failed(self, function: str, gpu: GpuAnswers | None) -> bool:
        """Make a call; one that fails leaves its code, one that gets through leaves nothing yet."""
        code = self._call(function, gpu)
        raise_if_gone(code)
        if code is not None:
            self._codes.append(code)
        return code is not None
