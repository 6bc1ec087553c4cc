# SPDX-License-Identifier: Apache-2.0
"""What an honest agent reads in a tick, call by call: the oracle's eyes.

The order of the calls matters only where they take scripted time; it is the agent's own and stated here once more.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.abi.answers import SECOND_NS, Calls, GpuAnswers
from tests.abi.script import (
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    LIB_RM_VERSION_MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    UNINITIALIZED,
    Failure,
)

PROCESS_EVERY_NS = 30 * SECOND_NS
PROCESS_VALID_NS = 60 * SECOND_NS
HEALTH_EVERY_NS = 10 * SECOND_NS
HEALTH_VALID_NS = 30 * SECOND_NS
RECOVERY_FIELD = 230
ENERGY_FIELD = 83
PPM_PER_PERCENT = 10_000
DRIVER_WIDE = {
    UNINITIALIZED: "library",
    DRIVER_NOT_LOADED: "library",
    LIB_RM_VERSION_MISMATCH: "library",
    NO_PERMISSION: "permission",
}
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
    energy_mj: int | None = None


class _Memory:
    """What the agent remembers of one GPU from tick to tick."""

    def __init__(self) -> None:
        self.process: bool | None = None
        self.process_read_ns: int | None = None
        self.process_failed = False
        self.process_bytes: int | None = None
        self.recovery: int | None = None
        self.recovery_read_ns: int | None = None
        self.remap_failure: int | None = None
        self.remap_read_ns: int | None = None
        self.health_tried_ns: int | None = None


class Beholder:
    """Reads all GPUs of a node, one after the other."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._memories: dict[int, _Memory] = {}
        self._edge_ns = 0
        self._codes: list[int | None] = []

    def look(self, gpus: list[GpuAnswers]) -> list[Seen] | None:
        """One tick over all GPUs; None when the library could not be started yet."""
        self._edge_ns = self._calls.now_ns
        return [self._look_at(gpu) for gpu in gpus]

    def _look_at(self, gpu: GpuAnswers) -> Seen:
        memory = self._memories.setdefault(gpu.index, _Memory())
        self._codes = []
        seen = Seen()
        seen.energy_mj = self._energy(gpu)
        seen.activity_ppm = self._activity(gpu)
        seen.process = self._processes(gpu, memory)
        bad = self._health(gpu, memory)
        seen.healthy = None if bad is None else not bad
        wide = [DRIVER_WIDE[code] for code in self._codes if code in DRIVER_WIDE]
        gone = any(code in GONE for code in self._codes)
        seen.down = gone or bool(bad)
        if gone:
            return seen
        if wide:
            return Seen(reason=wide[0])
        if all(code is not None for code in self._codes):
            return Seen(reason="calls_failed")
        return seen

    def _enter(self, function: str, gpu: GpuAnswers) -> bool:
        code = self._calls.enter(function, gpu)
        self._codes.append(code)
        return code is None

    def _got(self, answer: int | Failure) -> int | None:
        """A value, or None; a scripted failure counts as the call's own error."""
        if isinstance(answer, Failure):
            self._codes[-1] = answer.code
            return None
        return answer

    def _energy(self, gpu: GpuAnswers) -> int | None:
        if not self._enter("nvmlDeviceGetTotalEnergyConsumption", gpu):
            return None
        return self._got(gpu.energy_mj(self._calls.now_ns))

    def _activity(self, gpu: GpuAnswers) -> int | None:
        if not self._enter("nvmlDeviceGetUtilizationRates", gpu):
            return None
        percent = self._got(gpu.utilization_pct(self._calls.now_ns))
        return percent * PPM_PER_PERCENT if percent is not None and 0 <= percent <= 100 else None

    def _processes(self, gpu: GpuAnswers, memory: _Memory) -> bool | None:
        used: int | None = None
        if self._enter("nvmlDeviceGetMemoryInfo_v2", gpu):
            used = self._got(gpu.track("memory_used_bytes").value(self._calls.now_ns))
        changed = used is None or used != memory.process_bytes
        read_ns = memory.process_read_ns
        due = read_ns is None or changed or memory.process_failed or self._edge_ns - read_ns >= PROCESS_EVERY_NS
        if due:
            found = self._lists(gpu)
            memory.process_failed = found is None
            if found is not None:
                memory.process, memory.process_read_ns, memory.process_bytes = found, self._edge_ns, used
            elif read_ns is None or changed or self._edge_ns - read_ns > PROCESS_VALID_NS:
                return None
        return memory.process

    def _lists(self, gpu: GpuAnswers) -> bool | None:
        """Whether any process shows up in the three lists; None when one of them cannot be read."""
        found, failed = False, False
        for kind, name in (("compute", "Compute"), ("graphics", "Graphics"), ("mps", "MPSCompute")):
            function = f"nvmlDeviceGet{name}RunningProcesses_v3"
            # pynvml first asks for the size; only a list that is not empty is then fetched.
            if self._enter(function, gpu):
                if not gpu.processes(kind, self._calls.now_ns):
                    continue
                if self._enter(function, gpu):
                    found = found or bool(gpu.processes(kind, self._calls.now_ns))
                    continue
            failed = failed or self._codes[-1] != NOT_SUPPORTED
        return None if failed else found

    def _health(self, gpu: GpuAnswers, memory: _Memory) -> bool | None:
        """True: the GPU says it is broken; None: not known (any more)."""
        tried_ns = memory.health_tried_ns
        if tried_ns is None or self._edge_ns - tried_ns >= HEALTH_EVERY_NS:
            memory.health_tried_ns = self._edge_ns
            self._read_health(gpu, memory)
        values = []
        for value, read_ns in (
            (memory.recovery, memory.recovery_read_ns),
            (memory.remap_failure, memory.remap_read_ns),
        ):
            if value is not None and read_ns is not None and self._edge_ns - read_ns <= HEALTH_VALID_NS:
                values.append(value)
        return any(value != 0 for value in values) if values else None

    def _read_health(self, gpu: GpuAnswers, memory: _Memory) -> None:
        if self._enter("nvmlDeviceGetFieldValues", gpu):
            code = self._calls.field_error(RECOVERY_FIELD, gpu)
            action = gpu.track("recovery_action").value(self._calls.now_ns)
            value = None if code is not None else self._got(action)
            if value is not None:
                memory.recovery, memory.recovery_read_ns = value, self._edge_ns
        if self._enter("nvmlDeviceGetRemappedRows", gpu):
            failure = self._got(gpu.track("remap_failure").value(self._calls.now_ns))
            if failure is not None:
                memory.remap_failure, memory.remap_read_ns = failure, self._edge_ns
