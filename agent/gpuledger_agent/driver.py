# SPDX-License-Identifier: Apache-2.0
"""The driver's life: attached to, lost, hung, released, come back in another version, taken away.

All that is asked of NVML is asked in its own thread. What could not be asked is uncovered, with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum

from gpuledger.states import Uncovered
from gpuledger_agent.devices import Device, Inventory
from gpuledger_agent.events import EVENTS
from gpuledger_agent.holders import Holders
from gpuledger_agent.nvml import DriverUnavailable, Identity, Nvml
from gpuledger_agent.release import ReleaseDesk
from gpuledger_agent.reservations import Reservations
from gpuledger_agent.sampler import Sampler
from gpuledger_agent.snapshot import GpuSnapshot
from gpuledger_agent.sources import SourceReport
from gpuledger_agent.watchdog import Hung, NvmlThread

_log = logging.getLogger(__name__)

ATTACH_RETRY_MS_FIRST = 1_000
ATTACH_RETRY_MS_MAX = 60_000
ATTACH_PATIENCE_MS = 60_000
"""NVML may take long to start where nobody holds a GPU: so long it is not said to hang."""
UNKNOWN_RUN_MS = 60_000
"""After so much time in which every GPU answers nothing but "unknown", the devices were taken away."""
_NS = 1_000_000
_HUNG = "hung"
_MISMATCH = "lib_rm_version_mismatch"
_UNKNOWN = "unknown"


class Ending(str, Enum):
    """Why an agent ends."""

    STOPPED = "stopped"
    DRIVER_CHANGED = "driver_changed"
    """The driver is of another version than the library in this process: only a new process gets the new library."""
    DEVICES_GONE = "devices_gone"
    """The devices of a container were taken away: only a restart of the container gives them back."""


class Driver:
    """Everything of NVML, as one tick after the other needs it."""

    def __init__(
        self,
        nvml: Nvml,
        holders: Holders,
        now_ns: Callable[[], int],
        interval_ms: int,
        *,
        thread: NvmlThread,
        desk: ReleaseDesk,
        reservations: Reservations | None = None,
    ) -> None:
        self._nvml = nvml
        self._inventory = Inventory(nvml)
        self._sampler = Sampler(nvml, self._inventory, holders, now_ns, interval_ms, reservations=reservations)
        self._thread = thread
        self._desk = desk
        nvml.guard = thread
        self._is_attached = False
        self._is_read = False
        self._hung: frozenset[str] = frozenset()
        self._is_library_hung = False
        self._is_released = False
        self._reason: str | None = None
        """Why NVML cannot be used, until a tick has been read from it again: said once per reason."""
        self._uncovered = Uncovered.LIBRARY
        self._retry_at_ns: int | None = None
        self._retry_ms = ATTACH_RETRY_MS_FIRST
        self._attaching_ns: int | None = None
        self._has_attached = False
        self._first_version: str | None = None
        self._unknown_since_ns: int | None = None
        self.version: str | None = None
        self.failures: dict[str, int] = {}
        self.ending: Ending | None = None
        """Why this process should end, where there is a reason."""

    @property
    def is_attached(self) -> bool:
        return self._is_attached and not self._is_library_hung

    @property
    def is_released(self) -> bool:
        return self._is_released

    @property
    def identities(self) -> dict[str, Identity]:
        """Return who the known GPUs are, by UUID."""
        return {device.identity.uuid: device.identity for device in self._inventory.devices}

    @property
    def unidentified(self) -> int:
        return self._inventory.unidentified

    @property
    def sources(self) -> Mapping[str, SourceReport]:
        return self._sampler.sources

    @property
    def stuck_calls(self) -> int:
        """Return how many calls hang now."""
        return self._thread.stuck

    @property
    def hung_calls(self) -> Mapping[str, int]:
        return dict(self._thread.hung_calls)

    @property
    def hung_gpus(self) -> int:
        return len(self._hung - {EVENTS})

    def forget(self) -> None:
        """Trust nothing that was read before: the session is new."""
        self._sampler.forget()

    # ------------------------------------------------------------------------------------------ one tick

    def sample(self, edge_ms: int, boottime_ns: int) -> dict[str, GpuSnapshot]:
        """Return a snapshot of every known GPU; without a usable library all are uncovered, with the reason."""
        if self._desk.is_wanted(boottime_ns):
            return self._let_go()
        if self._is_released:
            self._take_up()
        if self._is_attached or self._retry_at_ns is None or boottime_ns >= self._retry_at_ns:
            try:
                if not self._is_attached:
                    self._attach(boottime_ns)
                seen = self._sample(edge_ms)
            except DriverUnavailable as exc:
                self._lose(exc, boottime_ns)
            except Hung as exc:
                self._unknown_since_ns = None
                self._note_hang(exc, boottime_ns)
                if exc.subject is not None:
                    return self._rest(dict(self._sampler.seen))
            else:
                self._have()
                self._watch_unknown(seen, boottime_ns)
                return seen
        self._unknown_since_ns = None
        self._desk.tell("unattached")
        return {device.identity.uuid: self._unseen(device) for device in self._inventory.devices}

    def close(self) -> None:
        """Let go of the driver, unless a call hangs in it."""
        self._drop()
        self._thread.close()
        self._desk.tell("stopped")

    def _sample(self, edge_ms: int) -> dict[str, GpuSnapshot]:
        hung = self._thread.hung
        back = self._hung - hung
        self._hung = hung

        def job() -> dict[str, GpuSnapshot]:
            for uuid in back:
                self._sampler.readmit(uuid)
            return self._sampler.sample(edge_ms, hung)

        seen = self._thread.call(job)
        for uuid in sorted(back):
            if uuid == EVENTS:
                _log.info("events_answer_again")
            else:
                _log.info("gpu_answers_again", extra={"uuid": uuid})
        return seen

    def _rest(self, seen: dict[str, GpuSnapshot]) -> dict[str, GpuSnapshot]:
        """Return what a tick saw that was cut short: who was not asked, or did not answer, is not covered."""
        for device in self._inventory.devices:
            if device.identity.uuid not in seen:
                is_departed = device.uncovered is Uncovered.NOT_ENUMERATED
                reason = Uncovered.NOT_ENUMERATED if is_departed else Uncovered.CALLS_FAILED
                seen[device.identity.uuid] = GpuSnapshot(uncovered=reason)
        return seen

    def _unseen(self, device: Device) -> GpuSnapshot:
        is_departed = device.uncovered is Uncovered.NOT_ENUMERATED
        return GpuSnapshot(uncovered=Uncovered.NOT_ENUMERATED if is_departed else self._uncovered)

    # ------------------------------------------------------------------------------------------ attached or not

    def _attach(self, boottime_ns: int) -> None:
        if self._attaching_ns is None:
            self._attaching_ns = boottime_ns

        def job() -> str | None:
            self._nvml.about(None)
            self._nvml.attach()
            return self._nvml.driver_version()

        version = self._thread.call(job)
        self._attaching_ns = None
        self._is_attached = self._has_attached = True
        self._inventory.forget_handles()
        self._sampler.forget()
        self.version = version
        if self._first_version is None:
            self._first_version = version
        elif version is not None and version != self._first_version:
            self._change(f"the driver is now {version}, and this process has the library of {self._first_version}")

    def _detach(self) -> None:
        self._nvml.about(None)
        self._sampler.release()
        self._nvml.detach()

    def _have(self) -> None:
        """Note that a whole tick was read: only that ends the back-off, or NVML could be initialised every second."""
        self._desk.tell("attached")
        if self._is_read:
            return
        facts = {"version": self.version, "simulated": self._nvml.is_simulated}
        _log.info("driver_attached", extra=facts)
        self._is_read = True
        self._is_library_hung = False
        self._reason = None
        self._retry_at_ns = None
        self._retry_ms = ATTACH_RETRY_MS_FIRST

    def _lose(self, error: DriverUnavailable, boottime_ns: int) -> None:
        self._attaching_ns = None
        self._drop()
        self._fail(error.reason, str(error))
        self._uncovered = error.uncovered
        self._retry_at_ns = boottime_ns + self._retry_ms * _NS
        self._retry_ms = min(2 * self._retry_ms, ATTACH_RETRY_MS_MAX)
        if error.reason == _MISMATCH and self._has_attached:
            self._change("the kernel module was exchanged, and this process has the library of before")

    def _drop(self) -> None:
        """Give up the attachment; NVML itself is only let go of where no call hangs in it."""
        if self._nvml.is_attached and self._thread.stuck == 0:
            try:
                self._thread.call(self._detach)
            except Hung as exc:
                _log.error("driver_not_let_go", extra={"why": f"{exc.function} hangs"})
        self._is_attached = False
        self._is_read = False
        self.version = None

    def _fail(self, reason: str, why: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1
        if self._reason != reason:
            _log.error("driver_unavailable", extra={"why": why})
        self._reason = reason

    def _change(self, why: str) -> None:
        if self.ending is None:
            _log.warning("driver_changed", extra={"why": why})
        self.ending = Ending.DRIVER_CHANGED

    # ------------------------------------------------------------------------------------------ hung

    def _note_hang(self, error: Hung, boottime_ns: int) -> None:
        self._hung = self._thread.hung
        for uuid in self._hung:
            self._sampler.disown(uuid)
        if error.subject == EVENTS:
            _log.error("events_hung", extra={"function": error.function})
            return
        if error.subject is not None:
            _log.error("gpu_hung", extra={"uuid": error.subject, "function": error.function})
            return
        # What was read before it hung may be long ago when it answers again.
        self._sampler.forget()
        self._is_read = False
        is_starting = self._attaching_ns is not None and boottime_ns - self._attaching_ns < ATTACH_PATIENCE_MS * _NS
        if not self._is_library_hung and not is_starting:
            self._is_library_hung = True
            self._fail(_HUNG, f"NVML cannot be used: {error.function} hangs")
            self._uncovered = Uncovered.LIBRARY

    # ------------------------------------------------------------------------------------------ released

    def _let_go(self) -> dict[str, GpuSnapshot]:
        self._drop()
        is_free = not self._nvml.is_attached and self._thread.stuck == 0
        self._desk.tell("released" if is_free else _HUNG)
        if is_free and not self._is_released:
            self._is_released = True
            _log.info("driver_released")
        self._unknown_since_ns = None
        seen = {}
        for device in self._inventory.devices:
            is_departed = device.uncovered is Uncovered.NOT_ENUMERATED
            reason = Uncovered.NOT_ENUMERATED if is_departed else Uncovered.RELEASED
            seen[device.identity.uuid] = GpuSnapshot(uncovered=reason)
        return seen

    def _take_up(self) -> None:
        self._is_released = False
        self._retry_at_ns = None
        self._retry_ms = ATTACH_RETRY_MS_FIRST
        _log.info("driver_taken_up")

    # ------------------------------------------------------------------------------------------ taken away

    def _watch_unknown(self, seen: Mapping[str, GpuSnapshot], boottime_ns: int) -> None:
        """Note since when every GPU answers nothing but "unknown", as where a container lost its devices."""
        present = [gpu for gpu in seen.values() if gpu.uncovered is not Uncovered.NOT_ENUMERATED]
        is_silent = [gpu.uncovered is Uncovered.CALLS_FAILED and gpu.error == _UNKNOWN for gpu in present]
        if not present or not all(is_silent):
            self._unknown_since_ns = None
        elif self._unknown_since_ns is None:
            self._unknown_since_ns = boottime_ns
        elif boottime_ns - self._unknown_since_ns >= UNKNOWN_RUN_MS * _NS and self.ending is None:
            _log.error("devices_gone", extra={"why": "every GPU answers every call with an unknown error"})
            self.ending = Ending.DEVICES_GONE
