# SPDX-License-Identifier: Apache-2.0
"""The node's GPUs: who they are, by UUID; index and handle are attributes that may change."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from gpuledger.states import Uncovered
from gpuledger_agent.nvml import CallFailed, GpuLost, Handle, Identity, Nvml, ResetRequired
from gpuledger_agent.snapshot import Health

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU as of the last enumeration.

    `handle` is None where the driver gave none: then `health` says that it is lost or wants a reset, or `uncovered`
    why nothing can be observed, and `error` what NVML called it.
    """

    identity: Identity
    handle: Handle | None
    health: Health | None = None
    uncovered: Uncovered | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why the GPU at `index` could not be looked up."""

    index: int
    error: str
    health: Health | None = None
    uncovered: Uncovered | None = None


class Inventory:
    """All GPUs seen in this run of the agent; one that departs stays known, as not enumerated."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._devices: dict[str, Device] = {}
        self._said: set[tuple[int, str]] = set()
        self._count = 0
        self.unidentified = 0
        """How many listed GPUs could not be told apart in the last enumeration."""

    @property
    def is_settled(self) -> bool:
        """Return whether every GPU has a handle or has departed; otherwise each tick has to ask again."""
        return all(d.handle is not None or d.uncovered is Uncovered.NOT_ENUMERATED for d in self._devices.values())

    def forget_handles(self) -> None:
        """Drop what belongs to an attachment to the driver that is over: its handles must not be used again."""
        for uuid, device in self._devices.items():
            if device.uncovered is not Uncovered.NOT_ENUMERATED:
                self._devices[uuid] = Device(identity=device.identity, handle=None, uncovered=Uncovered.LIBRARY)

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(self._devices.values())

    def is_changed(self) -> bool:
        """Return whether the driver lists more or fewer GPUs than it did; raises CallFailed and DriverUnavailable."""
        self._nvml.about(None)
        return self._nvml.device_count() != self._count

    def refresh(self, hung: Collection[str] = ()) -> list[str]:
        """Enumerate again; a GPU that fails costs only itself. Returns the errors of such GPUs.

        Nothing is asked about those in `hung`. Raises DriverUnavailable, or CallFailed where the GPUs could not even be
        counted.
        """
        found: dict[str, Device] = {}
        failed: list[_Failure] = []
        self._nvml.about(None)
        count = self._nvml.device_count()
        for index in range(count):
            subject = self._subject(index)
            if subject in hung:
                failed.append(_Failure(index=index, error="hung", uncovered=Uncovered.CALLS_FAILED))
                continue
            self._nvml.about(subject)
            try:
                handle = self._nvml.handle(index)
                uuid = self._nvml.uuid(handle)
                known = self._devices.get(uuid)
                if known is not None and known.identity.index == index and known.handle is not None:
                    found[uuid] = Device(identity=known.identity, handle=handle)
                else:
                    found[uuid] = Device(identity=self._nvml.identity(handle, index), handle=handle)
            except GpuLost:
                failed.append(_Failure(index=index, error="gpu_is_lost", health=Health.LOST))
            except ResetRequired:
                failed.append(_Failure(index=index, error="reset_required", health=Health.RESET_REQUIRED))
            except CallFailed as exc:
                is_permission = exc.error == "no_permission"
                uncovered = Uncovered.PERMISSION if is_permission else Uncovered.CALLS_FAILED
                failed.append(_Failure(index=index, error=exc.error, uncovered=uncovered))
        self.unidentified = sum(not self._keep(found, failure) for failure in failed)
        for uuid, device in self._devices.items():
            if uuid not in found:
                found[uuid] = Device(identity=device.identity, handle=None, uncovered=Uncovered.NOT_ENUMERATED)
        self._tell(found)
        self._devices, self._count = found, count
        return [failure.error for failure in failed]

    def _subject(self, index: int) -> str:
        """Return whom a look-up of `index` is about: the GPU that was there, or the place."""
        for uuid, device in self._devices.items():
            if device.identity.index == index and device.uncovered is not Uncovered.NOT_ENUMERATED:
                return uuid
        return f"#{index}"

    def _keep(self, found: dict[str, Device], failure: _Failure) -> bool:
        """Put the known GPU that was at `index` among the found ones; return False where there is none."""
        # One that departed may have left its index to another.
        known = sorted(self._devices.items(), key=lambda item: item[1].uncovered is Uncovered.NOT_ENUMERATED)
        for uuid, device in known:
            if device.identity.index == failure.index and uuid not in found:
                if failure.health is None and device.handle is not None:
                    # One failed call of an enumeration: indexes do not change while the driver stays attached, so
                    # the reads of this tick may still tell.
                    found[uuid] = device
                else:
                    found[uuid] = Device(
                        identity=device.identity,
                        handle=None,
                        health=failure.health,
                        uncovered=failure.uncovered,
                        error=failure.error,
                    )
                return True
        if (failure.index, "unidentified") not in self._said:
            self._said.add((failure.index, "unidentified"))
            facts = {"index": failure.index, "why": "it was lost before this agent knew it"}
            _log.error("gpu_unidentified", extra=facts)
        return False

    def _tell(self, found: dict[str, Device]) -> None:
        for uuid, device in found.items():
            before = self._devices.get(uuid)
            is_there = device.uncovered is not Uncovered.NOT_ENUMERATED
            was_there = before is not None and before.uncovered is not Uncovered.NOT_ENUMERATED
            if is_there and not was_there:
                _log.info("gpu_found", extra={"uuid": uuid, "model": device.identity.model})
            elif was_there and not is_there:
                _log.warning("gpu_departed", extra={"uuid": uuid})
