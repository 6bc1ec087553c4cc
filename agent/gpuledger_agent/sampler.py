# SPDX-License-Identifier: Apache-2.0
"""Reads every source for every GPU once per tick; a source that fails for one GPU costs only that value.

Each source has its duration, its success and its failures by error, which the agent exposes about itself. A failed
read is None; a lost GPU is `down` at once; a library that is gone ends the tick (DriverUnavailable).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from gpuledger.clock import monotonic_ns
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import CallFailed, GpuLost, Nvml, ResetRequired
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder

T = TypeVar("T")

PROCESS_POLL_MS = 30_000
PROCESS_AGE_MAX_MS = 2 * PROCESS_POLL_MS
HEALTH_POLL_MS = 10_000
HEALTH_AGE_MAX_MS = 30_000
INVENTORY_POLL_MS = 10_000

SOURCES = ("activity", "energy", "health", "memory", "processes")


@dataclass(slots=True)
class SourceReport:
    """What a source cost and whether it answered, in the last tick it ran in."""

    duration_ns: int = 0
    is_success: bool = True
    failures: dict[str, int] = field(default_factory=dict)
    """Failed reads by NVML error, since the agent started."""


@dataclass(slots=True)
class _Slow:
    """What is kept of one GPU between ticks: fields that are read more slowly than the tick."""

    health: Health | None = None
    health_read_ms: int | None = None
    health_known_ms: int | None = None
    holders: tuple[Holder, ...] | None = None
    holders_read_ms: int | None = None
    holders_memory_bytes: int | None = None


class Sampler:
    """Takes one snapshot of every known GPU; all times are the tick's edge in milliseconds."""

    def __init__(self, nvml: Nvml, inventory: Inventory, holders: Holders) -> None:
        self._nvml = nvml
        self._inventory = inventory
        self._holders = holders
        self._slow: dict[str, _Slow] = {}
        self._enumerated_ms: int | None = None
        self.sources: dict[str, SourceReport] = {}

    def forget(self) -> None:
        """Drop everything that was read before: the driver was let go of, or the session is new."""
        self._slow.clear()
        self._enumerated_ms = None

    def sample(self, edge_ms: int) -> dict[str, GpuSnapshot]:
        """Return a snapshot per UUID; raises DriverUnavailable."""
        if self._enumerated_ms is None or edge_ms - self._enumerated_ms >= INVENTORY_POLL_MS:
            self._inventory.refresh()
            self._enumerated_ms = edge_ms
        ran: dict[str, SourceReport] = {}
        snapshots = {d.identity.uuid: self._sample_device(d, edge_ms, ran) for d in self._inventory.devices}
        self.sources.update(ran)
        return snapshots

    def _sample_device(self, device: Device, edge_ms: int, ran: dict[str, SourceReport]) -> GpuSnapshot:
        if device.handle is None:
            return GpuSnapshot(health=device.health, uncovered=device.uncovered)
        slow = self._slow.get(device.identity.uuid)
        if slow is None:
            slow = self._slow[device.identity.uuid] = _Slow()
        handle = device.handle
        nvml = self._nvml
        try:
            energy_mj = self._read("energy", lambda: nvml.energy_mj(handle), ran)
            percent = self._read("activity", lambda: nvml.utilization_percent(handle), ran)
            memory = self._read("memory", lambda: nvml.memory_bytes(handle), ran)
            health = self._health(device, slow, edge_ms, ran)
            memory_used_bytes = None if memory is None else memory[0]
            holders = self._processes(device, slow, memory_used_bytes, edge_ms, ran)
        except (GpuLost, ResetRequired) as exc:
            # The next tick asks everything anew: nothing read before the loss may outlive it.
            self._slow[device.identity.uuid] = _Slow()
            return GpuSnapshot(health=Health.LOST if isinstance(exc, GpuLost) else Health.RESET_REQUIRED)
        is_rejected = percent is not None and not 0 <= percent <= 100
        return GpuSnapshot(
            activity_ppm=None if percent is None or is_rejected else percent * 10_000,
            activity_source="polled",
            holders=holders,
            health=health,
            energy_mj=energy_mj,
            memory_used_bytes=memory_used_bytes,
            rejected_values=int(is_rejected),
        )

    def _read(self, source: str, read: Callable[[], T | None], ran: dict[str, SourceReport]) -> T | None:
        report = ran.get(source)
        if report is None:
            report = ran[source] = SourceReport()
            if source in self.sources:
                report.failures = self.sources[source].failures
        began_ns = monotonic_ns()
        try:
            return read()
        except CallFailed as exc:
            report.is_success = False
            report.failures[exc.error] = report.failures.get(exc.error, 0) + 1
            return None
        except (GpuLost, ResetRequired) as exc:
            name = "gpu_is_lost" if isinstance(exc, GpuLost) else "reset_required"
            report.is_success = False
            report.failures[name] = report.failures.get(name, 0) + 1
            raise
        finally:
            report.duration_ns += monotonic_ns() - began_ns

    def _health(self, device: Device, slow: _Slow, edge_ms: int, ran: dict[str, SourceReport]) -> Health | None:
        if slow.health_read_ms is None or edge_ms - slow.health_read_ms >= HEALTH_POLL_MS:
            slow.health_read_ms = edge_ms
            action = self._read("health", lambda: self._nvml.recovery_action(device.handle), ran)
            is_failed = self._read("health", lambda: self._nvml.is_row_remap_failed(device.handle), ran)
            if action is not None or is_failed is not None:
                slow.health_known_ms = edge_ms
                slow.health = Health.CLEAN
                if action is not None and action != 0:
                    slow.health = Health.RECOVERY_ACTION
                elif is_failed is True:
                    slow.health = Health.ROW_REMAP_FAILURE
        if slow.health_known_ms is None or edge_ms - slow.health_known_ms > HEALTH_AGE_MAX_MS:
            return None
        return slow.health

    def _processes(
        self, device: Device, slow: _Slow, memory_used_bytes: int | None, edge_ms: int, ran: dict[str, SourceReport]
    ) -> tuple[Holder, ...] | None:
        """Return the holders; the list is read only when memory changed, when it is old, or after a failure.

        A context takes hundreds of MiB, so processes do not come or go without the used memory changing; the list
        is the slowest of the common calls.
        """
        is_changed = memory_used_bytes is None or memory_used_bytes != slow.holders_memory_bytes
        is_due = slow.holders_read_ms is None or edge_ms - slow.holders_read_ms >= PROCESS_POLL_MS
        if is_changed or is_due:
            processes = self._read("processes", lambda: self._nvml.processes(device.handle), ran)
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
