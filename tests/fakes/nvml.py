# SPDX-License-Identifier: Apache-2.0
"""A pynvml-shaped module that answers what a test sets: codes to fail with, values, GPUs that come and go."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from gpuledger_agent.nvml_fields import FI_ECC_CORRECTED, FI_ECC_UNCORRECTED, FI_ENERGY, FI_POWER_AVERAGE
from gpuledger_agent.nvml_health import FI_RECOVERY_ACTION
from tests.fakes.boards import FakeGpu, FakeInstance, gpus, instance, process_of
from tests.fakes.clock import MS_NS, FakeClock
from tests.fakes.nvml_shapes import FakeGpmRequest, FakeMismatchError, FakeNvmlError

__all__ = [
    "HOUR_NS",
    "INVALID_ARGUMENT",
    "LIBRARY_NOT_FOUND",
    "LOST",
    "NOT_FOUND",
    "NOT_LOADED",
    "NOT_SUPPORTED",
    "NO_INSTANCE",
    "NO_PERMISSION",
    "PATIENCE_S",
    "RESET_REQUIRED",
    "TIMEOUT",
    "UNINITIALIZED",
    "UNKNOWN",
    "VERSION_MISMATCH",
    "FakeEventSet",
    "FakeGpu",
    "FakeInstance",
    "FakeMismatchError",
    "FakeNvml",
    "FakeNvmlError",
    "gpus",
    "instance",
    "process_of",
]

INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, NOT_LOADED, LOST, RESET_REQUIRED, UNKNOWN = (
    *(2, 3, 4, 6, 9),
    *(15, 16, 999),
)
HOUR_NS = 3_600_000_000_000
NO_INSTANCE = 0xFFFFFFFF
PATIENCE_S = 60
TIMEOUT = 10
UNINITIALIZED, LIBRARY_NOT_FOUND, VERSION_MISMATCH = 1, 12, 18


@dataclass(slots=True, eq=False)
class FakeEventSet:
    """The handles that are registered in it, and how many of each one's Xids it has handed out or come too late for."""

    handles: list[tuple[int, FakeGpu]] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)


class FakeNvml:
    """`fails` maps functions about the whole node to codes; `calls` counts every call by name."""

    NVMLError = FakeNvmlError
    NVMLLibraryMismatchError = FakeMismatchError
    nvmlMemory_v2 = 0x02000028
    NVML_GPM_METRICS_GET_VERSION = 1
    c_nvmlGpmMetricsGet_t = FakeGpmRequest
    c_nvmlFieldValue_t = None
    _nvmlGetFunctionPointer = None

    def __init__(self, clock: FakeClock, devices: list[FakeGpu]) -> None:
        self._clock = clock
        self.gpus = devices
        self.fails: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.fields_asked: Counter[int] = Counter()
        self.attached = 0
        self.generation = 0
        self.gpm_samples: list[dict[str, Any]] = []
        """What was allocated and not freed."""
        self.event_sets: list[FakeEventSet] = []
        """What was created and not freed."""
        self.hangs: dict[str, threading.Event] = {}
        """Function about the node -> what lets its calls return."""
        self.hung_ns = 0
        """The clock of the watch over calls: one that hangs takes an hour, and other calls no time."""
        self.version = "570.124.06"

    def _of_node(self, function: str) -> None:
        self.calls[function] += 1
        self._hang(self.hangs, function)
        if function in self.fails:
            raise FakeNvmlError(self.fails[function])
        if self.attached == 0 and function != "nvmlInit":
            raise FakeNvmlError(UNINITIALIZED)

    def _of_gpu(self, function: str, handle: tuple[int, FakeGpu]) -> FakeGpu:
        generation, gpu = handle
        self._of_node(function)
        assert generation == self.generation, f"{function}: a handle of an attachment that is over crashes the driver"
        self._hang(gpu.hangs, function)
        self._raise(function, gpu)
        return gpu

    def _hang(self, hangs: dict[str, threading.Event], function: str) -> None:
        if function in hangs:
            self.hung_ns += HOUR_NS
            assert hangs[function].wait(PATIENCE_S), f"{function}: nobody let it return"

    @staticmethod
    def _raise(function: str, gpu: FakeGpu) -> None:
        code = gpu.fails.get(function, gpu.fails.get("*"))
        if code is not None:
            raise FakeNvmlError(code)

    def nvmlInit(self) -> None:
        self._of_node("nvmlInit")
        self.attached += 1
        self.generation += 1

    def nvmlShutdown(self) -> None:
        self._of_node("nvmlShutdown")
        self.attached -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._of_node("nvmlSystemGetDriverVersion")
        return self.version

    def nvmlDeviceGetCount(self) -> int:
        self._of_node("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[int, FakeGpu]:
        self._of_node("nvmlDeviceGetHandleByIndex")
        self._raise("nvmlDeviceGetHandleByIndex", self.gpus[index])
        return self.generation, self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: tuple[int, FakeGpu]) -> str:
        return self._of_gpu("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetSerial(self, handle: tuple[int, FakeGpu]) -> str:
        return self._of_gpu("nvmlDeviceGetSerial", handle).serial

    def nvmlDeviceGetMinorNumber(self, handle: tuple[int, FakeGpu]) -> int:
        gpu = self._of_gpu("nvmlDeviceGetMinorNumber", handle)
        return self.gpus.index(gpu) if gpu.minor is None else gpu.minor

    def nvmlDeviceGetName(self, handle: tuple[int, FakeGpu]) -> str:
        gpu = self._of_gpu("nvmlDeviceGetName", handle)
        return f"{gpu.name} MIG {gpu.profile}" if isinstance(gpu, FakeInstance) else gpu.name

    def nvmlDeviceGetPciInfo(self, handle: tuple[int, FakeGpu]) -> Any:
        return SimpleNamespace(busId=self._of_gpu("nvmlDeviceGetPciInfo", handle).pci_bus_id)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: tuple[int, FakeGpu]) -> int:
        self._of_gpu("nvmlDeviceGetEnforcedPowerLimit", handle)
        return 700_000

    def nvmlDeviceGetUtilizationRates(self, handle: tuple[int, FakeGpu]) -> Any:
        gpu = self._of_gpu("nvmlDeviceGetUtilizationRates", handle)
        if gpu.instances is not None:
            raise FakeNvmlError(NOT_SUPPORTED)
        return SimpleNamespace(gpu=gpu.percent)

    def nvmlDeviceGetMemoryInfo(self, handle: tuple[int, FakeGpu], version: int | None = None) -> Any:
        gpu = self._of_gpu("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(used=gpu.memory_used_bytes, total=gpu.memory_total_bytes)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: tuple[int, FakeGpu]) -> int:
        """Constant power since the machine started: tests that change it change the odometer too."""
        gpu = self._of_gpu("nvmlDeviceGetTotalEnergyConsumption", handle)
        return gpu.energy_base_mj + gpu.power_mw * (self._clock.boottime_ns() // MS_NS) // 1000

    def nvmlDeviceGetPowerUsage(self, handle: tuple[int, FakeGpu]) -> int:
        gpu = self._of_gpu("nvmlDeviceGetPowerUsage", handle)
        return gpu.power_mw if gpu.reported_power_mw is None else gpu.reported_power_mw

    def nvmlDeviceGetComputeRunningProcesses(self, handle: tuple[int, FakeGpu]) -> list[Any]:
        gpu = self._of_gpu("nvmlDeviceGetComputeRunningProcesses", handle)
        on = gpu.instance if isinstance(gpu, FakeInstance) else None
        listed = [process_of(pid, memory, on) for pid, memory in gpu.processes]
        for one in gpu.instances or ():
            if one is not None:
                number = one.instance if gpu.tells_instances else None
                listed += [process_of(pid, memory, number) for pid, memory in one.processes]
        return listed

    def nvmlDeviceGetMigMode(self, handle: tuple[int, FakeGpu]) -> list[int]:
        gpu = self._of_gpu("nvmlDeviceGetMigMode", handle)
        return [int(gpu.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: tuple[int, FakeGpu]) -> int:
        return 0 if self._of_gpu("nvmlDeviceGetMaxMigDeviceCount", handle).instances is None else 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: tuple[int, FakeGpu], slot: int) -> tuple[int, FakeGpu]:
        slots = self._of_gpu("nvmlDeviceGetMigDeviceHandleByIndex", handle).instances or []
        found = slots[slot] if slot < len(slots) else None
        if found is None:
            raise FakeNvmlError(NOT_FOUND)
        self._raise("nvmlDeviceGetMigDeviceHandleByIndex", found)
        return self.generation, found

    def nvmlDeviceGetGpuInstanceId(self, handle: tuple[int, FakeGpu]) -> int:
        return self._of_instance("nvmlDeviceGetGpuInstanceId", handle).instance

    def nvmlDeviceGetAttributes_v2(self, handle: tuple[int, FakeGpu]) -> Any:
        found = self._of_instance("nvmlDeviceGetAttributes_v2", handle)
        return SimpleNamespace(gpuInstanceSliceCount=found.slices, memorySizeMB=found.memory_total_bytes >> 20)

    def _of_instance(self, function: str, handle: tuple[int, FakeGpu]) -> FakeInstance:
        found = self._of_gpu(function, handle)
        if not isinstance(found, FakeInstance):
            raise FakeNvmlError(NOT_SUPPORTED)
        return found

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: tuple[int, FakeGpu]) -> list[Any]:
        self._of_gpu("nvmlDeviceGetGraphicsRunningProcesses", handle)
        return []

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: tuple[int, FakeGpu]) -> list[Any]:
        gpu = self._of_gpu("nvmlDeviceGetMPSComputeRunningProcesses", handle)
        if gpu.mps_clients is None:
            raise FakeMismatchError
        on = gpu.instance if isinstance(gpu, FakeInstance) else None
        return [process_of(pid, memory, on) for pid, memory in gpu.mps_clients]

    def nvmlDeviceGetFieldValues(self, handle: tuple[int, FakeGpu], fields: list[int]) -> list[Any]:
        gpu = self._of_gpu("nvmlDeviceGetFieldValues", handle)
        self.fields_asked.update(fields)
        values = self._counted(gpu) | {FI_RECOVERY_ACTION: (0, gpu.recovery_action)} | gpu.values
        answers = [values.get(field_id, (NOT_SUPPORTED, 77)) for field_id in fields]
        return [
            SimpleNamespace(nvmlReturn=code, valueType=3, value=SimpleNamespace(ullVal=value))
            for code, value in answers
        ]

    def _counted(self, gpu: FakeGpu) -> dict[int, tuple[int, int]]:
        """What fields say that have a call of their own: as that does."""
        energy_mj = gpu.energy_base_mj + gpu.power_mw * (self._clock.boottime_ns() // MS_NS) // 1000
        reported_mw = gpu.power_mw if gpu.reported_power_mw is None else gpu.reported_power_mw
        values = {
            FI_ENERGY: (gpu.fails.get("nvmlDeviceGetTotalEnergyConsumption", 0), energy_mj),
            FI_POWER_AVERAGE: (gpu.fails.get("nvmlDeviceGetPowerUsage", 0), reported_mw),
        }
        for kind, count in (gpu.ecc or {}).items():
            values[(FI_ECC_CORRECTED, FI_ECC_UNCORRECTED)[kind]] = (
                gpu.fails.get("nvmlDeviceGetTotalEccErrors", 0),
                count,
            )
        return values

    def nvmlDeviceGetTotalEccErrors(self, handle: tuple[int, FakeGpu], kind: int, counter: int) -> int:
        gpu = self._of_gpu("nvmlDeviceGetTotalEccErrors", handle)
        assert counter == 0, "the counters since the driver was loaded"
        if gpu.ecc is None:
            raise FakeNvmlError(NOT_SUPPORTED)
        return gpu.ecc[kind]

    def nvmlDeviceGetSupportedEventTypes(self, handle: tuple[int, FakeGpu]) -> int:
        return self._of_gpu("nvmlDeviceGetSupportedEventTypes", handle).event_types

    def nvmlEventSetCreate(self) -> FakeEventSet:
        self._of_node("nvmlEventSetCreate")
        self.event_sets.append(FakeEventSet())
        return self.event_sets[-1]

    def nvmlEventSetFree(self, events: FakeEventSet) -> None:
        self._of_node("nvmlEventSetFree")
        self.event_sets.remove(events)

    def nvmlDeviceRegisterEvents(self, handle: tuple[int, FakeGpu], types: int, events: FakeEventSet) -> None:
        gpu = self._of_gpu("nvmlDeviceRegisterEvents", handle)
        if types & ~gpu.event_types:
            raise FakeNvmlError(NOT_SUPPORTED)
        assert all(gpu is not registered for _, registered in events.handles), "a GPU is in a set once"
        events.handles.append(handle)
        events.heard.append(len(gpu.xids))

    def nvmlEventSetWait_v2(self, events: FakeEventSet, timeout_ms: int) -> Any:
        """Answers at once; of a set that a lost GPU is in, with its error, for ever."""
        self._of_node("nvmlEventSetWait_v2")
        assert events in self.event_sets, "a set that was freed crashes the driver"
        assert timeout_ms == 0, "nothing waits for events"
        assert events.handles, "a set without a GPU tells nothing"
        for _, gpu in events.handles:
            self._hang(gpu.hangs, "nvmlEventSetWait_v2")
        for place, (_, gpu) in enumerate(events.handles):
            if events.heard[place] < len(gpu.xids):
                xid, instance = gpu.xids[events.heard[place]]
                events.heard[place] += 1
                return SimpleNamespace(
                    eventType=8,
                    eventData=xid,
                    gpuInstanceId=NO_INSTANCE if instance is None else instance,
                    device=events.handles[place],
                )
        for _, gpu in events.handles:
            self._raise("nvmlEventSetWait_v2", gpu)
        raise FakeNvmlError(TIMEOUT)

    def nvmlDeviceGetRemappedRows(self, handle: tuple[int, FakeGpu]) -> tuple[int, int, int, int]:
        return 0, 0, 0, int(self._of_gpu("nvmlDeviceGetRemappedRows", handle).is_row_remap_failed)

    def nvmlDeviceGetSamples(self, handle: tuple[int, FakeGpu], kind: int, since_us: int) -> tuple[int, list[Any]]:
        gpu = self._of_gpu("nvmlDeviceGetSamples", handle)
        assert kind == 1
        if gpu.samples is None:
            raise FakeNvmlError(NOT_SUPPORTED)
        newer = [pair for pair in gpu.samples if pair[0] > since_us]
        if not newer:
            raise FakeNvmlError(NOT_FOUND)
        return 1, [SimpleNamespace(timeStamp=us, sampleValue=SimpleNamespace(uiVal=percent)) for us, percent in newer]

    def nvmlGpmQueryDeviceSupport(self, handle: tuple[int, FakeGpu]) -> Any:
        gpu = self._of_gpu("nvmlGpmQueryDeviceSupport", handle)
        return SimpleNamespace(isSupportedDevice=int(gpu.gpm is not None))

    def nvmlGpmSampleAlloc(self) -> dict[str, Any]:
        self._of_node("nvmlGpmSampleAlloc")
        sample: dict[str, Any] = {"generation": self.generation, "number": self.calls["nvmlGpmSampleAlloc"]}
        self.gpm_samples.append(sample)
        return sample

    def nvmlGpmSampleFree(self, sample: dict[str, Any]) -> None:
        self._of_node("nvmlGpmSampleFree")
        self.gpm_samples.remove(sample)

    def nvmlGpmSampleGet(self, handle: tuple[int, FakeGpu], sample: dict[str, Any]) -> dict[str, Any]:
        gpu = self._of_gpu("nvmlGpmSampleGet", handle)
        assert sample in self.gpm_samples, "a sample that was freed crashes the driver"
        sample["gpu"], sample["ns"] = gpu, self._clock.boottime_ns()
        return sample

    def nvmlGpmMigSampleGet(self, handle: tuple[int, FakeGpu], number: int, sample: dict[str, Any]) -> dict[str, Any]:
        gpu = self._of_gpu("nvmlGpmMigSampleGet", handle)
        (found,) = (one for one in gpu.instances or () if one is not None and one.instance == number)
        self._raise("nvmlGpmMigSampleGet", found)
        assert sample in self.gpm_samples, "a sample that was freed crashes the driver"
        sample["gpu"], sample["ns"] = found, self._clock.boottime_ns()
        return sample

    def nvmlGpmMetricsGet(self, request: FakeGpmRequest) -> FakeGpmRequest:
        """Writes what the GPU is set to; only a metric that succeeds has its value written."""
        self._of_node("nvmlGpmMetricsGet")
        first, second = request.sample1, request.sample2
        assert request.version == 1
        assert first["gpu"] is second["gpu"], "two samples of different things give nonsense"
        assert first["ns"] < second["ns"], "the older sample comes first"
        assert not request.is_in_use, "two calls that write to one structure corrupt both"
        request.is_in_use = True
        self._hang(second["gpu"].hangs, "nvmlGpmMetricsGet")
        request.is_in_use = False
        answers = second["gpu"].gpm
        for metric in request.metrics[: request.numMetrics]:
            metric.nvmlReturn, value = answers.get(metric.metricId, (NOT_SUPPORTED, 0.0))
            if metric.nvmlReturn == 0:
                metric.value = value
        return request
