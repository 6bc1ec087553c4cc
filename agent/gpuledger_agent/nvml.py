# SPDX-License-Identifier: Apache-2.0
"""The only door to NVML: base units out, our errors out, None for what is not offered.

NVMLError of the binding defines __eq__ without __hash__, so only its `value` is looked at. NVMLLibraryMismatchError is
no NVMLError. One thread may use the door at a time; `guard`, where there is one, watches over each call.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from gpuledger.reading import TEXT_CHARACTERS_MAX
from gpuledger_agent.nvml_errors import (
    ARGUMENT_VERSION_MISMATCH,
    ERROR_NAMES,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    WHOLE_LIBRARY,
    Abandoned,
    BindingUnusable,
    CallFailed,
    DriverUnavailable,
    GpuLost,
    NotOffered,
    NvmlError,
    ResetRequired,
)

__all__ = [
    "VALUE_MEMBERS",
    "BindingUnusable",
    "CallFailed",
    "CallGuard",
    "DriverUnavailable",
    "GpuLost",
    "GpuProcess",
    "Handle",
    "Identity",
    "Nvml",
    "NvmlError",
    "ResetRequired",
    "load_binding",
]

_NO_INSTANCE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a GPU is; everything but the UUID may be missing or change."""

    uuid: str
    serial: str | None
    index: int | None
    pci_bus_id: str | None
    model: str | None
    memory_total_bytes: int | None
    power_limit_mw: int | None
    minor_number: int | None = None
    """N of /dev/nvidiaN; not the index."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a GPU: host pid, its memory in bytes where the driver tells, and the GPU instance it is on.

    `is_mps_client` is None where the driver does not list the clients of MPS.
    """

    pid: int
    memory_bytes: int | None
    is_mps_client: bool | None = False
    instance: int | None = None


Handle = Any

VALUE_MEMBERS = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
"""nvmlValueType_t of integers -> the member of nvmlValue_t."""

_NAMES_USED = """
    NVMLError NVMLLibraryMismatchError NVML_GPM_METRICS_GET_VERSION _nvmlGetFunctionPointer c_nvmlFieldValue_t
    c_nvmlGpmMetricsGet_t nvmlDeviceGetAttributes_v2 nvmlDeviceGetComputeRunningProcesses nvmlDeviceGetCount
    nvmlDeviceGetEnforcedPowerLimit nvmlDeviceGetFieldValues nvmlDeviceGetGpuInstanceId
    nvmlDeviceGetGraphicsRunningProcesses nvmlDeviceGetHandleByIndex nvmlDeviceGetMPSComputeRunningProcesses
    nvmlDeviceGetMaxMigDeviceCount nvmlDeviceGetMemoryInfo nvmlDeviceGetMigDeviceHandleByIndex nvmlDeviceGetMigMode
    nvmlDeviceGetMinorNumber nvmlDeviceGetName nvmlDeviceGetPciInfo nvmlDeviceGetPowerUsage nvmlDeviceGetRemappedRows
    nvmlDeviceGetSamples nvmlDeviceGetSerial nvmlDeviceGetSupportedEventTypes nvmlDeviceGetTotalEccErrors
    nvmlDeviceGetTotalEnergyConsumption nvmlDeviceGetUUID nvmlDeviceGetUtilizationRates nvmlDeviceRegisterEvents
    nvmlEventSetCreate nvmlEventSetFree nvmlEventSetWait_v2 nvmlGpmMetricsGet nvmlGpmMigSampleGet
    nvmlGpmQueryDeviceSupport nvmlGpmSampleAlloc nvmlGpmSampleFree nvmlGpmSampleGet nvmlInit nvmlMemory_v2
    nvmlShutdown nvmlSystemGetDriverVersion
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


class CallGuard(Protocol):
    """Watches over calls: `enter` and `leave` stand around each; `leave` raises Abandoned where it was given up."""

    def about(self, subject: str | None) -> None: ...

    def enter(self, function: str) -> list[int]: ...

    def leave(self, ticket: list[int]) -> None: ...


class Nvml:
    """NVML through a pynvml-shaped module (the real nvidia-ml-py, or the simulator)."""

    def __init__(self, binding: Any | None = None) -> None:
        self.binding: Any = load_binding() if binding is None else binding
        """For the rest of the door, gpuledger_agent.gpm, .mig and .nvml_health, only."""
        self.guard: CallGuard | None = None
        self.is_attached = False
        self.is_simulated = bool(getattr(self.binding, "IS_SIMULATED", False))

    # ------------------------------------------------------------------------------------------ life cycle

    def attach(self) -> None:
        """Initialise NVML (nvmlInit), unless it is; raises DriverUnavailable."""
        if self.is_attached:
            return
        try:
            self._of_node(self.binding.nvmlInit)
        except CallFailed as exc:
            raise DriverUnavailable(exc.error) from exc
        except Abandoned as exc:
            # It came back late. What is raised around an error has that error as its context.
            self.is_attached = exc.__context__ is None
            raise
        self.is_attached = True

    def detach(self) -> None:
        """Let go of the driver (nvmlShutdown); a library that is gone already is let go of."""
        if not self.is_attached:
            return
        try:
            self._call(self.binding.nvmlShutdown)
        except NvmlError:
            return
        finally:
            self.is_attached = False

    def about(self, subject: str | None) -> None:
        """Say whom the next calls are about: a GPU's name, or None for the whole node."""
        if self.guard is not None:
            self.guard.about(subject)

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
            minor_number=self._tried(self.offered, self.binding.nvmlDeviceGetMinorNumber, handle),
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
        except (NotOffered, CallFailed) as exc:
            if isinstance(exc, CallFailed) and exc.error != ERROR_NAMES[ARGUMENT_VERSION_MISMATCH]:
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
        graphics = self.offered(binding.nvmlDeviceGetGraphicsRunningProcesses, handle)
        clients = self.offered(binding.nvmlDeviceGetMPSComputeRunningProcesses, handle)
        found: dict[tuple[int, int | None], int | None] = {}
        for listed in (compute, graphics, clients):
            for process in listed or ():
                memory = None if process.usedGpuMemory is None else int(process.usedGpuMemory)
                instance = None if process.gpuInstanceId == _NO_INSTANCE else int(process.gpuInstanceId)
                before = found.get((process.pid, instance))
                if before is None or (memory is not None and memory > before):
                    found[process.pid, instance] = memory
        pids = None if clients is None else {process.pid for process in clients}
        return [
            GpuProcess(pid, found[pid, on], None if pids is None else pid in pids, on)
            for pid, on in sorted(found, key=_by_pid)
        ]

    def field_values(self, handle: Handle, fields: Sequence[int]) -> list[Any] | None:
        """Return the entries of nvmlDeviceGetFieldValues, None where it is not offered; see `field_value`.

        NVML has been seen to touch one entry past the last one asked for, so there is room for one.
        """
        binding, name = self.binding, "nvmlDeviceGetFieldValues"
        entry_type = getattr(binding, "c_nvmlFieldValue_t", None)
        if entry_type is None:  # no structures of C in what only looks like the binding
            return self.offered(binding.nvmlDeviceGetFieldValues, handle, list(fields))  # type: ignore[no-any-return]
        values = (entry_type * (len(fields) + 1))()
        for place, field in enumerate(fields):
            values[place].fieldId = field
        pointer = self.offered(binding._nvmlGetFunctionPointer, name)  # noqa: SLF001 - nothing public leaves room
        if pointer is None or not self.is_answered(self._guarded(name, pointer, handle, len(fields), values), name):
            return None
        return [values[place] for place in range(len(fields))]

    def field_value(self, value: Any) -> int | None:
        """Return what one entry says, None where it is not offered; raises CallFailed, GpuLost, ResetRequired."""
        if not self.is_answered(int(value.nvmlReturn), "nvmlDeviceGetFieldValues"):
            return None
        if value.valueType not in VALUE_MEMBERS:
            raise CallFailed("nvmlDeviceGetFieldValues", "unexpected_value_type")
        return int(getattr(value.value, VALUE_MEMBERS[value.valueType]))

    # ------------------------------------------------------------------------------------------ errors

    def _call(self, function: Any, *args: Any) -> Any:
        """Call the binding and map its errors onto ours."""
        try:
            return self._guarded(function.__name__, function, *args)
        except self.binding.NVMLError as exc:
            self._raise(exc.value, function.__name__, exc)
        except self.binding.NVMLLibraryMismatchError as exc:
            raise NotOffered(f"{function.__name__} is not in this driver") from exc
        except UnicodeDecodeError as exc:
            # The binding decodes what the board says of itself, and a damaged InfoROM says anything.
            raise CallFailed(function.__name__, "not_text") from exc

    def _guarded(self, name: str, function: Any, *args: Any) -> Any:
        guard = self.guard
        if guard is None:
            return function(*args)
        ticket = guard.enter(name)
        try:
            return function(*args)
        finally:
            guard.leave(ticket)

    def _raise(self, code: int, function: str, cause: BaseException | None = None) -> None:
        if code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
            raise NotOffered(f"{function} is not offered") from cause
        if code == GPU_IS_LOST:
            raise GpuLost(f"{function}: the GPU is lost") from cause
        if code == RESET_REQUIRED:
            raise ResetRequired(f"{function}: the GPU requires a reset") from cause
        name = ERROR_NAMES.get(code, f"error_{code}")
        if code in WHOLE_LIBRARY:
            raise DriverUnavailable(name) from cause
        raise CallFailed(function, name) from cause

    def is_answered(self, code: int, function: str) -> bool:
        """Return whether a part of an answer is there, False where it is not offered; raises where it failed."""
        try:
            if code != 0:
                self._raise(code, function)
        except NotOffered:
            return False
        return True

    def required(self, function: Any, *args: Any) -> Any:
        """Call what must be there; where a driver does not offer it, that is a failure like any other."""
        try:
            return self._call(function, *args)
        except NotOffered as exc:
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
        except NotOffered:
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
