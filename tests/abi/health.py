# SPDX-License-Identifier: Apache-2.0
"""How an honest agent sees how a GPU fares: Xid errors as they happen, and the health reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.abi.activity import GONE, NOT_OFFERED, ActivityReader, LibraryGone, Memory, Seen, raise_if_gone
from tests.abi.answers import MS_NS, SECOND_NS, WAIT, GpuAnswers
from tests.abi.script import NOT_SUPPORTED, Failure

CELL_NS = 300 * SECOND_NS
HEALTH_EVERY_NS = 10 * SECOND_NS
HEALTH_VALID_NS = 30 * SECOND_NS
FIELDS = {
    74: "throttle_power",
    269: "throttle_thermal",
    270: "throttle_hw_thermal",
    271: "throttle_brake",
    142: "remap_corrected",
    143: "remap_uncorrected",
    144: "remap_pending",
    145: "remap_failure",
    230: "recovery_action",
}
THROTTLES = {74: "sw_power_cap", 269: "sw_thermal", 270: "hw_thermal", 271: "hw_power_brake"}
REMAP_FAILURE, RECOVERY = 145, 230
FATAL = {46, 48, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, 158}
"""Xids after which a GPU is down until its health reads clean: version 1 of the agent's list, written down again."""
AT_ONCE_MOST = 64
RETRY_FIRST_NS = SECOND_NS
RETRY_MOST_NS = 60 * SECOND_NS


@dataclass(slots=True)
class Watch:
    """One GPU's set of events."""

    is_open: bool = False
    is_offered: bool = True
    is_stale: bool = False
    since_ns: int = 0
    handed_out: int = 0
    retry_at_ns: int | None = None
    pause_ns: int = RETRY_FIRST_NS


@dataclass(slots=True)
class Counted:
    """What health counters said: errors since the last read, and throttled time as (reason, since ns, amount ns)."""

    ecc: dict[str, int] = field(default_factory=dict)
    throttled: list[tuple[str, int, int]] = field(default_factory=list)


class _Failed(Exception):
    """Something about the set of events went wrong."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class HealthReader(ActivityReader):
    """Reads health with calls; `offset_ns` is the session's: POSIX time less script time."""

    _edge_ns: int

    def reset_health(self) -> None:
        self._watches: dict[int, Watch] = {}
        self._fatal_ns: dict[int, int] = {}
        self.offset_ns = 0

    # Xid errors.

    def _xids(self, gpu: GpuAnswers, *, has_handle: bool) -> list[int]:
        watch = self._watches.setdefault(gpu.index, Watch())
        is_pausing = watch.retry_at_ns is not None and self._edge_ns < watch.retry_at_ns
        if not watch.is_offered or is_pausing or (not watch.is_open and not has_handle):
            return []
        found: list[int] = []
        try:
            self._empty(gpu, watch, found)
        except _Failed as failed:
            if failed.code not in GONE:
                self._drop(watch)
            watch.retry_at_ns = self._edge_ns + watch.pause_ns
            watch.pause_ns = min(2 * watch.pause_ns, RETRY_MOST_NS)
        else:
            if watch.is_open:
                watch.retry_at_ns, watch.pause_ns = None, RETRY_FIRST_NS
        if FATAL & set(found):
            self._fatal_ns[gpu.index] = self._edge_ns
        return found

    def _empty(self, gpu: GpuAnswers, watch: Watch, found: list[int]) -> None:
        if not watch.is_open:
            self._register(gpu, watch)
        while watch.is_open and len(found) < AT_ONCE_MOST:
            if not self._answers(self._call(WAIT, gpu), watch):
                return
            now_ns = self._calls.now_ns
            there = [code for at_ms, code, *_ in sorted(gpu.gpu.xids) if watch.since_ns <= at_ms * MS_NS <= now_ns]
            if len(there) > watch.handed_out:
                found.append(there[watch.handed_out])
                watch.handed_out += 1
                continue
            code = gpu.outage("nvmlDeviceGetUUID", now_ns)
            if code is not None:
                raise _Failed(code)
            return

    def _register(self, gpu: GpuAnswers, watch: Watch) -> None:
        if not self._answers(self._call("nvmlDeviceGetSupportedEventTypes", gpu), watch):
            return
        if not self._answers(self._call("nvmlEventSetCreate", None), watch):
            return
        try:
            code = self._call("nvmlDeviceRegisterEvents", gpu)
        except LibraryGone:
            self._calls.enter("nvmlEventSetFree", None)
            raise
        if code is not None:
            self._calls.enter("nvmlEventSetFree", None)
        if self._answers(code, watch):
            watch.is_open, watch.since_ns, watch.handed_out = True, self._calls.now_ns, 0

    def _answers(self, code: int | None, watch: Watch) -> bool:
        if code is None:
            return True
        if code not in NOT_OFFERED:
            raise _Failed(code)
        self._drop(watch)
        watch.is_offered = False
        return False

    def _drop(self, watch: Watch) -> None:
        if watch.is_open:
            watch.is_open = False
            self._calls.enter("nvmlEventSetFree", None)

    def _stale(self, gpu: GpuAnswers) -> None:
        self._watches[gpu.index].is_stale = True

    def _settle(self, gpu: GpuAnswers) -> None:
        """It answers again: registered anew in the next tick."""
        watch = self._watches[gpu.index]
        if watch.is_stale:
            self._drop(watch)
            watch.is_stale, watch.retry_at_ns, watch.pause_ns = False, None, RETRY_FIRST_NS

    def _free_events(self) -> None:
        for watch in reversed(self._watches.values()):
            self._drop(watch)
        self._watches.clear()

    # Health.

    def _health(self, gpu: GpuAnswers, memory: Memory, seen: Seen) -> None:
        """Set what is known of the GPU's health: down and clean, or neither."""
        tried_ns = memory.health_tried_ns
        cells = (None if tried_ns is None else (tried_ns + self.offset_ns) // CELL_NS, self._cell_now())
        if tried_ns is None or self._edge_ns - tried_ns >= HEALTH_EVERY_NS or cells[0] != cells[1]:
            memory.health_tried_ns = self._edge_ns
            self._read_health(gpu, memory, seen)
        known = memory.health_read_ns is not None and self._edge_ns - memory.health_read_ns <= HEALTH_VALID_NS
        fatal = gpu.index in self._fatal_ns
        if known and self._is_broken(memory):
            seen.down = True
        elif fatal:
            seen.fatal = True
        seen.healthy = True if known or fatal else None

    def _cell_now(self) -> int:
        return (self._edge_ns + self.offset_ns) // CELL_NS

    @staticmethod
    def _is_broken(memory: Memory) -> bool:
        return bool(memory.recovery) or bool(memory.remap_failure)

    def _read_health(self, gpu: GpuAnswers, memory: Memory, seen: Seen) -> None:
        values, failed = self._fields(gpu)
        is_read = False
        if not values or (REMAP_FAILURE not in values and REMAP_FAILURE not in failed):
            failure = self._rows(gpu)
            if failure is not None:
                values[REMAP_FAILURE] = failure
        if RECOVERY in values:
            memory.recovery, is_read = values[RECOVERY], True
        if REMAP_FAILURE in values:
            memory.remap_failure, is_read = values[REMAP_FAILURE], True
        if is_read:
            memory.health_read_ns = self._edge_ns
            if self._fatal_ns.get(gpu.index, self._edge_ns) < self._edge_ns and not self._is_broken(memory):
                del self._fatal_ns[gpu.index]
        self._grow(memory, values, seen)
        for kind in ("corrected", "uncorrected"):
            if self._enter("nvmlDeviceGetTotalEccErrors", gpu):
                count = self._got(gpu.track(f"ecc_{kind}").value(self._calls.now_ns))
                if count is not None:
                    if kind in memory.ecc and count > memory.ecc[kind]:
                        seen.ecc[kind] = count - memory.ecc[kind]
                    memory.ecc[kind] = count

    def _fields(self, gpu: GpuAnswers) -> tuple[dict[int, int], dict[int, int]]:
        """The batch: what each field says, and with which code others failed."""
        values: dict[int, int] = {}
        failed: dict[int, int] = {}
        if not self._enter("nvmlDeviceGetFieldValues", gpu):
            return values, failed
        now_ns = self._calls.now_ns
        for number, track in FIELDS.items():
            code = self._calls.field_error(number, gpu)
            value = gpu.throttled_ns(track, now_ns) if number in THROTTLES else gpu.track(track).value(now_ns)
            if code is not None:
                value = Failure(code)
            if isinstance(value, Failure):
                raise_if_gone(value.code)
                if value.code not in NOT_OFFERED:
                    failed[number] = value.code
            else:
                values[number] = value
        if not values:
            self._codes[-1] = next(iter(failed.values()), NOT_SUPPORTED)
        return values, failed

    def _rows(self, gpu: GpuAnswers) -> int | None:
        if not self._enter("nvmlDeviceGetRemappedRows", gpu):
            return None
        found = None
        for track in ("remap_corrected", "remap_uncorrected", "remap_pending", "remap_failure"):
            divided = gpu.is_divided(self._calls.now_ns)
            found = self._got(Failure() if divided else gpu.track(track).value(self._calls.now_ns))
            if found is None:
                return None
        return found

    def _grow(self, memory: Memory, values: dict[int, int], seen: Seen) -> None:
        for number, reason in THROTTLES.items():
            if number not in values:
                continue
            before = memory.throttled.get(reason)
            memory.throttled[reason] = (values[number], self._edge_ns)
            if before is None or values[number] < before[0] or self._edge_ns == before[1]:
                continue
            window_ns, grown_ns = self._edge_ns - before[1], values[number] - before[0]
            if grown_ns <= 2 * window_ns:
                seen.throttled.append((reason, before[1], min(grown_ns, window_ns)))
