# SPDX-License-Identifier: Apache-2.0
"""The only door to NVML: base units out, our errors out, None for what is not offered.

    NvmlError
    ├── BindingUnusable     the Python binding is missing or is not nvidia-ml-py
    ├── DriverUnavailable   the library as a whole cannot be used; `reason` says why
    ├── GpuLost             the GPU fell off the bus (NVML_ERROR_GPU_IS_LOST)
    ├── ResetRequired       the GPU wants a reset (NVML_ERROR_RESET_REQUIRED)
    └── CallFailed          anything else; `error` is NVML's name for it

NVMLError of the binding defines __eq__ without __hash__, so only its `value` is looked at. NVMLLibraryMismatchError is
no NVMLError. One thread may use the door at a time.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gpuledger.errors import GpuledgerError
from gpuledger.reading import TEXT_CHARACTERS_MAX
from gpuledger.states import Uncovered

_NOT_SUPPORTED = 3
_FUNCTION_NOT_FOUND = 13
_ARGUMENT_VERSION_MISMATCH = 25
_NO_PERMISSION = 4
_GPU_IS_LOST = 15
_RESET_REQUIRED = 16

_ERROR_NAMES = {
    1: "uninitialized",
    2: "invalid_argument",
    _NOT_SUPPORTED: "not_supported",
    _NO_PERMISSION: "no_permission",
    6: "not_found",
    7: "insufficient_size",
    9: "driver_not_loaded",
    10: "timeout",
    11: "irq_issue",
    12: "library_not_found",
    _FUNCTION_NOT_FOUND: "function_not_found",
    14: "corrupted_inforom",
    _GPU_IS_LOST: "gpu_is_lost",
    _RESET_REQUIRED: "reset_required",
    17: "operating_system",
    18: "lib_rm_version_mismatch",
    19: "in_use",
    20: "memory",
    21: "no_data",
    _ARGUMENT_VERSION_MISMATCH: "argument_version_mismatch",
    999: "unknown",
}
_WHOLE_LIBRARY = frozenset({1, 9, 12, 18})

_REASON_TEXTS = {
    "driver_not_loaded": "the NVIDIA kernel driver is not loaded",
    "library_not_found": "libnvidia-ml.so.1 was not found (no NVIDIA driver is installed, or it is not visible here)",
    "lib_rm_version_mismatch": (
        "the driver library is of another version than the loaded kernel module (after an upgrade); reload the driver"
    ),
    "no_permission": "no permission to use the NVIDIA driver",
    "uninitialized": "NVML is not initialised",
}

_NO_INSTANCE = 0xFFFFFFFF
FI_RECOVERY_ACTION = 230
"""NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: 0 none, 1 reset GPU, 2 reboot node, 3 drain P2P, 4 drain and reset."""


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


class _NotOffered(NvmlError):
    """NOT_SUPPORTED or an unknown function; leaves the door as None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a GPU is; everything but the UUID may be missing or change."""

    uuid: str
    serial: str | None
    index: int
    pci_bus_id: str | None
    model: str | None
    memory_total_bytes: int | None
    power_limit_mw: int | None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a GPU: host pid, its memory in bytes where the driver tells, and the GPU instance it is on."""

    pid: int
    memory_bytes: int | None
    instance: int | None = None


Handle = Any

VALUE_MEMBERS = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
"""nvmlValueType_t of integers -> the member of nvmlValue_t."""

_NAMES_USED = """
    NVMLError NVMLLibraryMismatchError NVML_GPM_METRICS_GET_VERSION c_nvmlGpmMetricsGet_t nvmlDeviceGetAttributes_v2
    nvmlDeviceGetComputeRunningProcesses nvmlDeviceGetCount nvmlDeviceGetEnforcedPowerLimit nvmlDeviceGetFieldValues
    nvmlDeviceGetGpuInstanceId nvmlDeviceGetGraphicsRunningProcesses nvmlDeviceGetHandleByIndex
    nvmlDeviceGetMPSComputeRunningProcesses nvmlDeviceGetMaxMigDeviceCount nvmlDeviceGetMemoryInfo
    nvmlDeviceGetMigDeviceHandleByIndex nvmlDeviceGetMigMode nvmlDeviceGetName nvmlDeviceGetPciInfo
    nvmlDeviceGetPowerUsage nvmlDeviceGetRemappedRows nvmlDeviceGetSamples nvmlDeviceGetSerial
    nvmlDeviceGetTotalEnergyConsumption nvmlDeviceGetUUID nvmlDeviceGetUtilizationRates nvmlGpmMetricsGet
    nvmlGpmMigSampleGet nvmlGpmQueryDeviceSupport nvmlGpmSampleAlloc nvmlGpmSampleFree nvmlGpmSampleGet nvmlInit
    nvmlMemory_v2 nvmlShutdown nvmlSystemGetDriverVersion
"""


def load_binding() -> ModuleType:
    """Import nvidia-ml-py's module `pynvml`; raises BindingUnusable where it is missing or somebody else's."""
    try:
        binding = importlib.import_module("pynvml")
    except ImportError as exc:
        raise BindingUnusable(
            "the Python package nvidia-ml-py is not installed; install it with: pip install 'gpuledger[agent]'"
        ) from exc
    missing = [name for name in _NAMES_USED.split() if not hasattr(binding, name)]
    if missing:
        raise BindingUnusable(
            f"{binding.__file__}: this module pynvml is not the one of nvidia-ml-py 12.560 or newer "
            f"(it has no {missing[0]}); uninstall the package that brought it and install nvidia-ml-py"
        )
    return binding


class Nvml:
    """NVML through a pynvml-shaped module (the real nvidia-ml-py, or the simulator)."""

    def __init__(self, binding: Any | None = None) -> None:
        self.binding: Any = load_binding() if binding is None else binding
        """For the rest of the door, gpuledger_agent.gpm and .mig, only."""
        self.is_simulated = bool(getattr(self.binding, "IS_SIMULATED", False))

    # ------------------------------------------------------------------------------------------ life cycle

    def attach(self) -> None:
        """Initialise NVML (nvmlInit); raises DriverUnavailable."""
        try:
            self._of_node(self.binding.nvmlInit)
        except CallFailed as exc:
            raise DriverUnavailable(exc.error) from exc

    def detach(self) -> None:
        """Let go of the driver (nvmlShutdown); a library that is gone already is let go of."""
        try:
            self._call(self.binding.nvmlShutdown)
        except NvmlError:
            return

    def driver_version(self) -> str | None:
        """Return the driver's version, None where it does not tell; raises DriverUnavailable only."""
        version: str | None = self._tried(self._of_node, self.binding.nvmlSystemGetDriverVersion)
        return version

    def device_count(self) -> int:
        """Return how many GPUs the driver lists (nvmlDeviceGetCount), lost ones included; raises CallFailed."""
        count: int = self._of_node(self.binding.nvmlDeviceGetCount)
        return count

    def handle(self, index: int) -> Handle:
        """Return the handle at `index`; a lost GPU can make the look-up itself raise GpuLost."""
        return self.required(self.binding.nvmlDeviceGetHandleByIndex, index)

    def uuid(self, handle: Handle) -> str:
        uuid = _text(self.required(self.binding.nvmlDeviceGetUUID, handle))
        if not uuid:
            raise CallFailed("nvmlDeviceGetUUID", "empty")
        return uuid

    def name(self, handle: Handle) -> str | None:
        return _text(self.offered(self.binding.nvmlDeviceGetName, handle))

    def identity(self, handle: Handle, index: int) -> Identity:
        """Return who the GPU is; parts that fail or are not offered are None, a lost GPU raises."""
        used_total = self._tried(self.memory_bytes, handle)
        pci = self._tried(self.offered, self.binding.nvmlDeviceGetPciInfo, handle)
        return Identity(
            uuid=self.uuid(handle),
            serial=_text(self._tried(self.offered, self.binding.nvmlDeviceGetSerial, handle)),
            index=index,
            pci_bus_id=None if pci is None else _text(pci.busId),
            model=self._tried(self.name, handle),
            memory_total_bytes=None if used_total is None else used_total[1],
            power_limit_mw=self._tried(self.offered, self.binding.nvmlDeviceGetEnforcedPowerLimit, handle),
        )

    # ------------------------------------------------------------------------------------------ reads

    def utilization_percent(self, handle: Handle) -> int | None:
        """Return nvmlDeviceGetUtilizationRates().gpu: % of the last 1/6..1 s with a kernel running."""
        rates = self.offered(self.binding.nvmlDeviceGetUtilizationRates, handle)
        return None if rates is None else int(rates.gpu)

    def memory_bytes(self, handle: Handle) -> tuple[int, int] | None:
        """Return (used, total) of nvmlDeviceGetMemoryInfo v2, whose `used` leaves out what the driver reserves.

        Drivers before 510 have v1 only, whose `used` includes the reserved part.
        """
        binding = self.binding
        try:
            info = self._call(binding.nvmlDeviceGetMemoryInfo, handle, binding.nvmlMemory_v2)
        except (_NotOffered, CallFailed) as exc:
            if isinstance(exc, CallFailed) and exc.error != "argument_version_mismatch":
                raise
            info = self.offered(binding.nvmlDeviceGetMemoryInfo, handle)
        return None if info is None else (int(info.used), int(info.total))

    def energy_mj(self, handle: Handle) -> int | None:
        """Return nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver was loaded."""
        value = self.offered(self.binding.nvmlDeviceGetTotalEnergyConsumption, handle)
        return None if value is None else int(value)

    def processes(self, handle: Handle) -> list[GpuProcess] | None:
        """Return the compute, graphics and MPS processes, each pid once; None where compute is not offered.

        `handle` may be a MIG device's. A divided GPU's own list has the processes of all its instances.
        """
        binding = self.binding
        compute = self.offered(binding.nvmlDeviceGetComputeRunningProcesses, handle)
        if compute is None:
            return None
        found: dict[tuple[int, int | None], int | None] = {}
        for listed in (
            compute,
            self.offered(binding.nvmlDeviceGetGraphicsRunningProcesses, handle),
            self.offered(binding.nvmlDeviceGetMPSComputeRunningProcesses, handle),
        ):
            for process in listed or ():
                memory = None if process.usedGpuMemory is None else int(process.usedGpuMemory)
                instance = None if process.gpuInstanceId == _NO_INSTANCE else int(process.gpuInstanceId)
                before = found.get((process.pid, instance))
                if before is None or (memory is not None and memory > before):
                    found[process.pid, instance] = memory
        return [GpuProcess(pid, found[pid, on], on) for pid, on in sorted(found, key=_by_pid)]

    def recovery_action(self, handle: Handle) -> int | None:
        """Return field NVML_FI_DEV_GET_GPU_RECOVERY_ACTION; 0 is none."""
        return self._field_values(handle, [FI_RECOVERY_ACTION])[0]

    def is_row_remap_failed(self, handle: Handle) -> bool | None:
        """Return the failure flag of nvmlDeviceGetRemappedRows."""
        rows = self.offered(self.binding.nvmlDeviceGetRemappedRows, handle)
        return None if rows is None else bool(rows[3])

    def _field_values(self, handle: Handle, fields: Sequence[int]) -> list[int | None]:
        values = self.offered(self.binding.nvmlDeviceGetFieldValues, handle, list(fields))
        if values is None:
            return [None] * len(fields)
        return [self._field_value(value) for value in values]

    def _field_value(self, value: Any) -> int | None:
        if not self.is_answered(value.nvmlReturn, "nvmlDeviceGetFieldValues"):
            return None
        if value.valueType not in VALUE_MEMBERS:
            raise CallFailed("nvmlDeviceGetFieldValues", "unexpected_value_type")
        return int(getattr(value.value, VALUE_MEMBERS[value.valueType]))

    # ------------------------------------------------------------------------------------------ errors

    def _call(self, function: Any, *args: Any) -> Any:
        """Call the binding and map its errors onto ours."""
        try:
            return function(*args)
        except self.binding.NVMLError as exc:
            self._raise(exc.value, function.__name__, exc)
        except self.binding.NVMLLibraryMismatchError as exc:
            raise _NotOffered(f"{function.__name__} is not in this driver") from exc
        except UnicodeDecodeError as exc:
            # The binding decodes what the board says of itself, and a damaged InfoROM says anything.
            raise CallFailed(function.__name__, "not_text") from exc

    def _raise(self, code: int, function: str, cause: BaseException | None = None) -> None:
        if code in (_NOT_SUPPORTED, _FUNCTION_NOT_FOUND):
            raise _NotOffered(f"{function} is not offered") from cause
        if code == _GPU_IS_LOST:
            raise GpuLost(f"{function}: the GPU is lost") from cause
        if code == _RESET_REQUIRED:
            raise ResetRequired(f"{function}: the GPU requires a reset") from cause
        name = _ERROR_NAMES.get(code, f"error_{code}")
        if code in _WHOLE_LIBRARY:
            raise DriverUnavailable(name) from cause
        raise CallFailed(function, name) from cause

    def is_answered(self, code: int, function: str) -> bool:
        """Return whether a part of an answer is there, False where it is not offered; raises where it failed."""
        try:
            if code != 0:
                self._raise(code, function)
        except _NotOffered:
            return False
        return True

    def required(self, function: Any, *args: Any) -> Any:
        """Call what must be there; where a driver does not offer it, that is a failure like any other."""
        try:
            return self._call(function, *args)
        except _NotOffered as exc:
            raise CallFailed(function.__name__, "not_supported") from exc

    def _of_node(self, function: Any) -> Any:
        """Call what concerns the whole node, so that no one GPU can be what failed."""
        try:
            return self.required(function)
        except GpuLost as exc:
            raise CallFailed(function.__name__, "gpu_is_lost") from exc
        except ResetRequired as exc:
            raise CallFailed(function.__name__, "reset_required") from exc

    def offered(self, function: Any, *args: Any) -> Any:
        """Call, and return None where the driver does not offer it."""
        try:
            return self._call(function, *args)
        except _NotOffered:
            return None

    @staticmethod
    def _tried(function: Any, *args: Any) -> Any:
        """Call, and return None where it fails: for facts that nothing is counted from."""
        try:
            return function(*args)
        except CallFailed:
            return None


def _by_pid(place: tuple[int, int | None]) -> tuple[int, int]:
    pid, instance = place
    return pid, -1 if instance is None else instance


def _text(value: str | bytes | None) -> str | None:
    """Return a text of the driver as a reading may carry it: short, and nothing in it that does not print."""
    if value is None:
        return None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return "".join(character if character.isprintable() else "?" for character in text[:TEXT_CHARACTERS_MAX])
