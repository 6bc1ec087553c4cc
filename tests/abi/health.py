# SPDX-License-Identifier: Apache-2.0
"""How an honest agent sees how a GPU fares: the batch of fields, and the health reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.abi.activity import NOT_OFFERED, Memory, Seen, raise_if_gone
from tests.abi.answers import SECOND_NS, GpuAnswers
from tests.abi.heard import EventReader
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
ENERGY, POWER = 83, 185
ECC = {3: "corrected", 4: "uncorrected"}


@dataclass(slots=True)
class Batch:
    """What each field says, and with which code others failed; `is_failed`: nothing answered, and something failed."""

    values: dict[int, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    is_failed: bool = False


@dataclass(slots=True)
class Counted:
    """What health counters said: errors since the last read, and throttled time as (reason, since ns, amount ns)."""

    ecc: dict[str, int] = field(default_factory=dict)
    throttled: list[tuple[str, int, int]] = field(default_factory=list)


class HealthReader(EventReader):
    """Reads health with calls; `offset_ns` is the session's: POSIX time less script time."""

    def reset_health(self) -> None:
        self.reset_events()
        self.offset_ns = 0

    def _is_health_due(self, memory: Memory) -> bool:
        tried_ns = memory.health_tried_ns
        if tried_ns is None or self._edge_ns - tried_ns >= HEALTH_EVERY_NS:
            return True
        return (tried_ns + self.offset_ns) // CELL_NS != (self._edge_ns + self.offset_ns) // CELL_NS

    def _health(self, gpu: GpuAnswers, memory: Memory, seen: Seen, batch: Batch) -> None:
        """Set what is known of the GPU's health: down and clean, or neither."""
        if self._is_health_due(memory):
            memory.health_tried_ns = self._edge_ns
            self._read_health(gpu, memory, seen, batch)
        known = memory.health_read_ns is not None and self._edge_ns - memory.health_read_ns <= HEALTH_VALID_NS
        if known and self._is_broken(memory):
            seen.down = True
        seen.healthy = True if known or None in self._fatal_parts(gpu) else None

    @staticmethod
    def _is_broken(memory: Memory) -> bool:
        return bool(memory.recovery) or bool(memory.remap_failure)

    def _read_health(self, gpu: GpuAnswers, memory: Memory, seen: Seen, batch: Batch) -> None:
        values = dict(batch.values)
        is_read = False
        if REMAP_FAILURE not in values and REMAP_FAILURE not in batch.failed:
            failure = self._rows(gpu)
            if failure is not None:
                values[REMAP_FAILURE] = failure
        if RECOVERY in values:
            memory.recovery, is_read = values[RECOVERY], True
        if REMAP_FAILURE in values:
            memory.remap_failure, is_read = values[REMAP_FAILURE], True
        if is_read:
            memory.health_read_ns = self._edge_ns
            if not self._is_broken(memory):
                self._clear_fatal(gpu)
        self._grow(memory, values, seen)
        for number, kind in ECC.items():
            count = values.get(number)
            if count is None and number not in batch.failed and self._enter("nvmlDeviceGetTotalEccErrors", gpu):
                count = self._got(gpu.track(f"ecc_{kind}").value(self._calls.now_ns))
            if count is not None:
                if kind in memory.ecc and count > memory.ecc[kind]:
                    seen.ecc[kind] = count - memory.ecc[kind]
                memory.ecc[kind] = count

    def _batch(self, gpu: GpuAnswers, memory: Memory, *, power: bool) -> Batch:
        """One call for all that is wanted of the GPU's fields in this tick."""
        wanted = [ENERGY] * memory.energy_field + [POWER] * power
        if self._is_health_due(memory):
            wanted += [*FIELDS, *ECC]
        batch = Batch()
        if not wanted:
            return batch
        if not self._enter("nvmlDeviceGetFieldValues", gpu):
            batch.is_failed = self._codes[-1] not in NOT_OFFERED
            return batch
        for number in wanted:
            code = self._calls.field_error(number, gpu)
            value = self._field(gpu, number) if code is None else Failure(code)
            if isinstance(value, Failure):
                raise_if_gone(value.code)
                if value.code not in NOT_OFFERED:
                    batch.failed[number] = value.code
            else:
                batch.values[number] = value
        if not batch.values:
            self._codes[-1] = next(iter(batch.failed.values()), NOT_SUPPORTED)
            batch.is_failed, batch.failed = bool(batch.failed), {}
        return batch

    def _field(self, gpu: GpuAnswers, number: int) -> int | Failure:
        now_ns = self._calls.now_ns
        if number == ENERGY:
            return gpu.energy_mj(now_ns)
        if number in THROTTLES:
            return gpu.throttled_ns(FIELDS[number], now_ns)
        track = "power_mw" if number == POWER else f"ecc_{ECC[number]}" if number in ECC else FIELDS[number]
        return gpu.track(track).value(now_ns)

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
