# SPDX-License-Identifier: Apache-2.0
"""Xid errors as they happen: one set of events for each GPU, emptied in every tick and never waited for.

A set for each GPU, because a lost one may make the wait for its set fail at once and for ever: that costs its own GPU
one call now and then, and nobody has to guess whose error it was. What has no such events is asked once.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger.gpu_time import XID_MAX
from gpuledger_agent.nvml import CallFailed, GpuLost, Handle, Nvml, ResetRequired
from gpuledger_agent.nvml_health import EventSet, NvmlHealth, XidEvent
from gpuledger_agent.sources import TickReads

XIDS_PER_TICK_MAX = 64
"""A set that never runs empty is left for the next tick."""
RETRY_MS_FIRST = 1_000
RETRY_MS_MAX = 60_000


@dataclass(slots=True)
class _Watch:
    """One GPU's set; `retry_at_ms` is when to try again after a failure, `is_stale` that the GPU was lost meanwhile."""

    events: EventSet | None = None
    is_offered: bool = True
    is_stale: bool = False
    retry_at_ms: int | None = None
    retry_ms: int = RETRY_MS_FIRST


class XidSource:
    """Reads the Xid errors of whole GPUs and of their instances; nothing before the registration is seen."""

    def __init__(self, nvml: Nvml) -> None:
        self._door = NvmlHealth(nvml)
        self._watches: dict[str, _Watch] = {}
        self._disowned: dict[str, list[EventSet]] = {}

    def poll(self, uuid: str, handle: Handle | None, edge_ms: int, reads: TickReads) -> tuple[XidEvent, ...]:
        """Return the GPU's errors since the last tick; raises DriverUnavailable. A lost GPU's set is asked as well."""
        watch = self._watches.get(uuid)
        if watch is None:
            watch = self._watches[uuid] = _Watch()
        is_pausing = watch.retry_at_ms is not None and edge_ms < watch.retry_at_ms
        if not watch.is_offered or is_pausing or (watch.events is None and handle is None):
            return ()
        found: list[XidEvent] = []
        try:
            is_done = reads.read("events", self._empty, watch, handle, found)
            if is_done is None:
                self._drop(watch)
        except (GpuLost, ResetRequired):
            # How the GPU is, the other reads say. The set stays: it is made anew when the GPU is back.
            is_done = None
        if is_done is None:
            watch.retry_at_ms = edge_ms + watch.retry_ms
            watch.retry_ms = min(2 * watch.retry_ms, RETRY_MS_MAX)
        elif watch.events is not None:
            watch.retry_at_ms, watch.retry_ms = None, RETRY_MS_FIRST
        for _ in range(sum(not 1 <= event.xid <= XID_MAX for event in found)):
            reads.report("events").count("unexpected_number")
        return tuple(event for event in found if 1 <= event.xid <= XID_MAX)

    def forget(self) -> None:
        """Let no pause outlive the session: its times are of another line."""
        for watch in self._watches.values():
            watch.retry_at_ms = None

    def interrupt(self, uuid: str) -> None:
        """Register anew as soon as the GPU answers again: it was lost, and its handle may be another then."""
        watch = self._watches.get(uuid)
        if watch is not None:
            watch.is_stale = True

    def settle(self, uuid: str) -> None:
        """Note that the GPU answered."""
        watch = self._watches.get(uuid)
        if watch is not None and watch.is_stale:
            self._drop(watch)
            watch.is_stale = False
            watch.retry_at_ms, watch.retry_ms = None, RETRY_MS_FIRST

    def disown(self, uuid: str) -> None:
        """Leave alone what a call about the GPU that hangs may still be using."""
        watch = self._watches.pop(uuid, None)
        if watch is not None and watch.events is not None:
            self._disowned.setdefault(uuid, []).append(watch.events)

    def readmit(self, uuid: str) -> None:
        """Free what was left alone: the call returned."""
        disowned = self._disowned.pop(uuid, [])
        while disowned:
            self._door.free(disowned.pop())

    def release(self) -> None:
        """Free every set, before NVML is let go of."""
        while self._watches:
            self._drop(self._watches.popitem()[1])
        for uuid in list(self._disowned):
            self.readmit(uuid)

    def _drop(self, watch: _Watch) -> None:
        if watch.events is not None:
            events, watch.events = watch.events, None
            self._door.free(events)

    def _empty(self, watch: _Watch, handle: Handle | None, found: list[XidEvent]) -> bool:
        """Take what is in the set into `found`."""
        try:
            if watch.events is None:
                watch.events = self._door.watch_xids(handle)
                watch.is_offered = watch.events is not None
            while watch.events is not None and len(found) < XIDS_PER_TICK_MAX:
                event = self._door.next_xid(watch.events)
                if event is None:
                    break
                found.append(event)
        except CallFailed as exc:
            if exc.error != "not_supported":
                raise
            self._drop(watch)
            watch.is_offered = False
        return True
