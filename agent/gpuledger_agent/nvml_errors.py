# SPDX-License-Identifier: Apache-2.0
"""What can go wrong at the door to NVML, as our errors.

    NvmlError
    ├── BindingUnusable     the Python binding is missing or is not nvidia-ml-py
    ├── DriverUnavailable   the library as a whole cannot be used; `reason` says why
    ├── GpuLost             the GPU fell off the bus (NVML_ERROR_GPU_IS_LOST)
    ├── ResetRequired       the GPU wants a reset (NVML_ERROR_RESET_REQUIRED)
    └── CallFailed          anything else; `error` is NVML's name for it

Beside them, Abandoned is no error of NVML: it ends a thread that was given up while its call hung.
"""

from __future__ import annotations

from gpuledger.errors import GpuledgerError
from gpuledger.states import Uncovered

NOT_SUPPORTED = 3
FUNCTION_NOT_FOUND = 13
ARGUMENT_VERSION_MISMATCH = 25
NO_PERMISSION = 4
GPU_IS_LOST = 15
RESET_REQUIRED = 16

ERROR_NAMES = {
    1: "uninitialized",
    2: "invalid_argument",
    NOT_SUPPORTED: "not_supported",
    NO_PERMISSION: "no_permission",
    6: "not_found",
    7: "insufficient_size",
    9: "driver_not_loaded",
    10: "timeout",
    11: "irq_issue",
    12: "library_not_found",
    FUNCTION_NOT_FOUND: "function_not_found",
    14: "corrupted_inforom",
    GPU_IS_LOST: "gpu_is_lost",
    RESET_REQUIRED: "reset_required",
    17: "operating_system",
    18: "lib_rm_version_mismatch",
    19: "in_use",
    20: "memory",
    21: "no_data",
    ARGUMENT_VERSION_MISMATCH: "argument_version_mismatch",
    999: "unknown",
}
WHOLE_LIBRARY = frozenset({1, 9, 12, 18})

_REASON_TEXTS = {
    "driver_not_loaded": "the NVIDIA kernel driver is not loaded",
    "library_not_found": "libnvidia-ml.so.1 was not found (no NVIDIA driver is installed, or it is not visible here)",
    "lib_rm_version_mismatch": (
        "the driver library is of another version than the loaded kernel module (after an upgrade); reload the driver"
    ),
    "no_permission": "no permission to use the NVIDIA driver",
    "uninitialized": "NVML is not initialised",
}


class NvmlError(GpuledgerError):
    """Base of what the door raises."""


class BindingUnusable(NvmlError):
    """The module `pynvml` is missing, or is not the one of nvidia-ml-py."""


class DriverUnavailable(NvmlError):
    """NVML as a whole cannot be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"NVML cannot be used: {_REASON_TEXTS.get(reason, reason)}")
        self.reason = reason

    @property
    def uncovered(self) -> Uncovered:
        return Uncovered.PERMISSION if self.reason == "no_permission" else Uncovered.LIBRARY


class GpuLost(NvmlError):
    """The GPU is lost."""


class ResetRequired(NvmlError):
    """The GPU requires a reset."""


class CallFailed(NvmlError):
    """A call failed for this GPU only."""

    def __init__(self, function: str, error: str) -> None:
        super().__init__(f"{function} failed: {error}")
        self.function = function
        self.error = error


class NotOffered(NvmlError):
    """NOT_SUPPORTED or an unknown function; leaves the door as None."""


class Abandoned(Exception):
    """A call came back to a thread that had been given up: nobody waits for what it would go on to do."""
