# SPDX-License-Identifier: Apache-2.0
"""How an honest agent calls NVML, and what it makes of a GPU's activity: GPM, then samples, then polled utilisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from tests.abi.answers import MS_NS, SECOND_NS, Calls, GpuAnswers
from tests.abi.script import (
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
    energy_mj: int | None = None
    fatal: bool = False
    """It reported a fatal Xid that no clean health read has followed."""
    unknown: bool = False
    """No call answers, and every one that failed said "unknown"."""
    xids: list[int] = field(default_factory=list)
    ecc: dict[str, int] = field(default_factory=dict)
    throttled: list[tuple[str, int, int]] = field(default_factory=list)
    """(reason, since when in script ns, ns) of what the counters grew by."""


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
        self.gpm_offered: bool | None = None
        self.gpm_tick: int | None = None
        self.gpm_ns = 0
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
        engines = self._gpm(gpu, memory)
        activity_ppm = engines.pop("graphics", None)
        if activity_ppm is not None and self._contradicted(gpu, memory, activity_ppm):
            return
        seen.engines_ppm = engines
        seen.sm_ppm = engines.get("sm")
        if activity_ppm is None:
            activity_ppm = self._sampled(gpu, memory)
        seen.activity_ppm = self._polled(gpu) if activity_ppm is None else activity_ppm

    def _polled(self, gpu: GpuAnswers) -> int | None:
        if not self._enter("nvmlDeviceGetUtilizationRates", gpu):
            return None
        percent = self._got(gpu.utilization_pct(self._calls.now_ns))
        return percent * PPM_PER_PERCENT if percent is not None and 0 <= percent <= 100 else None

    def _gpm(self, gpu: GpuAnswers, memory: Memory) -> dict[str, int]:
        """What GPM says of the time since the last tick, by metric; what it does not say is left out."""
        if memory.gpm_offered is False or memory.gpm_discredited:
            return {}
        if memory.gpm_offered is None:
            if self._failed("nvmlGpmQueryDeviceSupport", gpu):
                if self._codes and self._codes[-1] in NOT_OFFERED:
                    memory.gpm_offered = False
                return {}
            memory.gpm_offered = gpu.gpu.gpm
            if not memory.gpm_offered:
                return {}
        while self._allocated.get(gpu.index, 0) < 2:
            if self._failed("nvmlGpmSampleAlloc", None):
                return {}
            self._allocated[gpu.index] = self._allocated.get(gpu.index, 0) + 1
        last_tick, memory.gpm_tick = memory.gpm_tick, None
        began_ns, first_ns = self._calls.now_ns, memory.gpm_ns
        if self._failed("nvmlGpmSampleGet", gpu):
            return {}
        memory.gpm_tick, memory.gpm_ns = self._tick, self._calls.now_ns
        is_window = GPM_WINDOW_NS <= began_ns - first_ns <= self._window_most_ns
        usable = last_tick == self._tick - 1 and is_window
        if usable and self._failed("nvmlGpmMetricsGet", None):
            return {}
        self._codes.append(None)
        return self._means(gpu, first_ns, memory.gpm_ns) if usable else {}

    def _means(self, gpu: GpuAnswers, first_ns: int, second_ns: int) -> dict[str, int]:
        means: dict[str, int] = {}
        for metric in GPM_METRICS:
            percent = gpu.gpm(metric, first_ns, second_ns)
            if isinstance(percent, Failure):
                raise_if_gone(percent.code)
            elif percent is not None and 0 <= round(percent * PPM_PER_PERCENT) <= 100 * PPM_PER_PERCENT:
                means[metric] = round(percent * PPM_PER_PERCENT)
        return means

    def _contradicted(self, gpu: GpuAnswers, memory: Memory, gpm_ppm: int) -> bool:
        """Could a hundredth be meant? Once GPM has said more than 1 % it cannot; before, utilisation is asked."""
        memory.gpm_trusted = memory.gpm_trusted or gpm_ppm > PPM_PER_PERCENT
        if memory.gpm_trusted:
            return False
        other_ppm = self._polled(gpu)
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
