# SPDX-License-Identifier: Apache-2.0
"""The part of the door to NVML that says how a GPU fares: health fields, memory errors, and Xid events.

One thread may use it at a time. What fields say comes with the GPU's batch (gpuledger_agent.nvml_fields).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuledger_agent.nvml import CallFailed, Handle, Nvml, NvmlError
from gpuledger_agent.nvml_fields import FI_ECC_CORRECTED, FI_ECC_UNCORRECTED, FieldAnswers
from gpuledger_agent.snapshot import HealthFacts

FI_RECOVERY_ACTION = 230
"""NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: 0 none, 1 reset GPU, 2 reboot node, 3 drain P2P, 4 drain and reset."""
FI_REMAPPED_CORRECTABLE, FI_REMAPPED_UNCORRECTABLE, FI_REMAP_PENDING, FI_REMAP_FAILURE = 142, 143, 144, 145
FI_THROTTLED: Mapping[str, int] = {"sw_power_cap": 74, "sw_thermal": 269, "hw_thermal": 270, "hw_power_brake": 271}
"""Reason for which clocks are held down -> field with its time in ns: counters, so no short one is missed."""
FI_ECC: Mapping[str, int] = {"corrected": FI_ECC_CORRECTED, "uncorrected": FI_ECC_UNCORRECTED}
FIELDS = (
    *FI_THROTTLED.values(),
    FI_REMAPPED_CORRECTABLE,
    FI_REMAPPED_UNCORRECTABLE,
    FI_REMAP_PENDING,
    FI_REMAP_FAILURE,
    FI_RECOVERY_ACTION,
    *FI_ECC.values(),
)
RECOVERY_ACTIONS = ("none", "reset_gpu", "reboot_node", "drain_p2p", "drain_and_reset")

_MEMORY_ERROR_TYPES = {"corrected": 0, "uncorrected": 1}
_VOLATILE_ECC = 0
_XID_CRITICAL_ERROR = 8
_NO_INSTANCE = 0xFFFFFFFF

EventSet = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class XidEvent:
    """One Xid error of the GPU with the handle `device`, and of which GPU instance (None: of all of it, or no MIG)."""

    xid: int
    instance: int | None = None
    device: Handle = field(default=None, compare=False)


def facts_of(answers: FieldAnswers) -> HealthFacts:
    """Return what a batch of fields says of a GPU's health."""
    values = answers.values
    return HealthFacts(
        recovery_action=values.get(FI_RECOVERY_ACTION),
        remapped_correctable=values.get(FI_REMAPPED_CORRECTABLE),
        remapped_uncorrectable=values.get(FI_REMAPPED_UNCORRECTABLE),
        is_remap_pending=_flag(values.get(FI_REMAP_PENDING)),
        is_remap_failed=_flag(values.get(FI_REMAP_FAILURE)),
    )


class NvmlHealth:
    """Health, memory errors and events through the binding that the door was given."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    # ------------------------------------------------------------------------------------------ reads

    def remapped_rows(self, handle: Handle) -> HealthFacts | None:
        """Return nvmlDeviceGetRemappedRows, for drivers without the fields; not offered under MIG."""
        rows = self._nvml.offered(self._nvml.binding.nvmlDeviceGetRemappedRows, handle)
        if rows is None:
            return None
        return HealthFacts(
            remapped_correctable=int(rows[0]),
            remapped_uncorrectable=int(rows[1]),
            is_remap_pending=bool(rows[2]),
            is_remap_failed=bool(rows[3]),
        )

    def ecc_errors(self, handle: Handle, kind: str) -> int | None:
        """Return nvmlDeviceGetTotalEccErrors since the driver was loaded; None without ECC."""
        value = self._nvml.offered(
            self._nvml.binding.nvmlDeviceGetTotalEccErrors, handle, _MEMORY_ERROR_TYPES[kind], _VOLATILE_ECC
        )
        return None if value is None else int(value)

    # ------------------------------------------------------------------------------------------ events

    def new_events(self) -> EventSet | None:
        """Return a new, empty set of events; None where the driver has none."""
        return self._nvml.offered(self._nvml.binding.nvmlEventSetCreate)

    def is_telling(self, handle: Handle) -> bool:
        """Return whether the GPU has events for its Xids: one that is not supported would fail the registration."""
        supported = self._nvml.offered(self._nvml.binding.nvmlDeviceGetSupportedEventTypes, handle)
        return supported is not None and int(supported) & _XID_CRITICAL_ERROR != 0

    def register(self, handle: Handle, events: EventSet) -> None:
        """Register a GPU's Xids in a set; raises CallFailed "not_supported" where there are no such events."""
        self._nvml.required(self._nvml.binding.nvmlDeviceRegisterEvents, handle, _XID_CRITICAL_ERROR, events)

    def next_xid(self, events: EventSet) -> XidEvent | None:
        """Return the next event that is already there, without waiting for one; None where there is none.

        Raises CallFailed "not_supported" where the driver has no such wait.
        """
        try:
            data = self._nvml.required(self._nvml.binding.nvmlEventSetWait_v2, events, 0)
        except CallFailed as exc:
            if exc.error == "timeout":
                return None
            raise
        instance = int(data.gpuInstanceId)
        return XidEvent(
            xid=int(data.eventData), instance=None if instance == _NO_INSTANCE else instance, device=data.device
        )

    def free(self, events: EventSet) -> None:
        """Free a set; one of a library that is gone is gone with it."""
        try:
            self._nvml.required(self._nvml.binding.nvmlEventSetFree, events)
        except NvmlError:
            return


def is_same_device(first: Handle, second: Handle) -> bool:
    """Return whether two handles are one GPU's: the binding's are pointers, and equal only by what they point at."""
    return bool(_address(first) == _address(second))


def _address(handle: Handle) -> Any:
    # What only looks like the binding has handles of its own kind.
    return ctypes.cast(handle, ctypes.c_void_p).value if isinstance(handle, ctypes._Pointer) else handle  # noqa: SLF001


def _flag(value: int | None) -> bool | None:
    return None if value is None else value != 0
