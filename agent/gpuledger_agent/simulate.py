# SPDX-License-Identifier: Apache-2.0
"""SIMULATED nodes: a pynvml-shaped module that plays a scenario, a clock that can play the past, a process table.

Only the clock and the NVML answers are simulated; the door, the meter, the seals and everything after are the real
code. Whatever comes from here is marked: the binding says IS_SIMULATED, the model name says SIMULATED, and the agent
seals the mark into every reading.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

from gpuledger.cells import split_at
from gpuledger.clock import Clock, SystemClock
from gpuledger.errors import ConfigurationError
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.nvml_fields import FI_ECC_CORRECTED, FI_ECC_UNCORRECTED, FI_ENERGY, FI_POWER_AVERAGE
from gpuledger_agent.nvml_health import FI_RECOVERY_ACTION, FI_THROTTLED
from gpuledger_agent.processes import ProcessFacts
from gpuledger_agent.program import Parts
from gpuledger_agent.scenarios import MINUTE_S, PEOPLE, SCENARIOS, Moment, Slices, chance, means_of
from gpuledger_agent.simulated_tree import SimulatedProcessTree

MODEL = "SIMULATED NVIDIA H100 80GB HBM3"
GPUS = 8
MEMORY_TOTAL_BYTES = 81_559 << 20
POWER_LIMIT_MW = 700_000
SLOTS = 7
_INSTANCE_GB = {1: 10, 2: 20, 3: 40, 4: 40, 7: 80}
_NO_INSTANCE = 0xFFFFFFFF
_MS_NS = 10**6
_HOUR_NS = 3_600 * 10**9
_INVALID_ARGUMENT, _NOT_SUPPORTED, _NOT_FOUND, _LOST = 2, 3, 6, 15


class SimulatedNVMLError(Exception):
    """Shaped like pynvml.NVMLError: the code is in `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(f"SIMULATED NVML error {value}")
        self.value = value


class SimulatedMismatchError(Exception):
    """Shaped like pynvml.NVMLLibraryMismatchError; never raised."""


@dataclass(slots=True)
class _Counters:
    """One GPU's counters, as of `time_ms`."""

    time_ms: int
    energy_mj: int = 0
    capped_ns: int = 0


@dataclass(slots=True)
class SimulatedGpmSample:
    """The moment at which a sample was taken, and of what."""

    gpu: int = 0
    instance: int | None = None
    time_ms: int = 0


@dataclass(slots=True)
class SimulatedGpmRequest:
    """Shaped like pynvml.c_nvmlGpmMetricsGet_t."""

    version: int = 0
    numMetrics: int = 0
    sample1: SimulatedGpmSample = field(default_factory=SimulatedGpmSample)
    sample2: SimulatedGpmSample = field(default_factory=SimulatedGpmSample)
    metrics: list[SimpleNamespace] = field(
        default_factory=lambda: [SimpleNamespace(metricId=0, nvmlReturn=0, value=0.0) for _ in range(20)]
    )


Handle = int | tuple[int, int]
"""A GPU's index, or that and the slot of a MIG device."""


class SimulatedNvml:
    """The part of nvidia-ml-py that the door uses, playing a scenario."""

    IS_SIMULATED = True
    NVMLError = SimulatedNVMLError
    NVMLLibraryMismatchError = SimulatedMismatchError
    nvmlMemory_v2 = 0x02000028
    NVML_GPM_METRICS_GET_VERSION = 1
    c_nvmlGpmMetricsGet_t = SimulatedGpmRequest

    def __init__(self, scenario: str, clock: Clock) -> None:
        self._play = SCENARIOS[scenario]
        self._scenario = scenario
        self._clock = clock
        self._counters: list[_Counters | None] = [None] * GPUS
        self._minutes: list[tuple[int, Moment] | None] = [None] * GPUS

    def _now(self, gpu: int, *, alive: bool = True) -> Moment:
        minute = self._clock.wall_ns() // (MINUTE_S * 10**9)
        cached = self._minutes[gpu]
        if cached is None or cached[0] != minute:
            cached = self._minutes[gpu] = (minute, self._play(gpu, minute * MINUTE_S))
        if alive and cached[1].is_lost:
            raise SimulatedNVMLError(_LOST)
        return cached[1]

    def _slices(self, handle: tuple[int, int]) -> Slices:
        """Return the instance that has a slot now; its handle may be older."""
        gpu, slot = handle
        instances = self._now(gpu).instances or ()
        if slot >= len(instances):
            raise SimulatedNVMLError(_INVALID_ARGUMENT)
        return instances[slot]

    def nvmlInit(self) -> None:
        return

    def nvmlShutdown(self) -> None:
        return

    def nvmlSystemGetDriverVersion(self) -> str:
        return "SIMULATED"

    def nvmlDeviceGetCount(self) -> int:
        return GPUS

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:
        kind, text = "GPU", f"{self._scenario}/{handle}"
        if isinstance(handle, tuple):
            one = self._slices(handle)
            kind, text = "MIG", f"{self._scenario}/{handle[0]}/{one.instance}/{one.slices}"
        name = hashlib.sha256(text.encode()).hexdigest()
        return f"{kind}-51301a7e-{name[:4]}-{name[4:8]}-{name[8:12]}-{name[12:24]}"

    def nvmlDeviceGetSerial(self, gpu: int) -> str:
        return f"SIM{int(chance('serial', self._scenario, gpu) * 1e9):010d}"

    def nvmlDeviceGetMinorNumber(self, gpu: int) -> int:
        return gpu

    def nvmlDeviceGetName(self, handle: Handle) -> str:
        if isinstance(handle, tuple):
            slices = self._slices(handle).slices
            return f"{MODEL} MIG {slices}g.{_INSTANCE_GB[slices]}gb"
        return MODEL

    def nvmlDeviceGetPciInfo(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(busId=f"00000000:{0x1B + 16 * gpu:02X}:00.0")

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        return POWER_LIMIT_MW

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._now(gpu).percent)

    # ------------------------------------------------------------------------------------------ MIG, and its GPM

    def nvmlDeviceGetMigMode(self, gpu: int) -> list[int]:
        return [int(self._now(gpu).instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: int) -> int:
        return SLOTS if self._now(gpu).instances is not None else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: int, slot: int) -> tuple[int, int]:
        if slot >= len(self._now(gpu).instances or ()):
            raise SimulatedNVMLError(_NOT_FOUND)
        return gpu, slot

    def nvmlDeviceGetGpuInstanceId(self, handle: tuple[int, int]) -> int:
        return self._slices(handle).instance

    def nvmlDeviceGetAttributes_v2(self, handle: tuple[int, int]) -> SimpleNamespace:
        slices = self._slices(handle).slices
        return SimpleNamespace(gpuInstanceSliceCount=slices, memorySizeMB=_INSTANCE_GB[slices] << 10)

    def nvmlGpmQueryDeviceSupport(self, gpu: int) -> SimpleNamespace:
        self._now(gpu)
        return SimpleNamespace(isSupportedDevice=1)

    def nvmlGpmSampleAlloc(self) -> SimulatedGpmSample:
        return SimulatedGpmSample()

    def nvmlGpmSampleFree(self, sample: SimulatedGpmSample) -> None:
        return

    def nvmlGpmSampleGet(self, gpu: int, sample: SimulatedGpmSample) -> SimulatedGpmSample:
        self._now(gpu)
        sample.gpu, sample.instance, sample.time_ms = gpu, None, self._clock.wall_ns() // _MS_NS
        return sample

    def nvmlGpmMigSampleGet(self, gpu: int, instance: int, sample: SimulatedGpmSample) -> SimulatedGpmSample:
        sample.gpu, sample.instance, sample.time_ms = gpu, instance, self._clock.wall_ns() // _MS_NS
        return sample

    def nvmlGpmMetricsGet(self, request: SimulatedGpmRequest) -> SimulatedGpmRequest:
        first, second = request.sample1, request.sample2
        areas: dict[int, float] = {}
        for begin_ms, end_ms in split_at(first.time_ms, second.time_ms, 1000 * MINUTE_S):
            moment = self._play(second.gpu, begin_ms // (1000 * MINUTE_S) * MINUTE_S)
            for metric_id, value in means_of(moment, second.instance).items():
                areas[metric_id] = areas.get(metric_id, 0.0) + value * (end_ms - begin_ms)
        for metric in request.metrics[: request.numMetrics]:
            metric.nvmlReturn = 0 if metric.metricId in areas else _NOT_SUPPORTED
            metric.value = areas.get(metric.metricId, 0.0) / (second.time_ms - first.time_ms)
        return request

    # ------------------------------------------------------------------------------------------ everything else

    def nvmlDeviceGetSamples(self, gpu: int, kind: int, since_us: int) -> tuple[int, list[SimpleNamespace]]:
        raise SimulatedNVMLError(_NOT_SUPPORTED)

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> SimpleNamespace:
        if isinstance(handle, tuple):
            one = self._slices(handle)
            return SimpleNamespace(used=one.memory_bytes, total=_INSTANCE_GB[one.slices] << 30)
        moment = self._now(handle, alive=False)
        used = moment.memory_bytes + sum(one.memory_bytes for one in moment.instances or ())
        return SimpleNamespace(used=used, total=MEMORY_TOTAL_BYTES)

    def _count(self, gpu: int) -> _Counters:
        """Return the counters since the simulation began: exact integrals of the scenario, minute by minute."""
        now_ms = self._clock.wall_ns() // 10**6
        counters = self._counters[gpu]
        if counters is None:
            counters = self._counters[gpu] = _Counters(time_ms=now_ms)
        while counters.time_ms < now_ms:
            end_ms = min(now_ms, (counters.time_ms // 60_000 + 1) * 60_000)
            moment = self._play(gpu, counters.time_ms // 60_000 * MINUTE_S)
            counters.energy_mj += moment.power_w * (end_ms - counters.time_ms)
            counters.capped_ns += int(moment.capped_share * (end_ms - counters.time_ms) * 1e6)
            counters.time_ms = end_ms
        return counters

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        self._now(gpu)
        return self._count(gpu).energy_mj

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return self._now(gpu).power_w * 1000

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        moment = self._now(gpu)
        held = [(_NO_INSTANCE, moment.pid, moment.memory_bytes)]
        held += [(one.instance, one.pid, one.memory_bytes) for one in moment.instances or ()]
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=memory_bytes, gpuInstanceId=instance)
            for instance, pid, memory_bytes in held
            if pid != 0
        ]

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        return []

    def nvmlDeviceGetMPSComputeRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        return []

    def nvmlDeviceGetFieldValues(self, gpu: int, fields: list[int]) -> list[SimpleNamespace]:
        self._now(gpu)
        counters = self._count(gpu)
        values = {
            FI_RECOVERY_ACTION: 0,
            FI_THROTTLED["sw_power_cap"]: counters.capped_ns,
            FI_ENERGY: counters.energy_mj,
            FI_POWER_AVERAGE: self._now(gpu).power_w * 1000,
            FI_ECC_CORRECTED: 0,
            FI_ECC_UNCORRECTED: 0,
        }
        return [
            SimpleNamespace(
                nvmlReturn=0 if field in values else 3, valueType=3, value=SimpleNamespace(ullVal=values.get(field))
            )
            for field in fields
        ]

    def nvmlDeviceGetTotalEccErrors(self, gpu: int, kind: int, counter: int) -> int:
        self._now(gpu)
        return 0

    def nvmlDeviceGetSupportedEventTypes(self, gpu: int) -> int:
        self._now(gpu)
        return 8

    def nvmlEventSetCreate(self) -> dict[int, int]:
        return {}

    def nvmlEventSetFree(self, events: dict[int, int]) -> None:
        return

    def nvmlDeviceRegisterEvents(self, gpu: int, types: int, events: dict[int, int]) -> None:
        events[gpu] = self._clock.wall_ns() // (MINUTE_S * 10**9)

    def nvmlEventSetWait_v2(self, events: dict[int, int], timeout_ms: int) -> SimpleNamespace:
        """Answer each GPU's Xid of the current minute once."""
        minute = self._clock.wall_ns() // (MINUTE_S * 10**9)
        for gpu, seen_minute in events.items():
            xid = 0 if minute == seen_minute else self._now(gpu, alive=False).xid
            if xid != 0:
                events[gpu] = minute
                return SimpleNamespace(eventData=xid, gpuInstanceId=0xFFFFFFFF, device=gpu)
        raise SimulatedNVMLError(10)

    def nvmlDeviceGetRemappedRows(self, gpu: int) -> tuple[int, int, int, int]:
        self._now(gpu)
        return (0, 0, 0, 0)


class SimulatedProcesses:
    """The people of the scenarios."""

    def describe(self, pid: int) -> ProcessFacts | None:
        if pid not in PEOPLE:
            return None
        name, user = PEOPLE[pid]
        return ProcessFacts(name=f"SIMULATED {name}", user=f"SIMULATED {user}", started_s=0.0)

    def step_title(self, pid: int) -> str | None:
        return None

    def user_name(self, uid: int) -> str:
        return f"SIMULATED {uid}"


class CatchUpClock:
    """Plays from a moment in the past as fast as the agent can go, then runs with the real clock.

    With `until_ns` time stands still there: the node is dead, though its sealed readings can still be fetched.
    """

    def __init__(self, real: Clock, from_ns: int | None, until_ns: int | None, stop: threading.Event) -> None:
        self._real = real
        self._lag_ns = 0 if from_ns is None else max(0, real.wall_ns() - from_ns)
        self._until_ns = until_ns
        self._stop = stop

    def is_catching_up(self) -> bool:
        """Return whether there is more than an hour of past left to play."""
        left_ns = self._lag_ns if self._until_ns is None else self._until_ns - self.wall_ns()
        return min(left_ns, self._lag_ns) > _HOUR_NS

    def wall_ns(self) -> int:
        return self._real.wall_ns() - self._lag_ns

    def boottime_ns(self) -> int:
        return self._real.boottime_ns() - self._lag_ns

    def wait_until(self, boottime_ns: int, stop: threading.Event | None = None) -> bool:
        missing_ns = boottime_ns - self.boottime_ns()
        if self._until_ns is not None and self.wall_ns() + max(0, missing_ns) >= self._until_ns:
            self._stop.wait()
            return True
        if missing_ns > 0 and self._lag_ns > 0:
            self._lag_ns -= min(missing_ns, self._lag_ns)
        return self._real.wait_until(boottime_ns + self._lag_ns, stop)


def parts(scenario: str, from_s: int | None, until_s: int | None, stop: threading.Event) -> Parts:
    """Return what the agent needs to play `scenario`; raises ConfigurationError for an unknown one."""
    if scenario not in SCENARIOS:
        raise ConfigurationError(f"--simulate: {scenario!r} is not one of {', '.join(sorted(SCENARIOS))}")
    clock = CatchUpClock(
        SystemClock(),
        None if from_s is None else from_s * 10**9,
        None if until_s is None else until_s * 10**9,
        stop,
    )
    return Parts(
        clock=clock,
        nvml=Nvml(SimulatedNvml(scenario, clock)),
        processes=SimulatedProcesses(),
        stop=stop,
        is_catching_up=clock.is_catching_up,
        process_tree=SimulatedProcessTree(),
    )
