# SPDX-License-Identifier: Apache-2.0
"""The agent's loop: one thread that ticks on its own clock, meters, seals and publishes what requests may read.

A scrape, a poll or nobody asking changes no figure. Each tick publishes one immutable View.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gpuledger.clock import Clock
from gpuledger.states import State, Uncovered
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.decision import Floors
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.meter import Meter
from gpuledger_agent.nvml import DriverUnavailable, Identity, Nvml
from gpuledger_agent.sampler import Sampler
from gpuledger_agent.sealer import Origin, Sealer
from gpuledger_agent.snapshot import GpuSnapshot
from gpuledger_agent.sources import SourceReport
from gpuledger_agent.tally import Tally

_log = logging.getLogger(__name__)

CLOCK_STEP_MS_MAX = 1_000
CATCH_UP_SPANS = 12
ATTACH_RETRY_MS_FIRST = 1_000
ATTACH_RETRY_MS_MAX = 60_000
_NS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One GPU as of the last tick."""

    identity: Identity
    result: State | Uncovered
    seen: GpuSnapshot
    power_mw: float | None
    total: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What requests may read: everything as of the last tick, never changed afterwards."""

    gpus: tuple[GpuView, ...] = ()
    edge_ms: int | None = None
    tick_boottime_ns: int | None = None
    ticks: int = 0
    sessions: Mapping[str, int]
    sources: Mapping[str, SourceReport]
    is_attached: bool = False
    driver_version: str | None = None
    unidentified: int = 0
    driver_failures: Mapping[str, int]
    sealed: int = 0
    seal_failures: int = 0
    seals_dropped: int = 0
    crash_file_failures: int = 0
    seals_pending: int = 0
    last_sequence: int = 0
    journal_bytes: int = 0


@dataclass(slots=True)
class _Session:
    """One stretch on one timeline: wall clock at its start + CLOCK_BOOTTIME since."""

    name: str
    wall_start_ns: int
    boot_start_ns: int
    not_before_ms: int
    meter: Meter
    is_waiting_said: bool = False

    def time_ms(self, boottime_ns: int) -> int:
        return (self.wall_start_ns + boottime_ns - self.boot_start_ns + _NS // 2) // _NS

    def boottime_ns(self, time_ms: int) -> int:
        return time_ms * _NS - self.wall_start_ns + self.boot_start_ns


class Agent:
    """Ties the sources, the meter and the sealer together; `run` is the whole program but for HTTP."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        node_name: str,
        boot_id: str,
        clock: Clock,
        nvml: Nvml,
        holders: Holders,
        journal: Journal,
        sealer: Sealer,
        entropy: Callable[[int], bytes] = os.urandom,
        is_catching_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config = config
        self._clock = clock
        self._nvml = nvml
        self._inventory = Inventory(nvml)
        self._holders = holders
        self._sampler = Sampler(nvml, self._inventory, holders, clock.boottime_ns, config.interval_ms)
        self._journal = journal
        self._sealer = sealer
        self._entropy = entropy
        self._is_catching_up = is_catching_up
        self._floors: dict[str, Floors] = {}
        self._totals: dict[str, Tally] = {}
        self._origin = Origin(
            node_name=node_name,
            session="",
            boot_id=boot_id,
            interval_ms=config.interval_ms,
            configuration_digest=config.digest(),
            is_simulated=nvml.is_simulated,
            wall_offset_ms=0,
        )
        self._is_attached = False
        self._is_driver_read = False
        self._driver_version: str | None = None
        self._driver_failures: dict[str, int] = {}
        self._driver_reason: str | None = None
        """Why NVML cannot be used, until a tick has been read from it again: said once per reason."""
        self._driver_uncovered = Uncovered.LIBRARY
        self._retry_at_ns: int | None = None
        self._retry_ms = ATTACH_RETRY_MS_FIRST
        self._sessions: dict[str, int] = {}
        self._ticks = 0
        self._sealer.recover()
        self._session = self._begin_session("start")
        self.view = View(sessions={}, sources={}, driver_failures={})

    @property
    def clock(self) -> Clock:
        return self._clock

    def run(self, stop: threading.Event) -> None:
        """Tick at every multiple of the interval until `stop`; then seal what is open and let go of the driver."""
        interval_ms = self._config.interval_ms
        while True:
            now_ms = self._session.time_ms(self._clock.boottime_ns())
            edge_ms = self.view.edge_ms
            after_ms = now_ms - 1 if edge_ms is None else max(now_ms - 1, edge_ms)
            deadline_ms = (after_ms // interval_ms + 1) * interval_ms
            if self._clock.wait_until(self._session.boottime_ns(deadline_ms), stop):
                break
            self.tick()
        self.close()

    def tick(self) -> None:
        """Take one sample of everything and account for the time since the last one."""
        boottime_ns = self._clock.boottime_ns()
        edge_ms = self._session.time_ms(boottime_ns)
        offset_ms = self._clock.wall_ns() // _NS - edge_ms
        if abs(offset_ms) > CLOCK_STEP_MS_MAX:
            _log.warning("clock_step", extra={"step_ms": offset_ms})
            self._end_session()
            self._session = self._begin_session("clock_step")
            boottime_ns = self._clock.boottime_ns()
            edge_ms = self._session.time_ms(boottime_ns)
            offset_ms = 0
        self._origin = replace(self._origin, wall_offset_ms=offset_ms)
        seen = self._sample(edge_ms, boottime_ns)
        self._ticks += 1
        meter = self._session.meter
        if edge_ms < self._session.not_before_ms:
            self._say_waiting(edge_ms)
        else:
            identities = self._identities()
            for span in meter.tick(edge_ms, seen):
                self._sealer.add(self._sealer.draft(span, self._origin, identities, self._holders))
            if self._sealer.pending >= CATCH_UP_SPANS or not self._is_catching_up():
                self._sealer.seal_pending()
            self._save_open()
        self._publish(edge_ms, boottime_ns, seen)

    def close(self) -> None:
        """Seal what is open and let go of the driver."""
        self._end_session()
        if self._is_attached:
            self._sampler.release()
            self._nvml.detach()
            self._is_attached = False

    # ------------------------------------------------------------------------------------------ sessions

    def _begin_session(self, cause: str) -> _Session:
        self._sessions[cause] = self._sessions.get(cause, 0) + 1
        name = self._entropy(8).hex()
        self._origin = replace(self._origin, session=name)
        self._sampler.forget()
        last_ms = self._sealer.last_end_ms
        return _Session(
            name=name,
            wall_start_ns=self._clock.wall_ns(),
            boot_start_ns=self._clock.boottime_ns(),
            not_before_ms=0 if last_ms is None else last_ms,
            meter=Meter(self._config.interval_ms, self._floors, self._totals),
        )

    def _say_waiting(self, edge_ms: int) -> None:
        if not self._session.is_waiting_said:
            self._session.is_waiting_said = True
            wait_s = (self._session.not_before_ms - edge_ms) / 1000
            _log.warning("clock_behind_last_seal", extra={"uncovered_for_s": wait_s})

    def _end_session(self) -> None:
        span = self._session.meter.close()
        if span is not None:
            self._sealer.add(self._sealer.draft(span, self._origin, self._identities(), self._holders))
        self._sealer.seal_pending()
        if self._sealer.pending == 0:
            self._sealer.save_open(())

    def _save_open(self) -> None:
        span = self._session.meter.open_span
        if span is None or span.end_ms == span.start_ms:
            self._sealer.save_open(())
        else:
            self._sealer.save_open(self._sealer.draft(span, self._origin, self._identities(), self._holders))

    def _identities(self) -> dict[str, Identity]:
        return {device.identity.uuid: device.identity for device in self._inventory.devices}

    # ------------------------------------------------------------------------------------------ driver

    def _sample(self, edge_ms: int, boottime_ns: int) -> dict[str, GpuSnapshot]:
        """Return a snapshot of every known GPU; without a usable library all are uncovered, with the reason."""
        if self._is_attached or self._retry_at_ns is None or boottime_ns >= self._retry_at_ns:
            try:
                if not self._is_attached:
                    self._attach()
                seen = self._sampler.sample(edge_ms)
            except DriverUnavailable as exc:
                self._lose_driver(exc, boottime_ns)
            else:
                self._have_driver()
                return seen
        return {device.identity.uuid: self._unseen(device) for device in self._inventory.devices}

    def _unseen(self, device: Device) -> GpuSnapshot:
        is_departed = device.uncovered is Uncovered.NOT_ENUMERATED
        return GpuSnapshot(uncovered=Uncovered.NOT_ENUMERATED if is_departed else self._driver_uncovered)

    def _attach(self) -> None:
        self._nvml.attach()
        self._is_attached = True
        self._inventory.forget_handles()
        self._sampler.forget()
        self._driver_version = self._nvml.driver_version()

    def _have_driver(self) -> None:
        """Note that a whole tick was read: only that ends the back-off, or NVML could be initialised every second."""
        if self._is_driver_read:
            return
        facts = {"version": self._driver_version, "simulated": self._nvml.is_simulated}
        _log.info("driver_attached", extra=facts)
        self._is_driver_read = True
        self._driver_reason = None
        self._retry_at_ns = None
        self._retry_ms = ATTACH_RETRY_MS_FIRST

    def _lose_driver(self, error: DriverUnavailable, boottime_ns: int) -> None:
        if self._is_attached:
            self._sampler.release()
            self._nvml.detach()
            self._is_attached = False
        self._is_driver_read = False
        self._driver_version = None
        self._driver_failures[error.reason] = self._driver_failures.get(error.reason, 0) + 1
        if self._driver_reason != error.reason:
            _log.error("driver_unavailable", extra={"why": str(error)})
        self._driver_reason = error.reason
        self._driver_uncovered = error.uncovered
        self._retry_at_ns = boottime_ns + self._retry_ms * _NS
        self._retry_ms = min(2 * self._retry_ms, ATTACH_RETRY_MS_MAX)

    # ------------------------------------------------------------------------------------------ publishing

    def _publish(self, edge_ms: int, boottime_ns: int, seen: Mapping[str, GpuSnapshot]) -> None:
        meter = self._session.meter
        gpus = []
        for uuid, identity in self._identities().items():
            snapshot = seen.get(uuid)
            if snapshot is None or snapshot.uncovered is Uncovered.NOT_ENUMERATED:
                continue
            total = self._totals.get(uuid)
            gpus.append(
                GpuView(
                    identity=identity,
                    result=meter.states.get(uuid, Uncovered.FIRST_TICK),
                    seen=snapshot,
                    power_mw=meter.power_mw.get(uuid),
                    total=Tally() if total is None else total.copy(),
                )
            )
        self.view = View(
            gpus=tuple(gpus),
            edge_ms=edge_ms,
            tick_boottime_ns=boottime_ns,
            ticks=self._ticks,
            sessions=dict(self._sessions),
            sources=self._sampler.sources,
            unidentified=self._inventory.unidentified,
            is_attached=self._is_attached,
            driver_version=self._driver_version,
            driver_failures=dict(self._driver_failures),
            sealed=self._sealer.sealed,
            seal_failures=self._sealer.failures,
            seals_dropped=self._sealer.dropped,
            crash_file_failures=self._sealer.crash_file_failures,
            seals_pending=self._sealer.pending,
            last_sequence=self._journal.last.sequence,
            journal_bytes=self._journal.size_bytes,
        )
