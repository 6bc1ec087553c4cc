# SPDX-License-Identifier: Apache-2.0
"""The node's GPUs: who they are, by UUID; index and handle are attributes that may change."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gpuledger.states import Uncovered
from gpuledger_agent.nvml import CallFailed, GpuLost, Handle, Identity, Nvml, ResetRequired
from gpuledger_agent.snapshot import Health

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU as of the last enumeration.

    `handle` is None where the driver gave none: then `health` says that it is lost or wants a reset, or `uncovered`
    why nothing can be observed.
    """

    identity: Identity
    handle: Handle | None
    health: Health | None = None
    uncovered: Uncovered | None = None


class Inventory:
    """All GPUs seen in this run of the agent; one that departs stays known, as not enumerated."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._devices: dict[str, Device] = {}
        self._said: set[tuple[int, str]] = set()
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

    def refresh(self) -> list[str]:
        """Enumerate again; a GPU that fails costs only itself. Returns the errors of such GPUs.

        Raises DriverUnavailable, or CallFailed where the GPUs could not even be counted.
        """
        errors: list[str] = []
        found: dict[str, Device] = {}
        failed: list[tuple[int, Health | None, Uncovered | None]] = []
        for index in range(self._nvml.device_count()):
            try:
                handle = self._nvml.handle(index)
                uuid = self._nvml.uuid(handle)
                known = self._devices.get(uuid)
                if known is not None and known.identity.index == index and known.handle is not None:
                    found[uuid] = Device(identity=known.identity, handle=handle)
                else:
                    found[uuid] = Device(identity=self._nvml.identity(handle, index), handle=handle)
            except GpuLost:
                errors.append("gpu_is_lost")
                failed.append((index, Health.LOST, None))
            except ResetRequired:
                errors.append("reset_required")
                failed.append((index, Health.RESET_REQUIRED, None))
            except CallFailed as exc:
                errors.append(exc.error)
                is_permission = exc.error == "no_permission"
                failed.append((index, None, Uncovered.PERMISSION if is_permission else Uncovered.CALLS_FAILED))
        self.unidentified = sum(not self._keep(found, *failure) for failure in failed)
        for uuid, device in self._devices.items():
            if uuid not in found:
                found[uuid] = Device(identity=device.identity, handle=None, uncovered=Uncovered.NOT_ENUMERATED)
        self._tell(found)
        self._devices = found
        return errors

    def _keep(self, found: dict[str, Device], index: int, health: Health | None, uncovered: Uncovered | None) -> bool:
        """Put the known GPU that was at `index` among the found ones; return False where there is none."""
        # One that departed may have left its index to another.
        known = sorted(self._devices.items(), key=lambda item: item[1].uncovered is Uncovered.NOT_ENUMERATED)
        for uuid, device in known:
            if device.identity.index == index and uuid not in found:
                if health is None and device.handle is not None:
                    # One failed call of an enumeration: indexes do not change while the driver stays attached, so
                    # the reads of this tick may still tell.
                    found[uuid] = device
                else:
                    found[uuid] = Device(identity=device.identity, handle=None, health=health, uncovered=uncovered)
                return True
        if (index, "unidentified") not in self._said:
            self._said.add((index, "unidentified"))
            _log.error("gpu_unidentified", extra={"index": index, "why": "it was lost before this agent knew it"})
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
