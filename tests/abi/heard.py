# SPDX-License-Identifier: Apache-2.0
"""How an honest agent hears Xid errors: which sets of events GPUs are in, and what of a GPU an error makes down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.abi.activity import GONE, NOT_OFFERED, ActivityReader, LibraryGone
from tests.abi.answers import MS_NS, SECOND_NS, WAIT, GpuAnswers

FATAL = {46, 48, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, 158}
"""Xids after which a GPU is down until its health reads clean: version 1 of the agent's list, written down again."""
AT_ONCE_MOST = 64
RETRY_FIRST_NS = SECOND_NS
RETRY_MOST_NS = 60 * SECOND_NS
APART_FIRST_NS = 60 * SECOND_NS
APART_MOST_NS = 3_600 * SECOND_NS


@dataclass(slots=True)
class Member:
    """A GPU in a set: since when, and how many of its Xids the set has handed out."""

    gpu: GpuAnswers
    since_ns: int
    handed_out: int = 0

    def waiting(self, now_ns: int) -> tuple[int, int | None] | None:
        """The next Xid, and the instance it is of."""
        there = [
            (entry[1], entry[2] if len(entry) > 2 else None)
            for entry in sorted(self.gpu.gpu.xids, key=lambda entry: entry[0])
            if self.since_ns <= entry[0] * MS_NS <= now_ns
        ]
        return there[self.handed_out] if self.handed_out < len(there) else None


@dataclass(slots=True, eq=False)
class Set:
    """A set of events."""

    made: bool = False
    members: dict[int, Member] = field(default_factory=dict)


@dataclass(slots=True)
class Watch:
    """Where one GPU is heard."""

    home: Set | None = None
    found: list[tuple[int, int | None]] = field(default_factory=list)
    is_offered: bool = True
    is_stale: bool = False
    is_new: bool = True
    well_ns: int | None = None
    retry_at_ns: int | None = None
    pause_ns: int = RETRY_FIRST_NS


class _Failed(Exception):
    """Something about a set of events went wrong."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Refused(Exception):
    """There are no such events."""


class EventReader(ActivityReader):
    """Hears Xids: all GPUs in one set while its wait works, each in its own after that."""

    _edge_ns: int

    def reset_events(self) -> None:
        self._watches: dict[int, Watch] = {}
        self._together: Set | None = None
        self._splits = 0
        self._fatal_ns: dict[tuple[int, int | None], int] = {}
        self._names: dict[int, set[tuple[str, int, int, int]]] = {}

    def _forget_pauses(self) -> None:
        for watch in self._watches.values():
            watch.retry_at_ns = watch.well_ns = None

    # What is fatal.

    def _fatal_parts(self, gpu: GpuAnswers) -> set[int | None]:
        """What of the GPU reported a fatal Xid: an instance, or (None) all of it."""
        return {part for index, part in self._fatal_ns if index == gpu.index}

    def _clear_fatal(self, gpu: GpuAnswers) -> None:
        """A read finds no fault: that ends what was reported before its tick."""
        for part in self._fatal_parts(gpu):
            if self._fatal_ns[gpu.index, part] < self._edge_ns:
                del self._fatal_ns[gpu.index, part]

    def _keep_fatal(self, gpu: GpuAnswers, names: set[tuple[str, int, int, int]] | None) -> None:
        """An instance that is gone takes its errors with it; None: the GPU is not divided."""
        before, self._names[gpu.index] = self._names.get(gpu.index, set()), names or set()
        there = {number for _, number, *_ in names or ()}
        gone = {number for _, number, *_ in before - (names or set())}
        for part in self._fatal_parts(gpu) - {None}:
            replaced = part in gone and self._fatal_ns[gpu.index, part] < self._edge_ns
            if replaced or (part not in there and (names is not None or part in gone)):
                del self._fatal_ns[gpu.index, part]

    # A tick.

    def _listen(self, gpus: Sequence[tuple[GpuAnswers, bool]]) -> None:
        """Empty the common set; make it anew where somebody comes in. With each GPU, whether it has a handle."""
        together = self._together
        if together is not None:
            try:
                self._empty(together)
            except _Failed:
                self._together = None
                self._splits += 1
                for watch in self._in(together):
                    watch.is_new, watch.well_ns = False, None
            except _Refused:
                self._together = None
                for watch in self._in(together):
                    watch.home, watch.is_offered = None, False
                self._drop(together)
        self._gather(gpus)

    def _gather(self, gpus: Sequence[tuple[GpuAnswers, bool]]) -> None:
        wanted: list[GpuAnswers] = []
        anybody = False
        for gpu, has_handle in gpus:
            watch = self._watches.setdefault(gpu.index, Watch())
            inside = watch.home is not None and watch.home is self._together
            if inside and (not has_handle or watch.is_stale):
                return
            if inside or (has_handle and self._may_come(watch)):
                wanted.append(gpu)
                anybody = anybody or not inside
        if not anybody:
            return
        made = Set()
        for gpu in wanted:
            watch = self._watches[gpu.index]
            try:
                if watch.home is not None and watch.home is not self._together:
                    self._empty(watch.home)
                self._register(gpu, made, alone=False)
            except _Failed:
                self._fail(watch)
            except _Refused:
                watch.is_offered = False
            else:
                watch.is_offered = True
        before, self._together = self._together, made if made.members else None
        left = [self._watches[index].home for index in made.members]
        for index in made.members:
            self._watches[index].home = made
        for one in (*left, before, made):
            self._drop(one)

    def _may_come(self, watch: Watch) -> bool:
        if not watch.is_offered or watch.is_stale or watch.retry_at_ns is not None:
            return False
        apart_ns = min(APART_FIRST_NS * 2 ** max(0, self._splits - 1), APART_MOST_NS)
        return watch.is_new or (watch.well_ns is not None and self._edge_ns - watch.well_ns >= apart_ns)

    def _xids(self, gpu: GpuAnswers, *, has_handle: bool) -> list[int]:
        watch = self._watches.setdefault(gpu.index, Watch())
        if watch.home is None or watch.home is not self._together:
            self._hear_apart(gpu, watch, has_handle)
        found, watch.found = watch.found, []
        self._fatal_ns.update({(gpu.index, part): self._edge_ns for code, part in found if code in FATAL})
        return [code for code, _ in found]

    def _hear_apart(self, gpu: GpuAnswers, watch: Watch, has_handle: bool) -> None:
        pausing = watch.retry_at_ns is not None and self._edge_ns < watch.retry_at_ns
        if not watch.is_offered or pausing or (watch.home is None and not has_handle):
            return
        try:
            self._look_apart(gpu, watch, has_handle)
        except _Failed as failed:
            if failed.code not in GONE:
                self._move(watch, None)
            self._fail(watch)
            return
        except _Refused:
            self._move(watch, None)
            watch.is_offered = False
        watch.retry_at_ns, watch.pause_ns = None, RETRY_FIRST_NS
        watch.well_ns = self._edge_ns if watch.well_ns is None else watch.well_ns

    def _look_apart(self, gpu: GpuAnswers, watch: Watch, has_handle: bool) -> None:
        before = watch.home
        if has_handle and (before is None or len(before.members) > 1):
            own = Set()
            try:
                self._register(gpu, own, alone=True)
                self._move(watch, own)
            except _Failed as failed:
                if failed.code not in GONE or before is None:
                    raise
        if watch.home is not None:
            self._empty(watch.home)

    def _fail(self, watch: Watch) -> None:
        watch.is_new, watch.well_ns = False, None
        watch.retry_at_ns = self._edge_ns + watch.pause_ns
        watch.pause_ns = min(2 * watch.pause_ns, RETRY_MOST_NS)

    # Sets.

    def _empty(self, one: Set) -> None:
        """Take out what is there, the GPU with the lowest index first."""
        alone = next(iter(one.members.values())).gpu if len(one.members) == 1 else None
        for _ in range(AT_ONCE_MOST * len(one.members)):
            self._check(self._call(WAIT, alone))
            now_ns = self._calls.now_ns
            told = [member for _, member in sorted(one.members.items()) if member.waiting(now_ns) is not None]
            if not told:
                for _, member in sorted(one.members.items()):
                    self._check(member.gpu.outage("nvmlDeviceGetUUID", now_ns))
                return
            event = told[0].waiting(now_ns)
            told[0].handed_out += 1
            watch = self._watches.get(told[0].gpu.index)
            if watch is not None and watch.home is one and event is not None:
                watch.found.append(event)

    def _register(self, gpu: GpuAnswers, into: Set, *, alone: bool) -> None:
        self._check(self._call("nvmlDeviceGetSupportedEventTypes", gpu))
        if not into.made:
            self._check(self._call("nvmlEventSetCreate", None))
            into.made = True
        try:
            code = self._call("nvmlDeviceRegisterEvents", gpu)
        except LibraryGone:
            self._drop(into)
            raise
        if code is not None and alone:
            self._drop(into)
        self._check(code)
        into.members[gpu.index] = Member(gpu, self._calls.now_ns)

    @staticmethod
    def _check(code: int | None) -> None:
        if code is not None:
            raise _Refused if code in NOT_OFFERED else _Failed(code)

    def _in(self, one: Set) -> list[Watch]:
        return [watch for watch in self._watches.values() if watch.home is one]

    def _move(self, watch: Watch, home: Set | None) -> None:
        before, watch.home = watch.home, home
        self._drop(before)

    def _drop(self, one: Set | None) -> None:
        """Free a set that nobody is in any more."""
        if one is not None and one.made and one is not self._together and not self._in(one):
            one.made = False
            self._calls.enter("nvmlEventSetFree", None)

    def _stale(self, gpu: GpuAnswers) -> None:
        self._watches[gpu.index].is_stale = True

    def _settle(self, gpu: GpuAnswers) -> None:
        """It answers again: registered anew in the next tick."""
        watch = self._watches[gpu.index]
        if watch.is_stale:
            self._move(watch, None)
            watch.is_stale = watch.is_new = False
            watch.well_ns, watch.retry_at_ns, watch.pause_ns = None, None, RETRY_FIRST_NS

    def _free_events(self) -> None:
        homes = [self._together, *(watch.home for watch in self._watches.values())]
        self._together, self._splits = None, 0
        self._watches.clear()
        for one in homes:
            self._drop(one)
