# SPDX-License-Identifier: Apache-2.0
"""The agent's loop: one thread that ticks on its own clock, meters, seals and publishes what requests may read.

A scrape, a poll or nobody asking changes no figure. Each tick publishes one immutable View.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gpuledger.clock import Clock
from gpuledger.states import State, Uncovered
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.drafts import Origin
from gpuledger_agent.driver import Driver, Ending
from gpuledger_agent.floors_file import FloorsFile
from gpuledger_agent.holders import Holders
from gpuledger_agent.journal import Journal
from gpuledger_agent.meter import Meter
from gpuledger_agent.nvml import Identity, Nvml
from gpuledger_agent.passthrough import PassedThrough
from gpuledger_agent.release import ReleaseDesk
from gpuledger_agent.reservations import Reservations
from gpuledger_agent.sealer import Sealer
from gpuledger_agent.snapshot import GpuSnapshot
from gpuledger_agent.sources import SourceReport
from gpuledger_agent.tally import Part, Tally, overall
from gpuledger_agent.watchdog import NvmlThread

_log = logging.getLogger(__name__)

CLOCK_STEP_MS_MAX = 1_000
CATCH_UP_SPANS = 12
SUSPICION_OVER_MS = 60_000
"""So long nothing must be suspected of a GPU before that is said, and may be said anew: power wavers around a floor."""
_NS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One GPU as of the last tick."""

    identity: Identity
    result: State | Uncovered
    parts: tuple[Part, ...]
    """What the last tick was for each instance of a divided GPU, and for what no instance has."""
    seen: GpuSnapshot
    power_mw: float | None
    total: Tally
    floors_mw: Mapping[str, float] = field(default_factory=dict)
    """Its learnt idle power, `bare` and `parked`, where known."""


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
    is_released: bool = False
    driver_version: str | None = None
    unidentified: int = 0
    driver_failures: Mapping[str, int]
    stuck_calls: int = 0
    hung_gpus: int = 0
    hung_calls: Mapping[str, int] = field(default_factory=dict)
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
        reservations: Reservations | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        is_catching_up: Callable[[], bool] = lambda: False,
        floors_file: FloorsFile | None = None,
        thread: NvmlThread | None = None,
        passed_through: PassedThrough | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._holders = holders
        self._driver = Driver(
            nvml,
            holders,
            clock.boottime_ns,
            config.interval_ms,
            thread=NvmlThread() if thread is None else thread,
            desk=ReleaseDesk(config.state_dir, clock, config.interval_ms),
            reservations=reservations,
        )
        self._passed_through = passed_through
        self._journal = journal
        self._sealer = sealer
        self._entropy = entropy
        self._is_catching_up = is_catching_up
        self._floors_file = floors_file
        self._floors = {} if floors_file is None else floors_file.read(clock.wall_ns() // _NS)
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
        self._sessions: dict[str, int] = {}
        self._suspected_ms: dict[str, int] = {}
        """When a hang was last suspected of each GPU of which that was said."""
        self._ticks = 0
        self._sealer.recover()
        self._session = self._begin_session("start")
        self.view = View(sessions={}, sources={}, driver_failures={})

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def stuck_calls(self) -> int:
        """Return how many calls into the driver hang now."""
        return self._driver.stuck_calls

    def run(self, stop: threading.Event) -> Ending:
        """Tick at every multiple of the interval until `stop`, or until the driver asks for a new process.

        Then seal what is open and let go of the driver.
        """
        interval_ms = self._config.interval_ms
        ending: Ending | None = None
        while ending is None:
            now_ms = self._session.time_ms(self._clock.boottime_ns())
            edge_ms = self.view.edge_ms
            after_ms = now_ms - 1 if edge_ms is None else max(now_ms - 1, edge_ms)
            deadline_ms = (after_ms // interval_ms + 1) * interval_ms
            if self._clock.wait_until(self._session.boottime_ns(deadline_ms), stop):
                break
            self.tick()
            ending = self._ending()
        self.close()
        return Ending.STOPPED if ending is None else ending

    def _ending(self) -> Ending | None:
        """Return why to end, where there is a reason; a call that hangs would hold up a new program in this process."""
        ending = self._driver.ending
        return None if ending is Ending.DRIVER_CHANGED and self._driver.stuck_calls > 0 else ending

    def tick(self) -> None:
        """Take one sample of everything and account for the time since the last one."""
        boottime_ns = self._clock.boottime_ns()
        edge_ms = self._session.time_ms(boottime_ns)
        offset_ms = self._clock.wall_ns() // _NS - edge_ms
        if abs(offset_ms) > CLOCK_STEP_MS_MAX:
            _log.warning("clock_step", extra={"step_ms": offset_ms})
            # What is sealed last before the step says how far the wall clock is off now: so collectors find it.
            self._origin = replace(self._origin, wall_offset_ms=offset_ms)
            self._end_session()
            self._session = self._begin_session("clock_step")
            boottime_ns = self._clock.boottime_ns()
            edge_ms = self._session.time_ms(boottime_ns)
            offset_ms = 0
        self._origin = replace(self._origin, wall_offset_ms=offset_ms)
        seen = self._driver.sample(edge_ms, boottime_ns)
        if self._passed_through is not None:
            seen |= self._passed_through.look(edge_ms, self._driver.identities)
        self._ticks += 1
        meter = self._session.meter
        if edge_ms < self._session.not_before_ms:
            self._say_waiting(edge_ms)
        else:
            identities = self._identities()
            finished = meter.tick(edge_ms, seen)
            for span in finished:
                self._sealer.add(self._sealer.draft(span, self._origin, identities, self._holders))
            if finished:
                self._save_floors()
            self._say_suspicions(meter.suspected, edge_ms)
            if self._sealer.pending >= CATCH_UP_SPANS or not self._is_catching_up():
                self._sealer.seal_pending()
            self._save_open()
        self._publish(edge_ms, boottime_ns, seen)

    def close(self) -> None:
        """Seal what is open and let go of the driver."""
        self._end_session()
        self._save_floors()
        self._driver.close()

    # ------------------------------------------------------------------------------------------ sessions

    def _begin_session(self, cause: str) -> _Session:
        self._sessions[cause] = self._sessions.get(cause, 0) + 1
        name = self._entropy(8).hex()
        self._origin = replace(self._origin, session=name)
        self._driver.forget()
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

    def _say_suspicions(self, suspected: frozenset[str], edge_ms: int) -> None:
        for uuid in sorted(suspected):
            if uuid not in self._suspected_ms:
                _log.warning("hang_suspected", extra={"uuid": uuid})
            self._suspected_ms[uuid] = edge_ms
        over = [uuid for uuid, last_ms in self._suspected_ms.items() if edge_ms - last_ms >= SUSPICION_OVER_MS]
        for uuid in over:
            del self._suspected_ms[uuid]
            _log.info("hang_suspicion_over", extra={"uuid": uuid})

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

    def _save_floors(self) -> None:
        if self._floors_file is not None:
            self._floors_file.save(self._floors, self._clock.wall_ns() // _NS)

    def _identities(self) -> dict[str, Identity]:
        identities = self._driver.identities
        return identities if self._passed_through is None else identities | self._passed_through.identities

    # ------------------------------------------------------------------------------------------ publishing

    def _publish(self, edge_ms: int, boottime_ns: int, seen: Mapping[str, GpuSnapshot]) -> None:
        meter = self._session.meter
        gpus = []
        for uuid, identity in self._identities().items():
            snapshot = seen.get(uuid)
            if snapshot is None or snapshot.uncovered is Uncovered.NOT_ENUMERATED:
                continue
            total, parts = self._totals.get(uuid), meter.parts.get(uuid, ())
            gpus.append(
                GpuView(
                    identity=identity,
                    result=overall(parts) if parts else Uncovered.FIRST_TICK,
                    parts=parts,
                    seen=snapshot,
                    power_mw=meter.power_mw.get(uuid),
                    total=Tally() if total is None else total.copy(),
                    floors_mw=self._floors[uuid].known_mw() if uuid in self._floors else {},
                )
            )
        self.view = View(
            gpus=tuple(gpus),
            edge_ms=edge_ms,
            tick_boottime_ns=boottime_ns,
            ticks=self._ticks,
            sessions=dict(self._sessions),
            sources=self._driver.sources,
            unidentified=self._driver.unidentified,
            is_attached=self._driver.is_attached,
            is_released=self._driver.is_released,
            driver_version=self._driver.version,
            driver_failures=dict(self._driver.failures),
            stuck_calls=self._driver.stuck_calls,
            hung_gpus=self._driver.hung_gpus,
            hung_calls=self._driver.hung_calls,
            sealed=self._sealer.sealed,
            seal_failures=self._sealer.failures,
            seals_dropped=self._sealer.dropped,
            crash_file_failures=self._sealer.crash_file_failures,
            seals_pending=self._sealer.pending,
            last_sequence=self._journal.last.sequence,
            journal_bytes=self._journal.size_bytes,
        )
