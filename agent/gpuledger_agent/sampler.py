# SPDX-License-Identifier: Apache-2.0
"""Reads every source for every GPU once per tick; a source that fails for one GPU costs only that value.

Each source has its duration, its success and its failures by error, which the agent exposes about itself. A failed
read is None; a lost GPU is `down` at once; a library that is gone ends the tick (DriverUnavailable).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuledger.states import Uncovered
from gpuledger_agent.activity import ActivitySource
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.gpm import Gpm
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import GpuLost, Handle, Nvml, ResetRequired
from gpuledger_agent.power_check import PowerCheck
from gpuledger_agent.reservations import Reservations
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder
from gpuledger_agent.sources import GpuReads, SourceReport, TickReads

_log = logging.getLogger(__name__)

PROCESS_POLL_MS = 30_000
PROCESS_AGE_MAX_MS = 2 * PROCESS_POLL_MS
HEALTH_POLL_MS = 10_000
HEALTH_AGE_MAX_MS = 30_000
INVENTORY_POLL_MS = 10_000
POWER_POLL_MS = 10_000
POWER_WINDOW_MS_MIN, POWER_WINDOW_MS_MAX = 500, 2_000
"""The driver reports the mean of a second: what is held against it must be of about the same time."""


@dataclass(slots=True)
class _Slow:
    """What is kept of one GPU between ticks: fields that are read more slowly than the tick."""

    recovery_action: int | None = None
    is_row_remap_failed: bool | None = None
    health_read_ms: int | None = None
    health_known_ms: int | None = None
    holders: tuple[Holder, ...] | None = None
    holders_read_ms: int | None = None
    holders_memory_bytes: int | None = None
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
    ) -> None:
        self._nvml = nvml
        self._gpm = Gpm(nvml)
        self._said: set[str] = set()
        self._activity = ActivitySource(nvml, now_ns, interval_ms)
        self._inventory = inventory
        self._holders = holders
        self._reservations = Reservations(holders) if reservations is None else reservations
        self._slow: dict[str, _Slow] = {}
        self._enumerated_ms: int | None = None
        self.sources: dict[str, SourceReport] = {}

    def forget(self) -> None:
        """Drop everything that was read before: the driver was let go of, or the session is new."""
        self._slow.clear()
        self._activity.forget()
        self._enumerated_ms = None

    def release(self) -> None:
        """Give back what NVML allocated, before it is let go of, and end what is under way."""
        self._activity.release()
        self._reservations.close()

    def sample(self, edge_ms: int) -> dict[str, GpuSnapshot]:
        """Return a snapshot per UUID; raises DriverUnavailable."""
        reads = TickReads(self.sources)
        try:
            self._enumerate(edge_ms, reads)
            devices = self._inventory.devices
            self._reservations.poll(edge_ms, devices, reads)
            self._activity.begin_tick({d.identity.uuid for d in devices if d.uncovered is not Uncovered.NOT_ENUMERATED})
            seen = {d.identity.uuid: self._sample_device(d, edge_ms, reads) for d in devices}
            return {uuid: self._reservations.mark(uuid, snapshot) for uuid, snapshot in seen.items()}
        finally:
            # Whoever holds the reports of a tick (a View) keeps them: they are replaced, and never changed.
            self.sources = {**self.sources, **reads.ran}

    def _enumerate(self, edge_ms: int, reads: TickReads) -> None:
        is_due = self._enumerated_ms is None or edge_ms - self._enumerated_ms >= INVENTORY_POLL_MS
        if not is_due and self._inventory.is_settled:
            return
        errors = reads.read("inventory", self._inventory.refresh)
        self._enumerated_ms = None if errors is None else edge_ms
        for error in errors or ():
            reads.report("inventory").count(error)

    def _sample_device(self, device: Device, edge_ms: int, tick: TickReads) -> GpuSnapshot:
        if device.handle is None:
            return GpuSnapshot(health=device.health, uncovered=device.uncovered)
        slow = self._slow.get(device.identity.uuid)
        if slow is None:
            slow = self._slow[device.identity.uuid] = _Slow()
        nvml, handle, reads = self._nvml, device.handle, GpuReads(tick)
        try:
            energy_mj = reads.ask("energy", nvml.energy_mj, handle)
            self._check_energy(device.identity.uuid, handle, slow, energy_mj, edge_ms, reads)
            activity = self._activity.read(device.identity.uuid, handle, reads)
            memory = reads.ask("memory", nvml.memory_bytes, handle)
            memory_used_bytes = None if memory is None else memory[0]
            health = self._health(handle, slow, edge_ms, reads)
            holders = self._processes(handle, slow, memory_used_bytes, edge_ms, reads)
        except (GpuLost, ResetRequired) as exc:
            # The next tick asks everything anew: nothing read before the loss may outlive it.
            self._slow[device.identity.uuid] = _Slow()
            self._activity.interrupt(device.identity.uuid)
            return GpuSnapshot(health=Health.LOST if isinstance(exc, GpuLost) else Health.RESET_REQUIRED)
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
            health=health,
            energy_mj=energy_mj,
            power_limit_mw=device.identity.power_limit_mw,
            memory_used_bytes=memory_used_bytes,
            memory_total_bytes=None if memory is None else memory[1],
            uncovered=Uncovered.CALLS_FAILED if reads.failed > 0 and reads.answered == 0 else None,
            rejected_values=activity.rejected_values,
        )

    # ------------------------------------------------------------------------------------------ reading

    def _health(self, handle: Handle, slow: _Slow, edge_ms: int, reads: GpuReads) -> Health | None:
        """Return what the health reads say; a fault stands until the read that found it says otherwise."""
        if slow.health_read_ms is None or edge_ms - slow.health_read_ms >= HEALTH_POLL_MS:
            slow.health_read_ms = edge_ms
            action = reads.ask("health", self._nvml.recovery_action, handle)
            is_failed = reads.ask("health", self._nvml.is_row_remap_failed, handle)
            if action is not None:
                slow.recovery_action = action
            if is_failed is not None:
                slow.is_row_remap_failed = is_failed
            if action is not None or is_failed is not None:
                slow.health_known_ms = edge_ms
        if slow.health_known_ms is None or edge_ms - slow.health_known_ms > HEALTH_AGE_MAX_MS:
            return None
        if slow.recovery_action is not None and slow.recovery_action != 0:
            return Health.RECOVERY_ACTION
        return Health.ROW_REMAP_FAILURE if slow.is_row_remap_failed is True else Health.CLEAN

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
