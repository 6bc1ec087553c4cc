# SPDX-License-Identifier: Apache-2.0
"""What an honest agent reads of a divided GPU (MIG): its mode, its instances, and what each does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from tests.abi.activity import NOT_OFFERED, ActivityReader, GpmMemory, Memory, Seen, raise_if_gone
from tests.abi.answers import SECOND_NS, GpuAnswers, InstanceAnswers
from tests.abi.script import INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, Failure, MigDevice

SLOTS = 7
MODE_EVERY_NS = 60 * SECOND_NS
MODE_DOUBT_NS = 10 * SECOND_NS
WALK_EVERY_NS = 10 * SECOND_NS
TRIES = 3
REFUSED_TICKS = 10
LIST_EVERY_NS = 30 * SECOND_NS
LIST_VALID_NS = 60 * SECOND_NS
HOLES = (NOT_FOUND, INVALID_ARGUMENT)
LISTS = (("compute", "Compute"), ("graphics", "Graphics"), ("mps", "MPSCompute"))

Name = tuple[str, int, int, int]
"""What tells an instance from every other: UUID, id, slices, memory."""


class AskFailed(Exception):
    """A question of several calls got no answer."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class ListMemory:
    """Whether a process was in a list, and when that was read."""

    process: bool | None = None
    read_ns: int | None = None
    used: int | None = None

    def is_due(self, used: int | None, now_ns: int) -> bool:
        return self.changed(used) or self.read_ns is None or now_ns - self.read_ns >= LIST_EVERY_NS

    def changed(self, used: int | None) -> bool:
        return used is None or used != self.used

    def take(self, found: bool | None, used: int | None, now_ns: int) -> None:
        if found is not None:
            self.process, self.read_ns, self.used = found, now_ns, used
        elif self.changed(used):
            self.process = self.read_ns = None

    def current(self, now_ns: int) -> bool | None:
        old = self.read_ns is None or now_ns - self.read_ns > LIST_VALID_NS
        return None if old else self.process


@dataclass(slots=True)
class DivisionMemory:
    """What the agent remembers of how one GPU is divided."""

    on: bool = False
    looked_ns: int | None = None
    doubt: bool = True
    """GPM did not tell of the whole GPU in the last tick, or its instances were not found."""
    failures: int = 0
    failed_ns: int = 0
    refused_ns: int | None = None
    rest: ListMemory = field(default_factory=ListMemory)
    lists: dict[Name, ListMemory] = field(default_factory=dict)
    gpm: dict[Name, GpmMemory] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """An instance of this tick: its name, and the slots of its compute instances."""

    name: Name
    slots: list[int] = field(default_factory=list)


class DividedReader(ActivityReader):
    """Reads divided GPUs."""

    _edge_ns: int
    _known: dict[int, list[Name]]
    """The instances found last, by GPU: outlives whatever else is forgotten."""

    def _divided(self, gpu: GpuAnswers, memory: Memory) -> list[Found] | str | None:
        """The instances of a divided GPU, "unknown", or None where it is not divided."""
        division = memory.division
        every_ns = MODE_DOUBT_NS if division.doubt else MODE_EVERY_NS
        if division.looked_ns is None or self._edge_ns - division.looked_ns >= every_ns:
            self._look_at_mode(gpu, memory)
        if division.on:
            found = self._walk(gpu, memory)
            if found is not None:
                return found
        self._keep(gpu, memory, [])
        return None

    def _look_at_mode(self, gpu: GpuAnswers, memory: Memory) -> None:
        division = memory.division
        code = self._call("nvmlDeviceGetMigMode", gpu)
        raise_if_gone(code)
        if code is None and not gpu.gpu.mig_supported:
            code = NOT_SUPPORTED
        self._codes.append(code)
        division.looked_ns = self._edge_ns
        on = code is None and gpu.is_divided(self._calls.now_ns)
        if (code is None or code in NOT_OFFERED) and on != division.on:
            division.on, division.rest = on, ListMemory()
            # What was and was not offered before says nothing now.
            memory.gpm, memory.samples_offered, memory.samples_tick = GpmMemory(), True, None
            memory.contradictions = 0
            division.gpm = {name: GpmMemory() for name in division.gpm}

    def _walk(self, gpu: GpuAnswers, memory: Memory) -> list[Found] | str | None:
        division = memory.division
        if division.failures >= TRIES and self._edge_ns - division.failed_ns < WALK_EVERY_NS:
            return "unknown"
        try:
            found = self._slots(gpu)
        except AskFailed as failed:
            self._codes.append(failed.code)
            division.failures, division.failed_ns, division.doubt = division.failures + 1, self._edge_ns, True
            return "unknown"
        self._codes.append(None)
        division.failures, division.doubt = 0, False
        if not found and division.looked_ns != self._edge_ns:
            self._look_at_mode(gpu, memory)
            if not division.on:
                return None
        self._keep(gpu, memory, [one.name for one in found])
        return found

    def _slots(self, gpu: GpuAnswers) -> list[Found]:
        self._ask(gpu, "nvmlDeviceGetMaxMigDeviceCount")
        count = SLOTS if gpu.is_divided(self._calls.now_ns) else 0
        found: dict[int, Found] = {}
        for slot in range(count):
            try:
                self._slot(gpu, slot, found)
            except AskFailed as failed:
                if failed.code not in HOLES:
                    raise
        uuids = {one.name[0] for one in found.values()}
        if sum(one.name[2] for one in found.values()) > SLOTS or len(uuids) < len(found):
            raise AskFailed(-1)
        return list(found.values())

    def _slot(self, gpu: GpuAnswers, slot: int, found: dict[int, Found]) -> None:
        self._ask(gpu, "nvmlDeviceGetMigDeviceHandleByIndex")
        if not gpu.hands_out(slot, self._calls.now_ns):
            raise AskFailed(NOT_FOUND)
        one, _ = self._ask_slot(gpu, slot, "nvmlDeviceGetGpuInstanceId")
        number = one.instance.instance_id
        if number not in found:
            _, device = self._ask_slot(gpu, slot, "nvmlDeviceGetUUID")
            one, _ = self._ask_slot(gpu, slot, "nvmlDeviceGetAttributes_v2")
            name = (device.uuid, number, one.instance.slices, one.instance.memory_total_bytes >> 20 << 20)
            if name not in self._known.get(gpu.index, []):
                with suppress(AskFailed):  # only a name
                    self._ask_slot(gpu, slot, "nvmlDeviceGetName")
            found[number] = Found(name)
        found[number].slots.append(slot)

    def _ask(self, gpu: GpuAnswers, function: str) -> None:
        code = self._call(function, gpu)
        raise_if_gone(code)
        if code is not None:
            raise AskFailed(code)

    def _ask_slot(self, gpu: GpuAnswers, slot: int, function: str) -> tuple[InstanceAnswers, MigDevice]:
        """Call about the MIG device in a slot; it may have ended since, and another begun."""
        before = gpu.in_slot(slot, self._calls.now_ns)
        code = self._call(function, gpu if before is None else before[0])
        raise_if_gone(code)
        after = gpu.in_slot(slot, self._calls.now_ns)
        if code is not None or after is None:
            raise AskFailed(INVALID_ARGUMENT if code is None else code)
        return after

    def _keep(self, gpu: GpuAnswers, memory: Memory, names: list[Name]) -> None:
        """Give back the samples of instances that are gone, and forget their lists."""
        if names == self._known.get(gpu.index, []):
            return
        self._known[gpu.index] = names
        division = memory.division
        for place in [place for place in self._allocated if place[0] == gpu.index and place[1] is not None]:
            if place[1] not in names:
                for _ in range(self._allocated.pop(place)):
                    self._calls.enter("nvmlGpmSampleFree", None)
        division.lists = {name: kept for name, kept in division.lists.items() if name in names}
        division.gpm = {name: kept for name, kept in division.gpm.items() if name in names}

    # ------------------------------------------------------------------------------------------------- what each does

    def _instance_engines(self, gpu: GpuAnswers, memory: Memory, found: list[Found]) -> list[dict[str, int]]:
        """What GPM says of each instance since the last tick."""
        means: list[dict[str, int]] = []
        for one in found:
            gpm = memory.division.gpm.setdefault(one.name, GpmMemory())
            if memory.gpm.discredited or (gpm.refusals >= TRIES and self._tick % REFUSED_TICKS != 0):
                means.append({})
                continue
            gpm.refusals += 1
            means.append(self._gpm(gpu, gpm, one.name).shares)
            if gpm.tick == self._tick:
                gpm.refusals = 0
        return means

    def _parts(
        self, gpu: GpuAnswers, memory: Memory, found: list[Found], engines: list[dict[str, int]], board: int | None
    ) -> tuple[list[tuple[Name, Seen]], bool | None]:
        """Each instance as it was seen; is there a process where no instance is?"""
        used = [self._slot_used(gpu, one.slots[0]) for one in found]
        self._instance_processes(gpu, memory, list(zip(found, used, strict=True)), 0 if board is None else board)
        parts = []
        for one, means in zip(found, engines, strict=True):
            seen = Seen(process=memory.division.lists[one.name].current(self._edge_ns))
            seen.activity_ppm = means.pop("graphics", None)
            seen.engines_ppm = means
            parts.append((one.name, seen))
        return parts, memory.division.rest.current(self._edge_ns)

    def _slot_used(self, gpu: GpuAnswers, slot: int) -> int | None:
        """The memory in use on an instance; where the second version is not offered, by the first."""
        for function in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"):
            try:
                one, _ = self._ask_slot(gpu, slot, function)
            except AskFailed as failed:
                code: int | None = failed.code
            else:
                used = one.memory_bytes(self._calls.now_ns)
                code = used.code if isinstance(used, Failure) else None
                if not isinstance(used, Failure):
                    self._codes.append(None)
                    return used
            raise_if_gone(code)
            if code not in NOT_OFFERED:
                self._codes.append(code)
                return None
        return None

    def _instance_processes(
        self, gpu: GpuAnswers, memory: Memory, found: list[tuple[Found, int | None]], board: int
    ) -> None:
        division, now_ns = memory.division, self._edge_ns
        due = [
            (one, used) for one, used in found if division.lists.setdefault(one.name, ListMemory()).is_due(used, now_ns)
        ]
        if not due and not division.rest.is_due(board, now_ns):
            return
        listed: set[tuple[int, int | None]] | None = None
        if division.refused_ns is None or now_ns - division.refused_ns >= LIST_EVERY_NS:
            listed = self._all_lists(gpu)
            told = listed is not None and all(on is not None for _, on in listed)
            division.refused_ns, listed = (None, listed) if told else (now_ns, None)
        if listed is None:
            division.rest.take(None, board, now_ns)
            for one, used in due:
                division.lists[one.name].take(self._own_lists(gpu, one), used, now_ns)
            return
        for one, used in found:
            division.lists[one.name].take(any(on == one.name[1] for _, on in listed), used, now_ns)
        strays = {on for _, on in listed} - {one.name[1] for one, _ in found}
        division.rest.take(bool(strays), board, now_ns)

    def _all_lists(self, gpu: GpuAnswers) -> set[tuple[int, int | None]] | None:
        """Every process of the board and the instance it is on; None when that cannot be known."""
        found: set[tuple[int, int | None]] = set()
        for kind, name in LISTS:
            function = f"nvmlDeviceGet{name}RunningProcesses_v3"
            # pynvml first asks for the size; only a list that is not empty is then fetched.
            if self._enter(function, gpu) and gpu.processes(kind, self._calls.now_ns) and self._enter(function, gpu):
                found |= set(gpu.processes(kind, self._calls.now_ns))
            code = self._codes[-1]
            if code is not None and (kind == "compute" or code not in NOT_OFFERED):
                return None
        return found

    def _own_lists(self, gpu: GpuAnswers, one: Found) -> bool | None:
        """Is a process in the lists of an instance's compute instances? None when that cannot be known."""
        process = False
        for slot in one.slots:
            for kind, name in LISTS:
                function = f"nvmlDeviceGet{name}RunningProcesses_v3"
                try:
                    pids = list(self._slot_pids(gpu, slot, function, kind))
                except AskFailed as failed:
                    self._codes.append(failed.code)
                    if kind == "compute" or failed.code not in NOT_OFFERED:
                        return None
                    continue
                self._codes.append(None)
                process = process or bool(pids)
        return process

    def _slot_pids(self, gpu: GpuAnswers, slot: int, function: str, kind: str) -> Iterator[int]:
        one, device = self._ask_slot(gpu, slot, function)
        if one.own_processes(kind, self._calls.now_ns, device.compute):
            one, device = self._ask_slot(gpu, slot, function)
            yield from one.own_processes(kind, self._calls.now_ns, device.compute)
