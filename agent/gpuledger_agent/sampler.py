# SPDX-License-Identifier: Apache-2.0
"""Reads every source for every GPU once per tick; a source that fails for one GPU costs only that value.

Each source has its duration, its success and its failures by error, which the agent exposes about itself. A failed
read is None; a lost GPU is `down` at once; a library that is gone ends the tick (DriverUnavailable).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from gpuledger.states import Uncovered
from gpuledger_agent.activity import Activity, ActivitySource
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.events import XidSource
from gpuledger_agent.gpm import Gpm
from gpuledger_agent.health import HEALTH_POLL_MS, HealthSource
from gpuledger_agent.holders import HolderList, Holders
from gpuledger_agent.instances import BoardSeen, InstanceSource
from gpuledger_agent.nvml import DriverUnavailable, GpuLost, Handle, Nvml, ResetRequired
from gpuledger_agent.power_check import PowerCheck
from gpuledger_agent.reservations import Reservations
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder, InstanceSnapshot
from gpuledger_agent.sources import GpuReads, SourceReport, TickReads

_log = logging.getLogger(__name__)

INVENTORY_POLL_MS = 10_000
POWER_POLL_MS = 10_000
POWER_WINDOW_MS_MIN, POWER_WINDOW_MS_MAX = 500, 2_000
"""The driver reports the mean of a second: what is held against it must be of about the same time."""


@dataclass(slots=True)
class _Slow:
    """What is kept of one GPU between ticks: fields that are read more slowly than the tick."""

    processes: HolderList = field(default_factory=HolderList)
    is_on_instances: bool = False
    """The last list of processes had some on GPU instances."""
    energy: tuple[int, int] | None = None
    """The odometer in the last tick, mJ, and that tick's edge."""
    power_read_ms: int | None = None
    power_check: PowerCheck = field(default_factory=PowerCheck)


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
        reservations: Reservations | None = None,
        health_poll_ms: int = HEALTH_POLL_MS,
    ) -> None:
        self._nvml = nvml
        self._gpm = Gpm(nvml)
        self._said: set[str] = set()
        self._activity = ActivitySource(nvml, now_ns, interval_ms)
        self._xids = XidSource(nvml)
        self._health = HealthSource(nvml, health_poll_ms)
        self._inventory = inventory
        self._holders = holders
        self._reservations = Reservations(holders) if reservations is None else reservations
        self._instances = InstanceSource(nvml, self._activity, holders)
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
        self._instances.forget()
        self._xids.forget()
        self._health.forget()
        self._enumerated_ms = None

    def release(self) -> None:
        """Give back what NVML allocated, before it is let go of, and end what is under way."""
        self._activity.release()
        self._xids.release()
        self._reservations.close()

    def disown(self, uuid: str) -> None:
        """Leave alone what belongs to a GPU of which a call hangs: the call may still be using it."""
        self._slow.pop(uuid, None)
        self._health.interrupt(uuid)
        self._activity.disown(uuid)
        self._instances.interrupt(uuid)
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
            self._reservations.poll(edge_ms, devices, reads)
            there = {d.identity.uuid for d in devices if d.uncovered is not Uncovered.NOT_ENUMERATED}
            self._activity.begin_tick(there)
            self._instances.keep(there)
            for device in devices:
                uuid = device.identity.uuid
                if uuid in hung:
                    seen[uuid] = GpuSnapshot(uncovered=Uncovered.CALLS_FAILED)
                else:
                    self._nvml.about(uuid)
                    seen[uuid] = self._mark(uuid, self._sample_device(device, edge_ms, reads))
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
        try:
            return replace(self._look_at(device, handle, slow, edge_ms, GpuReads(tick)), xids=xids)
        except (GpuLost, ResetRequired) as exc:
            # The next tick asks everything anew: nothing read before the loss may outlive it.
            self._slow[uuid] = _Slow()
            self._activity.interrupt(uuid)
            self._instances.interrupt(uuid)
            self._health.interrupt(uuid)
            self._xids.interrupt(uuid)
            return GpuSnapshot(health=Health.LOST if isinstance(exc, GpuLost) else Health.RESET_REQUIRED, xids=xids)

    def _mark(self, uuid: str, snapshot: GpuSnapshot) -> GpuSnapshot:
        """Return the snapshot with what is allocated: an instance by its own UUID, or with the whole GPU."""
        marked = self._reservations.mark(uuid, snapshot)
        if not marked.instances:
            return marked
        instances = []
        for instance in marked.instances:
            seen = self._reservations.mark(instance.identity.uuid, instance.seen)
            if marked.is_allocated is True and seen.is_allocated is not True:
                seen = replace(seen, is_allocated=True, allocated_to=marked.allocated_to)
            instances.append(replace(instance, seen=seen))
        return replace(marked, instances=tuple(instances))

    def _look_at(self, device: Device, handle: Handle, slow: _Slow, edge_ms: int, reads: GpuReads) -> GpuSnapshot:
        uuid, nvml, activity = device.identity.uuid, self._nvml, Activity()
        division = self._instances.find(uuid, handle, edge_ms, reads)
        energy_mj = reads.ask("energy", nvml.energy_mj, handle)
        self._check_energy(uuid, handle, slow, energy_mj, edge_ms, reads)
        parts: list[Activity] = []
        if division is None:
            activity = self._activity.read(uuid, handle, reads)
        else:
            parts = self._instances.read_activity(uuid, handle, division, reads)
        memory = reads.ask("memory", nvml.memory_bytes, handle)
        memory_used_bytes = None if memory is None else memory[0]
        health = self._health.read(uuid, handle, edge_ms, reads)
        instances: tuple[InstanceSnapshot, ...] | None = ()
        if division is None or division.instances is None:
            instances = () if division is None else None
            holders = self._processes(uuid, handle, slow, memory_used_bytes, edge_ms, reads)
            if division is None and slow.is_on_instances:
                # It was divided since its mode was looked at: what the whole GPU says of itself is not to be believed.
                activity = Activity()
        else:
            slow.processes = HolderList()
            seen = BoardSeen(edge_ms=edge_ms, health=health.health, memory_used_bytes=memory_used_bytes)
            instances, holders = self._instances.read_rest(uuid, handle, division.instances, parts, seen, reads)
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
            link_bytes=activity.link_bytes,
            counts=activity.counts,
            high_activity_ms=activity.high_activity_ms,
            holders=holders,
            health=health.health,
            health_facts=health.facts,
            energy_mj=energy_mj,
            power_limit_mw=device.identity.power_limit_mw,
            memory_used_bytes=memory_used_bytes,
            memory_total_bytes=None if memory is None else memory[1],
            uncovered=Uncovered.CALLS_FAILED if is_silent else None,
            error=reads.only_error if is_silent else None,
            rejected_values=sum((part.rejected_values for part in parts), activity.rejected_values)
            + health.rejected_values,
            throttled=health.throttled,
            ecc_errors=health.ecc_errors,
            is_divided=division is not None,
            instances=instances,
        )

    # ------------------------------------------------------------------------------------------ reading

    def _check_energy(
        self, uuid: str, handle: Handle, slow: _Slow, energy_mj: int | None, edge_ms: int, reads: GpuReads
    ) -> None:
        """Hold the energy counter against the power that the driver reports, now and then."""
        before, slow.energy = slow.energy, None if energy_mj is None else (energy_mj, edge_ms)
        if before is None or energy_mj is None or energy_mj < before[0]:
            return
        time_ms = edge_ms - before[1]
        is_due = slow.power_read_ms is None or edge_ms - slow.power_read_ms >= POWER_POLL_MS
        if not is_due or not POWER_WINDOW_MS_MIN <= time_ms <= POWER_WINDOW_MS_MAX:
            return
        slow.power_read_ms = edge_ms
        reported_mw = reads.ask("power", self._gpm.reported_power_mw, handle)
        if reported_mw is None:
            return
        means_mw = slow.power_check.offer(1000 * (energy_mj - before[0]) / time_ms, reported_mw)
        if means_mw is None:
            return
        reads.count("energy", "disagreement")
        if uuid not in self._said:
            self._said.add(uuid)
            counted_w, reported_w = (round(mean_mw / 1000, 1) for mean_mw in means_mw)
            _log.warning("energy_disagrees", extra={"uuid": uuid, "counted_w": counted_w, "reported_w": reported_w})

    def _processes(
        self,
        uuid: str,
        handle: Handle,
        slow: _Slow,
        memory_used_bytes: int | None,
        edge_ms: int,
        reads: GpuReads,
    ) -> tuple[Holder, ...] | None:
        if slow.processes.is_due(memory_used_bytes, edge_ms):
            processes = reads.ask("processes", self._nvml.processes, handle)
            slow.is_on_instances = any(process.instance is not None for process in processes or ())
            if slow.is_on_instances:
                self._instances.doubt(uuid)
            resolved = None if processes is None else self._holders.resolve(processes)
            slow.processes.take(resolved, memory_used_bytes, edge_ms)
        return slow.processes.holders(edge_ms)
