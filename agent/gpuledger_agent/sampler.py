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
from gpuledger_agent.activity import GPM_SOURCE, Activity, ActivitySource
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.energy import EnergySource
from gpuledger_agent.events import EVENTS, XidSource
from gpuledger_agent.health import HEALTH_POLL_MS, HealthSource
from gpuledger_agent.holders import HolderList, Holders
from gpuledger_agent.instances import BoardSeen, InstanceSource
from gpuledger_agent.nvml import DriverUnavailable, GpuLost, Handle, Nvml, ResetRequired
from gpuledger_agent.nvml_fields import FI_ENERGY, FI_POWER_AVERAGE, NO_ANSWERS, FieldAnswers, NvmlFields
from gpuledger_agent.nvml_health import FI_ECC
from gpuledger_agent.reservations import Reservations
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder, InstanceSnapshot
from gpuledger_agent.sources import GpuReads, SourceReport, TickReads

_log = logging.getLogger(__name__)

INVENTORY_POLL_MS = 60_000
"""How often GPUs are looked up while all of them answer."""
INVENTORY_DOUBT_MS = 10_000
"""How often they are counted, and looked up where one does not answer or could not be told apart."""
_SOURCES = {
    FI_ENERGY: "energy",
    FI_POWER_AVERAGE: "power",
    **dict.fromkeys(FI_ECC.values(), "ecc"),
}
"""Field -> whose failure it is where it fails; that of every other is health's."""


@dataclass(slots=True)
class _Slow:
    """What is kept of one GPU between ticks: fields that are read more slowly than the tick."""

    processes: HolderList = field(default_factory=HolderList)
    is_on_instances: bool = False
    """The last list of processes had some on GPU instances."""


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
        self._fields = NvmlFields(nvml)
        self._energy = EnergySource(nvml)
        self._activity = ActivitySource(nvml, now_ns, interval_ms)
        self._xids = XidSource(nvml)
        self._health = HealthSource(nvml, health_poll_ms)
        self._inventory = inventory
        self._holders = holders
        self._reservations = Reservations(holders) if reservations is None else reservations
        self._instances = InstanceSource(nvml, self._activity, holders)
        self._slow: dict[str, _Slow] = {}
        self._enumerated_ms: int | None = None
        self._counted_ms = 0
        self._is_doubtful = False
        """Not every GPU answered in the last tick."""
        self._seen: dict[str, GpuSnapshot] = {}
        self.sources: dict[str, SourceReport] = {}

    @property
    def seen(self) -> Mapping[str, GpuSnapshot]:
        """Return what the current, or the last, tick has seen so far."""
        return self._seen

    def forget(self) -> None:
        """Drop everything that was read before: the driver was let go of, or the session is new."""
        self._slow.clear()
        self._energy.forget()
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
        """Leave alone what belongs to a GPU (or EVENTS) of which a call hangs: the call may still be using it."""
        self._slow.pop(uuid, None)
        self._energy.interrupt(uuid)
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
        was_doubtful, self._is_doubtful = self._is_doubtful, True
        try:
            self._enumerate(edge_ms, hung, reads, INVENTORY_DOUBT_MS if was_doubtful else INVENTORY_POLL_MS)
            devices = self._inventory.devices
            self._reservations.poll(edge_ms, devices, reads)
            there = {d.identity.uuid for d in devices if d.uncovered is not Uncovered.NOT_ENUMERATED}
            self._activity.begin_tick(there)
            self._instances.keep(there)
            handles = {d.identity.uuid: d.handle for d in devices if d.identity.uuid not in hung}
            # Before all else: a GPU that falls off the bus says so in an event, and answers nothing after it.
            self._xids.listen(handles, edge_ms, reads, is_hung=EVENTS in hung)
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
        self._is_doubtful = self._inventory.unidentified > 0 or not all(one.is_looked_at for one in seen.values())
        return seen

    def _publish(self, reads: TickReads) -> None:
        # Whoever holds the reports of a tick (a View) keeps them: they are replaced, and never changed. Not done in a
        # thread that was given up: what it knows is out of date.
        self.sources = {**self.sources, **reads.ran}

    def _enumerate(self, edge_ms: int, hung: Collection[str], reads: TickReads, poll_ms: int) -> None:
        is_due = self._enumerated_ms is None or edge_ms - self._enumerated_ms >= poll_ms
        if not is_due and self._inventory.is_settled:
            if edge_ms - self._counted_ms < INVENTORY_DOUBT_MS:
                return
            is_changed = reads.read("inventory", self._inventory.is_changed)
            if is_changed is not None:
                self._counted_ms = edge_ms
            if not is_changed:
                return
        errors = reads.read("inventory", self._inventory.refresh, hung)
        self._enumerated_ms = None if errors is None else edge_ms
        self._counted_ms = edge_ms
        for error in errors or ():
            reads.report("inventory").count(error)

    def _sample_device(self, device: Device, edge_ms: int, tick: TickReads) -> GpuSnapshot:
        uuid, handle = device.identity.uuid, device.handle
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
            self._energy.interrupt(uuid)
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
        answers = self._read_fields(uuid, handle, edge_ms, reads)
        energy_mj = self._energy.read(uuid, handle, edge_ms, answers, reads)
        parts: list[Activity] = []
        if division is None:
            activity = self._activity.read(uuid, handle, reads)
            self._instances.hear(uuid, is_whole=activity.source == GPM_SOURCE)
        else:
            parts = self._instances.read_activity(uuid, handle, division, reads)
        memory = reads.ask("memory", nvml.memory_bytes, handle)
        memory_used_bytes = None if memory is None else memory[0]
        if division is None:
            self._health.keep_instances(uuid, None, edge_ms)
        elif division.instances is not None:
            self._health.keep_instances(uuid, [found.identity for found in division.instances], edge_ms)
        health = self._health.read(uuid, handle, edge_ms, answers, reads)
        board_health = health.of_undivided
        instances: tuple[InstanceSnapshot, ...] | None = ()
        if division is None or division.instances is None:
            instances = () if division is None else None
            holders = self._processes(uuid, handle, slow, memory_used_bytes, edge_ms, reads)
            if division is None and slow.is_on_instances:
                # It was divided since its mode was looked at: what the whole GPU says of itself is not to be believed.
                activity = Activity()
        else:
            slow.processes = HolderList()
            board_health = health.health
            seen = BoardSeen(edge_ms=edge_ms, health=health, memory_used_bytes=memory_used_bytes)
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
            health=board_health,
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

    def _read_fields(self, uuid: str, handle: Handle, edge_ms: int, reads: GpuReads) -> FieldAnswers:
        """Return what the GPU's fields say that this tick wants, all from one call."""
        wanted = self._energy.fields(uuid, edge_ms) + self._health.fields(uuid, edge_ms)
        if not wanted:
            return NO_ANSWERS
        failed = reads.failed
        answers = reads.ask("fields", self._fields.read, handle, wanted)
        if answers is None:
            return FieldAnswers(is_failed=reads.failed > failed)
        for field_id, error in answers.errors.items():
            reads.count(_SOURCES.get(field_id, "health"), error)
        return answers

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
