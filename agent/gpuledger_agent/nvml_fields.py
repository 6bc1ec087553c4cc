# SPDX-License-Identifier: Apache-2.0
"""The part of the door to NVML that reads fields: all that are wanted of a GPU in one call, each with its own success.

One thread may use it at a time. A field that a driver does not offer has a call of its own that says the same; whoever
wants the value makes that call where the batch is silent about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuledger_agent.nvml import CallFailed, Handle, Nvml

FI_ECC_CORRECTED, FI_ECC_UNCORRECTED = 3, 4
"""NVML_FI_DEV_ECC_SBE_VOL_TOTAL, NVML_FI_DEV_ECC_DBE_VOL_TOTAL: errors since the driver was loaded."""
FI_ENERGY = 83
"""NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: millijoules since the driver was loaded."""
FI_POWER_AVERAGE = 185
"""NVML_FI_DEV_POWER_AVERAGE: milliwatts, the mean of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldAnswers:
    """What the fields said by number, and NVML's name of the error of those that failed.

    What is in neither was not asked for, or is not offered; with `is_failed` the call failed as a whole.
    """

    values: Mapping[int, int] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    is_failed: bool = False

    def is_silent(self, field_id: int) -> bool:
        """Return whether nothing is said of a field, not even that it failed: it may be asked for in another way."""
        return field_id not in self.values and field_id not in self.errors


NO_ANSWERS = FieldAnswers()


class NvmlFields:
    """Fields through the binding that the door was given."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def read(self, handle: Handle, field_ids: Sequence[int]) -> FieldAnswers | None:
        """Return what the fields say; None where none of them is offered.

        Raises CallFailed where some failed and none answered, or the call did.
        """
        entries = self._nvml.field_values(handle, field_ids)
        if entries is None:
            return None
        values: dict[int, int] = {}
        errors: dict[int, str] = {}
        for field_id, entry in zip(field_ids, entries, strict=True):
            try:
                value = self._nvml.field_value(entry)
            except CallFailed as exc:
                errors[field_id] = exc.error
                continue
            if value is not None:
                values[field_id] = value
        if values:
            return FieldAnswers(values=values, errors=errors)
        if errors:
            raise CallFailed("nvmlDeviceGetFieldValues", next(iter(errors.values())))
        return None
