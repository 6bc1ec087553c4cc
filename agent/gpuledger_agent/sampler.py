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
from gpuledger.states import Uncovered
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import CallFailed, DriverUnavailable, GpuLost, Handle, Nvml, ResetRequired
from gpuledger_agent.snapshot import GpuSnapshot, Health, Holder

T = TypeVar("T")

PROCESS_POLL_MS = 30_000
PROCESS_AGE_MAX_MS = 2 * PROCESS_POLL_MS
HEALTH_POLL_MS = 10_000
HEALTH_AGE_MAX_MS = 30_000
INVENTORY_POLL_MS = 10_000


@dataclass(slots=True)
class SourceReport:
    """What a source cost and whether it answered, in the last tick it ran in."""

    duration_ns: int = 0
    is_success: bool = True
    failures: dict[str, int] = field(default_factory=dict)
    """Failed reads by NVML error, since the agent started."""
    failed: int = 0
    """Failed reads in this tick."""

    def count(self, error: str) -> None:
        self.is_success = False
        self.failed += 1
        self.failures[error] = self.failures.get(error, 0) + 1


@dataclass(slots=True)
class _Tick:
    """One GPU's reads in one tick: how many answered, how many failed; one that is not offered did neither."""

    edge_ms: int
    ran: dict[str, SourceReport]
    answered: int = 0
    failed: int = 0


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
        ran: dict[str, SourceReport] = {}
        try:
            self._enumerate(edge_ms, ran)
            return {d.identity.uuid: self._sample_device(d, edge_ms, ran) for d in self._inventory.devices}
        finally:
            # Whoever holds the reports of a tick (a View) keeps them: they are replaced, and never changed.
            self.sources = {**self.sources, **ran}

    def _enumerate(self, edge_ms: int, ran: dict[str, SourceReport]) -> None:
        is_due = self._enumerated_ms is None or edge_ms - self._enumerated_ms >= INVENTORY_POLL_MS
        if not is_due and self._inventory.is_settled:
            return
        report = self._report("inventory", ran)
        errors = self._read(report, self._inventory.refresh)
        self._enumerated_ms = None if errors is None else edge_ms
        for error in errors or ():
            report.count(error)

    def _sample_device(self, device: Device, edge_ms: int, ran: dict[str, SourceReport]) -> GpuSnapshot:
        if device.handle is None:
            return GpuSnapshot(health=device.health, uncovered=device.uncovered)
        slow = self._slow.get(device.identity.uuid)
        if slow is None:
            slow = self._slow[device.identity.uuid] = _Slow()
        nvml, handle = self._nvml, device.handle
        tick = _Tick(edge_ms=edge_ms, ran=ran)
        try:
            energy_mj = self._ask("energy", nvml.energy_mj, handle, tick)
            percent = self._ask("activity", nvml.utilization_percent, handle, tick)
            memory = self._ask("memory", nvml.memory_bytes, handle, tick)
            memory_used_bytes = None if memory is None else memory[0]
            health = self._health(handle, slow, tick)
            holders = self._processes(handle, slow, memory_used_bytes, tick)
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
            uncovered=Uncovered.CALLS_FAILED if tick.failed > 0 and tick.answered == 0 else None,
            rejected_values=int(is_rejected),
        )

    # ------------------------------------------------------------------------------------------ reading

    def _report(self, source: str, ran: dict[str, SourceReport]) -> SourceReport:
        report = ran.get(source)
        if report is None:
            report = ran[source] = SourceReport()
            if source in self.sources:
                report.failures = dict(self.sources[source].failures)
        return report

    def _ask(self, source: str, read: Callable[[Handle], T | None], handle: Handle, tick: _Tick) -> T | None:
        """Read one value of one GPU, and count whether it answered."""
        report = self._report(source, tick.ran)
        failures = report.failed
        value = self._read(report, read, handle)
        if value is not None:
            tick.answered += 1
        elif report.failed > failures:
            tick.failed += 1
        return value

    @staticmethod
    def _read(report: SourceReport, read: Callable[..., T | None], *arguments: Handle) -> T | None:
        """Call a read; a failure for one GPU is counted and gives None, any other is counted and goes on up."""
        began_ns = monotonic_ns()
        try:
            return read(*arguments)
        except CallFailed as exc:
            report.count(exc.error)
            return None
        except (GpuLost, ResetRequired) as exc:
            report.count("gpu_is_lost" if isinstance(exc, GpuLost) else "reset_required")
            raise
        except DriverUnavailable as exc:
            report.count(exc.reason)
            raise
        finally:
            report.duration_ns += monotonic_ns() - began_ns

    def _health(self, handle: Handle, slow: _Slow, tick: _Tick) -> Health | None:
        """Return what the health reads say; a fault stands until the read that found it says otherwise."""
        if slow.health_read_ms is None or tick.edge_ms - slow.health_read_ms >= HEALTH_POLL_MS:
            slow.health_read_ms = tick.edge_ms
            action = self._ask("health", self._nvml.recovery_action, handle, tick)
            is_failed = self._ask("health", self._nvml.is_row_remap_failed, handle, tick)
            if action is not None:
                slow.recovery_action = action
            if is_failed is not None:
                slow.is_row_remap_failed = is_failed
            if action is not None or is_failed is not None:
                slow.health_known_ms = tick.edge_ms
        if slow.health_known_ms is None or tick.edge_ms - slow.health_known_ms > HEALTH_AGE_MAX_MS:
            return None
        if slow.recovery_action is not None and slow.recovery_action != 0:
            return Health.RECOVERY_ACTION
        return Health.ROW_REMAP_FAILURE if slow.is_row_remap_failed is True else Health.CLEAN

    def _processes(
        self, handle: Handle, slow: _Slow, memory_used_bytes: int | None, tick: _Tick
    ) -> tuple[Holder, ...] | None:
        """Return the holders; the list is read only when memory changed, when it is old, or after a failure.

        A context takes hundreds of MiB, so processes do not come or go without the used memory changing; the list
        is the slowest of the common calls.
        """
        is_changed = memory_used_bytes is None or memory_used_bytes != slow.holders_memory_bytes
        is_due = slow.holders_read_ms is None or tick.edge_ms - slow.holders_read_ms >= PROCESS_POLL_MS
        if is_changed or is_due:
            processes = self._ask("processes", self._nvml.processes, handle, tick)
            if processes is not None:
                slow.holders = self._holders.resolve(processes)
                slow.holders_read_ms = tick.edge_ms
                slow.holders_memory_bytes = memory_used_bytes
            elif is_changed:
                # The old list is known to be out of date.
                slow.holders = None
                slow.holders_read_ms = None
        if slow.holders_read_ms is None or tick.edge_ms - slow.holders_read_ms > PROCESS_AGE_MAX_MS:
            return None
        return slow.holders
