# SPDX-License-Identifier: Apache-2.0
"""The part of the door to NVML that says how a GPU fares: health fields, memory errors, and Xid events.

One thread may use it at a time. Everything the fields say comes with one call per GPU, each with its own success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuledger_agent.nvml import CallFailed, Handle, Nvml, NvmlError
from gpuledger_agent.snapshot import HealthFacts

FI_RECOVERY_ACTION = 230
"""NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: 0 none, 1 reset GPU, 2 reboot node, 3 drain P2P, 4 drain and reset."""
FI_REMAPPED_CORRECTABLE, FI_REMAPPED_UNCORRECTABLE, FI_REMAP_PENDING, FI_REMAP_FAILURE = 142, 143, 144, 145
FI_THROTTLED: Mapping[str, int] = {"sw_power_cap": 74, "sw_thermal": 269, "hw_thermal": 270, "hw_power_brake": 271}
"""Reason for which clocks are held down -> field with its time in ns: counters, so no short one is missed."""
FIELDS = (
    *FI_THROTTLED.values(),
    FI_REMAPPED_CORRECTABLE,
    FI_REMAPPED_UNCORRECTABLE,
    FI_REMAP_PENDING,
    FI_REMAP_FAILURE,
    FI_RECOVERY_ACTION,
)
RECOVERY_ACTIONS = ("none", "reset_gpu", "reboot_node", "drain_p2p", "drain_and_reset")

_MEMORY_ERROR_TYPES = {"corrected": 0, "uncorrected": 1}
_VOLATILE_ECC = 0
_XID_CRITICAL_ERROR = 8
_NO_INSTANCE = 0xFFFFFFFF

EventSet = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFields:
    """What one GPU's health fields said; what is not offered or failed is absent.

    `throttled_ns` is the time since the driver was loaded by reason, `errors` NVML's name of the error by field.
    """

    facts: HealthFacts
    throttled_ns: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class XidEvent:
    """One Xid error of a GPU, and of which GPU instance (None: of all of it, or not in MIG mode)."""

    xid: int
    instance: int | None = None


class NvmlHealth:
    """Health, memory errors and events through the binding that the door was given."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    # ------------------------------------------------------------------------------------------ reads

    def fields(self, handle: Handle) -> HealthFields | None:
        """Return what the health fields say; None where none of them is offered.

        Raises CallFailed where some failed and none answered.
        """
        entries = self._nvml.field_values(handle, FIELDS)
        if entries is None:
            return None
        values: dict[int, int] = {}
        errors: dict[int, str] = {}
        for field_id, entry in zip(FIELDS, entries, strict=True):
            try:
                value = self._nvml.field_value(entry)
            except CallFailed as exc:
                errors[field_id] = exc.error
                continue
            if value is not None:
                values[field_id] = value
        if not values:
            if errors:
                raise CallFailed("nvmlDeviceGetFieldValues", next(iter(errors.values())))
            return None
        return HealthFields(
            facts=HealthFacts(
                recovery_action=values.get(FI_RECOVERY_ACTION),
                remapped_correctable=values.get(FI_REMAPPED_CORRECTABLE),
                remapped_uncorrectable=values.get(FI_REMAPPED_UNCORRECTABLE),
                is_remap_pending=_flag(values.get(FI_REMAP_PENDING)),
                is_remap_failed=_flag(values.get(FI_REMAP_FAILURE)),
            ),
            throttled_ns={reason: values[field_id] for reason, field_id in FI_THROTTLED.items() if field_id in values},
            errors=errors,
        )

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

    def watch_xids(self, handle: Handle) -> EventSet | None:
        """Return a new set of events registered for the GPU's Xids; None where it has no such events.

        An unsupported event would fail the whole registration, so what is supported is asked first.
        """
        nvml, binding = self._nvml, self._nvml.binding
        supported = nvml.offered(binding.nvmlDeviceGetSupportedEventTypes, handle)
        if supported is None or not int(supported) & _XID_CRITICAL_ERROR:
            return None
        events = nvml.offered(binding.nvmlEventSetCreate)
        if events is None:
            return None
        try:
            nvml.required(binding.nvmlDeviceRegisterEvents, handle, _XID_CRITICAL_ERROR, events)
        except NvmlError:
            self.free(events)
            raise
        return events

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
        return XidEvent(xid=int(data.eventData), instance=None if instance == _NO_INSTANCE else instance)

    def free(self, events: EventSet) -> None:
        """Free a set; one of a library that is gone is gone with it."""
        try:
            self._nvml.required(self._nvml.binding.nvmlEventSetFree, events)
        except NvmlError:
            return


def _flag(value: int | None) -> bool | None:
    return None if value is None else value != 0
