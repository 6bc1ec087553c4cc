# SPDX-License-Identifier: Apache-2.0
"""What an honest agent reads in a tick, call by call: the oracle's eyes.

The order of the calls matters only where they take scripted time; it is the agent's own and stated here once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.abi.activity import GONE, NOT_OFFERED, GpuGone, LibraryGone, Memory, Seen
from tests.abi.answers import MS_NS, SECOND_NS, Calls, GpuAnswers
from tests.abi.divided import DividedReader, DivisionMemory
from tests.abi.health import ENERGY, POWER, Batch, HealthReader
from tests.abi.script import NO_PERMISSION, UNKNOWN

PROCESS_EVERY_NS = 30 * SECOND_NS
PROCESS_VALID_NS = 60 * SECOND_NS
POWER_EVERY_MS = 10_000
POWER_SPAN_MS = range(500, 2_001)
ENUMERATE_EVERY_NS = 60 * SECOND_NS
COUNT_EVERY_NS = 10 * SECOND_NS
RETRY_FIRST_NS = SECOND_NS
RETRY_MOST_NS = 60 * SECOND_NS
UNKNOWN_RUN_NS = 60 * SECOND_NS
"""Every GPU saying nothing but "unknown" for so long ends the agent."""
DRIVER_WIDE = {NO_PERMISSION: "permission"}
"""Why nothing is covered when the library does not start with this code; any other: "library"."""
UUID = "nvmlDeviceGetUUID"
IDENTITY = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetPciInfo_v3",
    UUID,
    "nvmlDeviceGetSerial",
    "nvmlDeviceGetName",
    "nvmlDeviceGetEnforcedPowerLimit",
)


class Beholder(DividedReader, HealthReader):
    """Reads all GPUs of a node, one after the other; starts the library, and starts it again when it is gone."""

    def __init__(self, calls: Calls, interval_ms: int = 1_000) -> None:
        super().__init__(calls, interval_ms)
        self.reset_health()
        self.gave_up = False
        self._unknown_since_ns: int | None = None
        self._memories: dict[int, Memory] = {}
        self._edge_ns = 0
        self._attached = False
        self._found: set[int] = set()
        self._known = {}
        self._out_of_reach: dict[int, Seen] = {}
        self._enumerated_ns: int | None = None
        self._counted_ns = 0
        self._doubt = False
        """Not every GPU answered in the last tick, or one is not known."""
        self._reason = "library"
        self._retry_ns: int | None = None
        self._patience_ns = RETRY_FIRST_NS

    def forget(self) -> None:
        """A new session trusts nothing that was read before it."""
        self._memories.clear()
        self._enumerated_ns = None
        self._forget_pauses()

    def look(self, gpus: list[GpuAnswers]) -> list[Seen | None]:
        """One tick over all GPUs; None for a GPU that has never been found yet."""
        self._edge_ns = self._calls.now_ns
        try:
            if not self._attached:
                self._attach()
            doubt, self._doubt = self._doubt, True
            self._enumerate(gpus, COUNT_EVERY_NS if doubt else ENUMERATE_EVERY_NS)
            self._tick += 1
            self._listen([(gpu, gpu.index not in self._out_of_reach) for gpu in gpus if gpu.index in self._found])
            seen = [self._look_at(gpu) if gpu.index in self._found else None for gpu in gpus]
        except LibraryGone as gone:
            self._unknown_since_ns = None
            self._let_go(gone.reason)
            return [Seen(reason=self._reason) if gpu.index in self._found else None for gpu in gpus]
        self._doubt = not all(one is not None and one.reason is None and not one.is_gone for one in seen)
        # Only a tick that was read to its end shows that the library works.
        self._retry_ns, self._patience_ns = None, RETRY_FIRST_NS
        self._watch_unknown([one for one in seen if one is not None])
        return seen

    def _watch_unknown(self, seen: list[Seen]) -> None:
        if not seen or not all(one.unknown for one in seen):
            self._unknown_since_ns = None
        elif self._unknown_since_ns is None:
            self._unknown_since_ns = self._edge_ns
        elif self._edge_ns - self._unknown_since_ns >= UNKNOWN_RUN_NS:
            self.gave_up = True

    def _attach(self) -> None:
        if self._retry_ns is not None and self._edge_ns < self._retry_ns:
            raise LibraryGone(None)
        code = self._calls.enter("nvmlInitWithFlags", None)
        if code is not None:
            raise LibraryGone(DRIVER_WIDE.get(code, "library"))
        self._attached = True
        self._out_of_reach.update((index, Seen(reason="library")) for index in self._found)
        self.forget()
        self._call("nvmlSystemGetDriverVersion", None)

    def _let_go(self, reason: str | None) -> None:
        if reason is None:
            return  # only waiting for the next attempt
        if self._attached:
            for _ in range(sum(self._allocated.values())):
                self._calls.enter("nvmlGpmSampleFree", None)
            self._allocated.clear()
            self._free_events()
        self._attached = False
        self._reason = reason
        self._retry_ns = self._edge_ns + self._patience_ns
        self._patience_ns = min(2 * self._patience_ns, RETRY_MOST_NS)

    def _enumerate(self, gpus: list[GpuAnswers], every_ns: int) -> None:
        """Who is there is asked every minute, every ten seconds in doubt, in every tick while one is out of reach.

        In between they are counted; here there are always as many as there were.
        """
        recent = self._enumerated_ns is not None and self._edge_ns - self._enumerated_ns < every_ns
        if recent and not self._out_of_reach:
            if self._edge_ns - self._counted_ns >= COUNT_EVERY_NS and self._call("nvmlDeviceGetCount_v2", None) is None:
                self._counted_ns = self._edge_ns
            return
        self._enumerated_ns, self._counted_ns = None, self._edge_ns
        if self._call("nvmlDeviceGetCount_v2", None) is not None:
            return
        for gpu in gpus:
            codes = [code for code in self._find(gpu) if code is not None]
            if not codes:
                self._found.add(gpu.index)
                self._out_of_reach.pop(gpu.index, None)
            elif gpu.index not in self._found:
                continue
            elif codes[0] in GONE:
                self._out_of_reach[gpu.index] = Seen(down=True)
            elif gpu.index in self._out_of_reach:
                reason = "permission" if codes[0] == NO_PERMISSION else "calls_failed"
                self._out_of_reach[gpu.index] = Seen(reason=reason, unknown=codes[0] == UNKNOWN)
        self._enumerated_ns = self._edge_ns

    def _find(self, gpu: GpuAnswers) -> Iterator[int | None]:
        """The codes of the calls that find a GPU; who it is is asked only when it was out of reach."""
        for function in ("nvmlDeviceGetHandleByIndex_v2", UUID):
            code = self._call(function, gpu)
            yield code
            if code is not None:
                return
        if gpu.index not in self._found or gpu.index in self._out_of_reach:
            for function in IDENTITY:
                code = self._call(function, gpu)
                if code in GONE or (function == UUID and code is not None):
                    yield code
                    return

    def _look_at(self, gpu: GpuAnswers) -> Seen:
        if gpu.index in self._out_of_reach:
            xids = self._xids(gpu, has_handle=False)
            self._stale(gpu)
            return replace(self._out_of_reach[gpu.index], xids=xids)
        xids = self._xids(gpu, has_handle=True)
        memory = self._memories.get(gpu.index) or self._new_memory(gpu)
        self._codes = []
        seen = Seen(xids=xids)
        try:
            found = self._divided(gpu, memory)
            seen.divided = found is not None
            batch = self._batch(gpu, memory, power=self._is_power_due(memory))
            seen.energy_mj = self._energy(gpu, memory, batch)
            self._power(gpu, memory, seen.energy_mj, batch)
            engines: list[dict[str, int]] = []
            if found is None:
                self._activity(gpu, memory, seen)
                memory.division.doubt = not memory.gpm.spoke
            elif not isinstance(found, str):
                engines = self._instance_engines(gpu, memory, found)
            used = self._used_bytes(gpu)
            if not isinstance(found, str):
                self._keep_fatal(gpu, None if found is None else {one.name for one in found})
            self._health(gpu, memory, seen, batch)
            seen.fatal = bool(self._fatal_parts(gpu))
            if found is None or isinstance(found, str):
                seen.parts = [] if found is None else None
                seen.process = self._processes(gpu, memory, used)
                if memory.on_instances:
                    seen.activity_ppm, seen.sm_ppm, seen.engines_ppm = None, None, {}
                    seen.links, seen.counts, seen.high_ms = {}, {}, None
            else:
                memory.process_read_ns, memory.process_bytes, memory.process_failed = None, None, False
                seen.parts, seen.process = self._parts(gpu, memory, found, engines, used)
                seen.fatal = None in self._fatal_parts(gpu)
                for name, part in seen.parts:
                    part.fatal = name[1] in self._fatal_parts(gpu)
        except GpuGone:
            # Whatever was read before the loss is not trusted after it.
            self._new_memory(gpu)
            self._stale(gpu)
            return Seen(down=True, xids=xids)
        failed = [code for code in self._codes if code not in NOT_OFFERED]
        if failed and None not in failed:
            return Seen(reason="calls_failed", unknown=set(failed) == {UNKNOWN}, xids=xids)
        self._settle(gpu)
        return seen

    def _new_memory(self, gpu: GpuAnswers) -> Memory:
        memory = self._memories[gpu.index] = Memory()
        memory.division = DivisionMemory()
        return memory

    def _energy(self, gpu: GpuAnswers, memory: Memory, batch: Batch) -> int | None:
        if ENERGY in batch.values:
            return batch.values[ENERGY]
        memory.energy_field = memory.energy_field and (batch.is_failed or ENERGY in batch.failed)
        if not self._enter("nvmlDeviceGetTotalEnergyConsumption", gpu):
            return None
        return self._got(gpu.energy_mj(self._calls.now_ns))

    def _edge_ms(self) -> int:
        return (self._edge_ns + MS_NS // 2) // MS_NS

    def _is_power_due(self, memory: Memory) -> bool:
        """Power as the driver reports it is asked every ten seconds, after a tick of about a second with its energy."""
        if memory.energy is None or self._edge_ms() - memory.energy[1] not in POWER_SPAN_MS:
            return False
        return memory.power_ms is None or self._edge_ms() - memory.power_ms >= POWER_EVERY_MS

    def _power(self, gpu: GpuAnswers, memory: Memory, energy_mj: int | None, batch: Batch) -> None:
        due, before = self._is_power_due(memory), memory.energy
        memory.energy = None if energy_mj is None else (energy_mj, self._edge_ms())
        if not due or before is None or energy_mj is None or energy_mj < before[0]:
            return
        memory.power_ms = self._edge_ms()
        if POWER in batch.values or POWER in batch.failed:
            return
        if self._enter("nvmlDeviceGetPowerUsage", gpu):
            self._got(gpu.track("power_mw").value(self._calls.now_ns))

    def _used_bytes(self, gpu: GpuAnswers) -> int | None:
        if self._enter("nvmlDeviceGetMemoryInfo_v2", gpu):
            used = self._got(gpu.memory_bytes(self._calls.now_ns))
            if used is not None or self._codes[-1] not in NOT_OFFERED:
                return used
        elif self._codes[-1] not in NOT_OFFERED:
            return None
        # An old driver knows the first version only, in which what is reserved is used.
        if not self._enter("nvmlDeviceGetMemoryInfo", gpu):
            return None
        used = self._got(gpu.memory_bytes(self._calls.now_ns))
        return None if used is None else used + gpu.gpu.memory_reserved_bytes

    def _processes(self, gpu: GpuAnswers, memory: Memory, used: int | None) -> bool | None:
        changed = used is None or used != memory.process_bytes
        read_ns = memory.process_read_ns
        due = read_ns is None or changed or memory.process_failed or self._edge_ns - read_ns >= PROCESS_EVERY_NS
        if due:
            listed = self._all_lists(gpu)
            found = None if listed is None else bool(listed)
            memory.on_instances = any(on is not None for _, on in listed or ())
            if memory.on_instances:
                memory.division.looked_ns = None
            memory.process_failed = found is None
            if found is not None:
                memory.process, memory.process_read_ns, memory.process_bytes = found, self._edge_ns, used
            elif read_ns is None or changed or self._edge_ns - read_ns > PROCESS_VALID_NS:
                return None
        return memory.process
