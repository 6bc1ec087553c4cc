# SPDX-License-Identifier: Apache-2.0
"""Xid errors as they happen: one set of events for all GPUs, emptied at the start of every tick and never waited for.

A lost GPU may make the wait for its set fail at once and for ever, and the failure does not say whose it is. So where
the wait for the shared set fails, every GPU gets a set of its own: that shows whose it was, and costs that GPU one call
now and then. One that cannot be registered any more stays in the old set, of which the others take nothing. Who does
well in a set of his own for a while goes back into a shared one, which is made anew for that. What has no such events
is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuledger.gpu_time import XID_MAX
from gpuledger_agent.nvml import CallFailed, GpuLost, Handle, Nvml, NvmlError, ResetRequired
from gpuledger_agent.nvml_health import EventSet, NvmlHealth, XidEvent, is_same_device
from gpuledger_agent.sources import TickReads

EVENTS = "events"
"""Whom the wait for the shared set is about, where it hangs."""
XIDS_PER_TICK_MAX = 64
"""For each GPU in a set: one that never runs empty is left for the next tick."""
RETRY_MS_FIRST = 1_000
RETRY_MS_MAX = 60_000
APART_MS_FIRST = 60_000
APART_MS_MAX = 3_600_000
"""So long a GPU has to do well in a set of its own; twice as long each time that the shared one failed."""


@dataclass(slots=True, eq=False)
class _Set:
    """A set of events, and the handles under which GPUs were registered in it."""

    events: EventSet | None = None
    handles: dict[str, Handle] = field(default_factory=dict)


@dataclass(slots=True)
class _Watch:
    """One GPU's: `home` is the set of which its events are taken, `found` those that nobody has asked for yet.

    `retry_at_ms` is when to try again after a failure, `is_stale` that the GPU was lost meanwhile, `is_trusted` that it
    may be in the shared set, or since when (`well_since_ms`) it has done well in one of its own.
    """

    home: _Set | None = None
    found: list[XidEvent] = field(default_factory=list)
    is_offered: bool = True
    is_stale: bool = False
    is_trusted: bool = True
    well_since_ms: int | None = None
    retry_at_ms: int | None = None
    retry_ms: int = RETRY_MS_FIRST

    def fail(self, edge_ms: int) -> None:
        """Note a failure; each pause is twice the one before."""
        self.is_trusted, self.well_since_ms = False, None
        self.retry_at_ms = edge_ms + self.retry_ms
        self.retry_ms = min(2 * self.retry_ms, RETRY_MS_MAX)


class XidSource:
    """Reads the Xid errors of whole GPUs and of their instances; nothing before the registration is seen."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._door = NvmlHealth(nvml)
        self._shared: _Set | None = None
        self._coming: _Set | None = None
        """The shared set that is being made."""
        self._failures = 0
        """How often a shared set failed since the driver was attached to."""
        self._watches: dict[str, _Watch] = {}
        self._disowned: dict[str, list[EventSet]] = {}

    # ------------------------------------------------------------------------------------------ one tick

    def listen(self, handles: Mapping[str, Handle | None], edge_ms: int, reads: TickReads, *, is_hung: bool) -> None:
        """Empty the shared set, and see who belongs in it; raises DriverUnavailable.

        `handles` are of the GPUs that may be asked; `is_hung`: a wait for a shared set has not come back.
        """
        shared = self._shared
        if shared is not None:
            self._nvml.about(EVENTS)
            is_offered = self._tried(reads, self._empty, shared)
            if is_offered is None:
                self._part()
            elif not is_offered:
                self._shared = None
                for watch in self._watches.values():
                    if watch.home is shared:
                        self._move(watch, None)
                        watch.is_offered = False
        if not is_hung:
            self._gather(handles, edge_ms, reads)

    def poll(self, uuid: str, handle: Handle | None, edge_ms: int, reads: TickReads) -> tuple[XidEvent, ...]:
        """Return the GPU's errors since the last tick; raises DriverUnavailable. A lost GPU's set is asked as well."""
        watch = self._watches.get(uuid)
        if watch is None:
            watch = self._watches[uuid] = _Watch()
        if watch.home is None or watch.home is not self._shared:
            self._poll_apart(uuid, watch, handle, edge_ms, reads)
        found, watch.found = watch.found, []
        for _ in range(sum(not 1 <= event.xid <= XID_MAX for event in found)):
            reads.report("events").count("unexpected_number")
        return tuple(event for event in found if 1 <= event.xid <= XID_MAX)

    def forget(self) -> None:
        """Let no pause outlive the session: its times are of another line."""
        for watch in self._watches.values():
            watch.retry_at_ms = watch.well_since_ms = None

    def interrupt(self, uuid: str) -> None:
        """Register anew as soon as the GPU answers again: it was lost, and its handle may be another then."""
        watch = self._watches.get(uuid)
        if watch is not None:
            watch.is_stale = True

    def settle(self, uuid: str) -> None:
        """Note that the GPU answered."""
        watch = self._watches.get(uuid)
        if watch is not None and watch.is_stale:
            self._move(watch, None)
            watch.is_stale = watch.is_trusted = False
            watch.well_since_ms, watch.retry_at_ms, watch.retry_ms = None, None, RETRY_MS_FIRST

    def disown(self, subject: str) -> None:
        """Leave alone what a call about a GPU, or about EVENTS, that hangs may still be using."""
        watch = self._watches.pop(subject, None)
        used = [self._coming]
        self._coming = None
        if subject == EVENTS:
            used.append(self._shared)
            self._part()
        elif watch is not None and watch.home is not self._shared:
            used.append(watch.home)
        for one in used:
            if one is not None and one.events is not None:
                self._disowned.setdefault(subject, []).append(one.events)
                for other in self._watches.values():
                    if other.home is one:
                        other.home, other.is_trusted = None, False

    def readmit(self, subject: str) -> None:
        """Free what was left alone: the call returned."""
        disowned = self._disowned.pop(subject, [])
        while disowned:
            self._door.free(disowned.pop())

    def release(self) -> None:
        """Free every set, before NVML is let go of."""
        kept = [self._coming, self._shared, *(watch.home for watch in self._watches.values())]
        self._coming = self._shared = None
        self._failures = 0
        self._watches.clear()
        for one in kept:
            if one is not None:
                self._free(one)
        for subject in list(self._disowned):
            self.readmit(subject)

    # ------------------------------------------------------------------------------------------ the shared set

    def _part(self) -> None:
        """Let everybody leave the shared set, which failed; it is theirs until they have one of their own."""
        for watch in self._watches.values():
            if watch.home is self._shared:
                watch.is_trusted, watch.well_since_ms = False, None
        self._shared = None
        self._failures += 1

    def _gather(self, handles: Mapping[str, Handle | None], edge_ms: int, reads: TickReads) -> None:
        """Make the shared set anew where somebody is to come in, and everybody in it answers."""
        wanted: dict[str, Handle] = {}
        is_anybody_new = False
        for uuid, handle in handles.items():
            watch = self._watches.setdefault(uuid, _Watch())
            is_inside = watch.home is not None and watch.home is self._shared
            if is_inside and (handle is None or watch.is_stale):
                return
            if is_inside or (handle is not None and self._may_come(watch, edge_ms)):
                wanted[uuid] = handle
                is_anybody_new |= not is_inside
        if not is_anybody_new:
            return
        made = self._coming = _Set()
        for uuid, handle in wanted.items():
            watch = self._watches[uuid]
            self._nvml.about(uuid)
            is_offered = self._tried(reads, self._enrol, made, uuid, watch, handle)
            if is_offered is None:
                watch.fail(edge_ms)
            else:
                watch.is_offered = is_offered
        before, self._shared, self._coming = self._shared, made if made.handles else None, None
        for uuid in made.handles:
            self._move(self._watches[uuid], made)
        self._free_unused(before)
        self._free_unused(made)

    def _enrol(self, made: _Set, uuid: str, watch: _Watch, handle: Handle) -> bool:
        """Register a GPU in the set that is being made, after what is left in the one that it comes from."""
        home = watch.home
        if home is not None and home is not self._shared and not self._empty(home):
            return False
        return self._register(made, uuid, handle)

    def _may_come(self, watch: _Watch, edge_ms: int) -> bool:
        if not watch.is_offered or watch.is_stale or watch.retry_at_ms is not None:
            return False
        apart_ms = min(APART_MS_FIRST << max(0, self._failures - 1), APART_MS_MAX)
        return watch.is_trusted or (watch.well_since_ms is not None and edge_ms - watch.well_since_ms >= apart_ms)

    # ------------------------------------------------------------------------------------------ apart from it

    def _poll_apart(self, uuid: str, watch: _Watch, handle: Handle | None, edge_ms: int, reads: TickReads) -> None:
        is_pausing = watch.retry_at_ms is not None and edge_ms < watch.retry_at_ms
        if not watch.is_offered or is_pausing or (watch.home is None and handle is None):
            return
        is_offered = None
        try:
            is_offered = reads.read("events", self._look, uuid, watch, handle)
            if is_offered is None:
                self._move(watch, None)
        except (GpuLost, ResetRequired):
            pass  # How the GPU is, the other reads say. The set stays: it is made anew when the GPU is back.
        if is_offered is None:
            watch.fail(edge_ms)
            return
        watch.is_offered, watch.retry_at_ms, watch.retry_ms = is_offered, None, RETRY_MS_FIRST
        if watch.well_since_ms is None:
            watch.well_since_ms = edge_ms

    def _look(self, uuid: str, watch: _Watch, handle: Handle | None) -> bool:
        """Empty the GPU's own set, and before that make it one; return False where it has no such events."""
        before = watch.home
        if handle is not None and (before is None or len(before.handles) > 1):
            try:
                own = _Set()
                if not self._register(own, uuid, handle):
                    self._move(watch, None)
                    return False
                self._move(watch, own)
            except (GpuLost, ResetRequired):
                if before is None:
                    raise
        return watch.home is None or self._empty(watch.home)

    # ------------------------------------------------------------------------------------------ sets

    @staticmethod
    def _tried(reads: TickReads, read: Callable[..., bool], *arguments: object) -> bool | None:
        """Read, and return None where it failed, for whatever reason that is one GPU's."""
        try:
            return reads.read("events", read, *arguments)
        except (GpuLost, ResetRequired):
            return None

    def _register(self, into: _Set, uuid: str, handle: Handle) -> bool:
        """Register a GPU in a set; return False where it has no such events. One of its own that fails is freed."""
        try:
            if not self._door.is_telling(handle):
                return False
            if into.events is None:
                into.events = self._door.new_events()
            if into.events is None:
                return False
            self._door.register(handle, into.events)
            into.handles[uuid] = handle
        except NvmlError as exc:
            if into is not self._coming:
                self._free(into)
            if isinstance(exc, CallFailed) and exc.error == "not_supported":
                return False
            raise
        return True

    def _empty(self, one: _Set) -> bool:
        """Hand out what is in a set; return False where the driver has no such wait."""
        for _ in range(XIDS_PER_TICK_MAX * len(one.handles)):
            try:
                event = self._door.next_xid(one.events)
            except CallFailed as exc:
                if exc.error != "not_supported":
                    raise
                return False
            if event is None:
                break
            for uuid, handle in one.handles.items():
                watch = self._watches.get(uuid)
                if watch is not None and watch.home is one and is_same_device(handle, event.device):
                    watch.found.append(event)
        return True

    def _move(self, watch: _Watch, home: _Set | None) -> None:
        before, watch.home = watch.home, home
        self._free_unused(before)

    def _free_unused(self, one: _Set | None) -> None:
        if (
            one is not None
            and one is not self._shared
            and all(watch.home is not one for watch in self._watches.values())
        ):
            self._free(one)

    def _free(self, one: _Set) -> None:
        if one.events is not None:
            events, one.events = one.events, None
            self._door.free(events)
