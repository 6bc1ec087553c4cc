# SPDX-License-Identifier: Apache-2.0
"""Reads every source for every GPU once per tick; a source that fails for one GPU costs only that value.

Each source has its duration, its success and its failures by error, which the agent exposes about itself. A failed
read is None; a lost GPU is `down` at once; a library that is gone ends the tick (DriverUnavailable).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from gpuledger.states import Uncovered
from gpuledger_agent.activity import ActivitySource
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.events import XidSource
from gpuledger_agent.health import HEALTH_POLL_MS, HealthSource
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import DriverUnavailable, GpuLost, Handle, Nvml, ResetRequired
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder
from gpuledger_agent.sources import GpuReads, SourceReport, TickReads

PROCESS_POLL_MS = 30_000
PROCESS_AGE_MAX_MS = 2 * PROCESS_POLL_MS
INVENTORY_POLL_MS = 10_000


@dataclass(slots=True)
class _Slow:
    """What is kept of one GPU between ticks: fields that are read more slowly than the tick."""

    holders: tuple[Holder, ...] | None = None
    holders_read_ms: int | None = None
    holders_memory_bytes: int | None = None


class Sampler:
    """Takes one snapshot of every known GPU; all times are the tick's edge in milliseconds."""

    def __init__(
        self,
        nvml: Nvml,
        inventory: Inventory,
        holders: Holders,
        now_ns: Callable[[], int],
        interval_ms: int,
        *,
        health_poll_ms: int = HEALTH_POLL_MS,
    ) -> None:
        self._nvml = nvml
        self._activity = ActivitySource(nvml, now_ns, interval_ms)
        self._xids = XidSource(nvml)
        self._health = HealthSource(nvml, health_poll_ms)
        self._inventory = inventory
        self._holders = holders
        self._slow: dict[str, _Slow] = {}
        self._enumerated_ms: int | None = None
        self._seen: dict[str, GpuSnapshot] = {}
        self.sources: dict[str, SourceReport] = {}

    @property
    def seen(self) -> Mapping[str, GpuSnapshot]:
        """Return what the current, or the last, tick has seen so far."""
        return self._seen

    def forget(self) -> None:
        """Drop everything that was read before: the driver was let go of, or the session is new."""
        self._slow.clear()
        self._activity.forget()
        self._xids.forget()
        self._health.forget()
        self._enumerated_ms = None

    def release(self) -> None:
        """Give back what NVML allocated, before it is let go of."""
        self._activity.release()
        self._xids.release()

    def disown(self, uuid: str) -> None:
        """Leave alone what belongs to a GPU of which a call hangs: the call may still be using it."""
        self._slow.pop(uuid, None)
        self._health.interrupt(uuid)
        self._activity.disown(uuid)
        self._xids.disown(uuid)

    def readmit(self, uuid: str) -> None:
        """Take a GPU back whose call returned; nothing read of it before counts."""
        self._activity.readmit(uuid)
        self._xids.readmit(uuid)

    def sample(self, edge_ms: int, hung: Collection[str] = ()) -> dict[str, GpuSnapshot]:
        """Return a snapshot per UUID; raises DriverUnavailable. Nothing is asked about the GPUs in `hung`."""
        reads = TickReads(self.sources)
        seen = self._seen = {}
        try:
            self._enumerate(edge_ms, hung, reads)
            devices = self._inventory.devices
            self._activity.begin_tick({d.identity.uuid for d in devices if d.uncovered is not Uncovered.NOT_ENUMERATED})
            for device in devices:
                uuid = device.identity.uuid
                if uuid in hung:
                    seen[uuid] = GpuSnapshot(uncovered=Uncovered.CALLS_FAILED)
                else:
                    self._nvml.about(uuid)
                    seen[uuid] = self._sample_device(device, edge_ms, reads)
        except DriverUnavailable:
            self._publish(reads)
            raise
        self._publish(reads)
        return seen

    def _publish(self, reads: TickReads) -> None:
        # Whoever holds the reports of a tick (a View) keeps them: they are replaced, and never changed. Not done in a
        # thread that was given up: what it knows is out of date.
        self.sources = {**self.sources, **reads.ran}

    def _enumerate(self, edge_ms: int, hung: Collection[str], reads: TickReads) -> None:
        is_due = self._enumerated_ms is None or edge_ms - self._enumerated_ms >= INVENTORY_POLL_MS
        if not is_due and self._inventory.is_settled:
            return
        errors = reads.read("inventory", self._inventory.refresh, hung)
        self._enumerated_ms = None if errors is None else edge_ms
        for error in errors or ():
            reads.report("inventory").count(error)

    def _sample_device(self, device: Device, edge_ms: int, tick: TickReads) -> GpuSnapshot:
        uuid, handle = device.identity.uuid, device.handle
        # Before all else: a GPU that falls off the bus says so in an event, and answers nothing after it.
        events = self._xids.poll(uuid, handle, edge_ms, tick)
        self._health.note(uuid, events, edge_ms)
        xids = tuple((event.xid, event.instance) for event in events)
        if handle is None:
            self._xids.interrupt(uuid)
            return GpuSnapshot(health=device.health, uncovered=device.uncovered, error=device.error, xids=xids)
        slow = self._slow.get(uuid)
        if slow is None:
            slow = self._slow[uuid] = _Slow()
        nvml, reads = self._nvml, GpuReads(tick)
        try:
            energy_mj = reads.ask("energy", nvml.energy_mj, handle)
            activity = self._activity.read(uuid, handle, reads)
            memory = reads.ask("memory", nvml.memory_bytes, handle)
            memory_used_bytes = None if memory is None else memory[0]
            health = self._health.read(uuid, handle, edge_ms, reads)
            holders = self._processes(handle, slow, memory_used_bytes, edge_ms, reads)
        except (GpuLost, ResetRequired) as exc:
            # The next tick asks everything anew: nothing read before the loss may outlive it.
            self._slow[uuid] = _Slow()
            self._activity.interrupt(uuid)
            self._health.interrupt(uuid)
            self._xids.interrupt(uuid)
            return GpuSnapshot(health=Health.LOST if isinstance(exc, GpuLost) else Health.RESET_REQUIRED, xids=xids)
        is_silent = reads.failed > 0 and reads.answered == 0
        if not is_silent:
            self._xids.settle(uuid)
        return GpuSnapshot(
            activity_ppm=activity.activity_ppm,
            activity_source=activity.source,
            sm_active_ppm=activity.sm_active_ppm,
            sm_occupancy_ppm=activity.sm_occupancy_ppm,
            tensor_active_ppm=activity.tensor_active_ppm,
            dram_active_ppm=activity.dram_active_ppm,
            holders=holders,
            health=health.health,
            health_facts=health.facts,
            energy_mj=energy_mj,
            memory_used_bytes=memory_used_bytes,
            uncovered=Uncovered.CALLS_FAILED if is_silent else None,
            error=reads.only_error if is_silent else None,
            rejected_values=activity.rejected_values + health.rejected_values,
            xids=xids,
            throttled=health.throttled,
            ecc_errors=health.ecc_errors,
        )

    # ------------------------------------------------------------------------------------------ reading

    def _processes(
        self, handle: Handle, slow: _Slow, memory_used_bytes: int | None, edge_ms: int, reads: GpuReads
    ) -> tuple[Holder, ...] | None:
        """Return the holders; the list is read only when memory changed, when it is old, or after a failure.

        A context takes hundreds of MiB, so processes do not come or go without the used memory changing; the list
        is the slowest of the common calls.
        """
        is_changed = memory_used_bytes is None or memory_used_bytes != slow.holders_memory_bytes
        is_due = slow.holders_read_ms is None or edge_ms - slow.holders_read_ms >= PROCESS_POLL_MS
        if is_changed or is_due:
            processes = reads.ask("processes", self._nvml.processes, handle)
            if processes is not None:
                slow.holders = self._holders.resolve(processes)
                slow.holders_read_ms = edge_ms
                slow.holders_memory_bytes = memory_used_bytes
            elif is_changed:
                # The old list is known to be out of date.
                slow.holders = None
                slow.holders_read_ms = None
        if slow.holders_read_ms is None or edge_ms - slow.holders_read_ms > PROCESS_AGE_MAX_MS:
            return None
        return slow.holders
