# SPDX-License-Identifier: Apache-2.0
"""SIMULATED nodes: a pynvml-shaped module that plays a scenario, a clock that can play the past, a process table.

Only the clock and the NVML answers are simulated; the door, the meter, the seals and everything after are the real
code. Whatever comes from here is marked: the binding says IS_SIMULATED, the model name says SIMULATED, and the agent
seals the mark into every reading.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from gpuledger.clock import Clock, SystemClock
from gpuledger.errors import ConfigurationError
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.nvml_health import FI_RECOVERY_ACTION, FI_THROTTLED
from gpuledger_agent.processes import ProcessFacts
from gpuledger_agent.program import Parts

MODEL = "SIMULATED NVIDIA H100 80GB HBM3"
GPUS = 8
MEMORY_TOTAL_BYTES = 81_559 << 20
POWER_LIMIT_MW = 700_000
BARE_W = 70
PARKED_W = 115
FULL_W = 690
CAPPED_PERCENT = 95
_GIB = 1 << 30
_MINUTE_S = 60
_DAY_S = 86_400
_HOUR_NS = 3_600 * 10**9
_NO_INSTANCE = 0xFFFFFFFF
_MONDAY_S = 4 * _DAY_S
"""1970-01-05, the first Monday of POSIX time."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What one simulated GPU does for one minute; `pid` 0 means that nobody holds it."""

    percent: int = 0
    pid: int = 0
    memory_bytes: int = 0
    is_lost: bool = False
    xid: int = 0
    """The Xid error that it reports at the minute's beginning; 0 is none."""

    @property
    def power_w(self) -> int:
        if self.pid == 0:
            return BARE_W
        return PARKED_W + (FULL_W - PARKED_W) * self.percent // 100

    @property
    def capped_share(self) -> float:
        """Return the share of the time in which the power limit holds the clocks down."""
        return max(0, self.percent - CAPPED_PERCENT) / (100 - CAPPED_PERCENT)


_FREE = Moment()
_LOST = Moment(is_lost=True)
_FALLING = Moment(is_lost=True, xid=79)

_PEOPLE = {
    4100: ("python3", "mei"),
    4200: ("vllm", "serving"),
    4300: ("jupyter-lab", "li.wei"),
    4400: ("python3", "sofia"),
}


def _chance(*parts: object) -> float:
    """Return a number in 0..1 that is always the same for the same parts."""
    text = "/".join(map(str, parts)).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") / 0xFFFFFFFF


def _hour_of_week(second: int) -> float:
    return (second - _MONDAY_S) % (7 * _DAY_S) / 3600


def _training(gpu: int, second: int) -> Moment:
    """One job over all GPUs from Monday 06:00 to Sunday 20:00, with checkpoint pauses and an evening of debugging."""
    hour = _hour_of_week(second)
    if not 6 <= hour < 164:
        return _FREE
    minute = second // _MINUTE_S
    if 54 <= hour < 60:
        return Moment(percent=0, pid=4100, memory_bytes=71 * _GIB)
    if minute % 45 == 0:
        return Moment(percent=3, pid=4100, memory_bytes=71 * _GIB)
    return Moment(percent=94 + int(6 * _chance("t", gpu, minute)), pid=4100, memory_bytes=71 * _GIB)


def _inference(gpu: int, second: int) -> Moment:
    """A server with the day's rhythm: near nothing at night, so it is held and not busy."""
    minute = second // _MINUTE_S
    day = math.sin((second % _DAY_S / _DAY_S - 0.3) * 2 * math.pi)
    percent = int(38 * (day + 0.75) * (0.6 + 0.8 * _chance("i", gpu, minute)))
    return Moment(percent=max(0, min(100, percent)), pid=4200, memory_bytes=66 * _GIB)


def _serving_node(gpu: int, second: int) -> Moment:
    """Five GPUs serve, two are held by a notebook that does nothing, one falls off the bus every Monday at 06:00."""
    if gpu < 5:
        return _inference(gpu, second)
    if gpu < 7:
        return Moment(percent=0, pid=4300, memory_bytes=48 * _GIB)
    hour = _hour_of_week(second)
    if hour < 6:
        return _FREE
    return _FALLING if hour < 6 + 1 / 60 else _LOST


def _fine_tuning(gpu: int, second: int) -> Moment:
    """Short jobs on half of the node during office hours."""
    hour = _hour_of_week(second) % 24
    if gpu >= 4 or not 8 <= hour < 20:
        return _FREE
    minute = second // _MINUTE_S
    # A job that runs into its own mistakes: a page fault now and then, which is no fault of the GPU.
    xid = 31 if _chance("x", gpu, minute) > 0.999 else 0
    return Moment(percent=55 + int(40 * _chance("f", gpu, minute)), pid=4400, memory_bytes=40 * _GIB, xid=xid)


SCENARIOS: dict[str, Callable[[int, int], Moment]] = {
    "training": _training,
    "serving": _serving_node,
    "free": lambda gpu, second: _FREE,
    "tuning": _fine_tuning,
}
"""Name -> what GPU `index` does in the minute that holds POSIX second `s`."""


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


class SimulatedNvml:
    """The part of nvidia-ml-py that the door uses, playing a scenario; handles are indexes."""

    IS_SIMULATED = True
    NVMLError = SimulatedNVMLError
    NVMLLibraryMismatchError = SimulatedMismatchError
    nvmlMemory_v2 = 0x02000028

    def __init__(self, scenario: str, clock: Clock) -> None:
        self._play = SCENARIOS[scenario]
        self._scenario = scenario
        self._clock = clock
        self._counters: list[_Counters | None] = [None] * GPUS
        self._minutes: list[tuple[int, Moment] | None] = [None] * GPUS

    def _now(self, gpu: int, *, alive: bool = True) -> Moment:
        minute = self._clock.wall_ns() // (_MINUTE_S * 10**9)
        cached = self._minutes[gpu]
        if cached is None or cached[0] != minute:
            cached = self._minutes[gpu] = (minute, self._play(gpu, minute * _MINUTE_S))
        if alive and cached[1].is_lost:
            raise SimulatedNVMLError(15)
        return cached[1]

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

    def nvmlDeviceGetUUID(self, gpu: int) -> str:
        name = hashlib.sha256(f"{self._scenario}/{gpu}".encode()).hexdigest()
        return f"GPU-51301a7e-{name[:4]}-{name[4:8]}-{name[8:12]}-{name[12:24]}"

    def nvmlDeviceGetSerial(self, gpu: int) -> str:
        return f"SIM{int(_chance('serial', self._scenario, gpu) * 1e9):010d}"

    def nvmlDeviceGetMinorNumber(self, gpu: int) -> int:
        return gpu

    def nvmlDeviceGetName(self, gpu: int) -> str:
        return MODEL

    def nvmlDeviceGetPciInfo(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(busId=f"00000000:{0x1B + 16 * gpu:02X}:00.0")

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        return POWER_LIMIT_MW

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._now(gpu).percent)

    def nvmlDeviceGetMigMode(self, gpu: int) -> list[int]:
        raise SimulatedNVMLError(3)

    def nvmlGpmQueryDeviceSupport(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(isSupportedDevice=0)

    def nvmlDeviceGetSamples(self, gpu: int, kind: int, since_us: int) -> tuple[int, list[SimpleNamespace]]:
        raise SimulatedNVMLError(3)

    def nvmlDeviceGetMemoryInfo(self, gpu: int, version: int | None = None) -> SimpleNamespace:
        return SimpleNamespace(used=self._now(gpu, alive=False).memory_bytes, total=MEMORY_TOTAL_BYTES)

    def _count(self, gpu: int) -> _Counters:
        """Return the counters since the simulation began: exact integrals of the scenario, minute by minute."""
        now_ms = self._clock.wall_ns() // 10**6
        counters = self._counters[gpu]
        if counters is None:
            counters = self._counters[gpu] = _Counters(time_ms=now_ms)
        while counters.time_ms < now_ms:
            end_ms = min(now_ms, (counters.time_ms // 60_000 + 1) * 60_000)
            moment = self._play(gpu, counters.time_ms // 60_000 * _MINUTE_S)
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
        if moment.pid == 0:
            return []
        return [SimpleNamespace(pid=moment.pid, usedGpuMemory=moment.memory_bytes, gpuInstanceId=_NO_INSTANCE)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        return []

    def nvmlDeviceGetMPSComputeRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        return []

    def nvmlDeviceGetFieldValues(self, gpu: int, fields: list[int]) -> list[SimpleNamespace]:
        self._now(gpu)
        values = {FI_RECOVERY_ACTION: 0, FI_THROTTLED["sw_power_cap"]: self._count(gpu).capped_ns}
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

    def nvmlEventSetCreate(self) -> list[int]:
        return []

    def nvmlEventSetFree(self, events: list[int]) -> None:
        return

    def nvmlDeviceRegisterEvents(self, gpu: int, types: int, events: list[int]) -> None:
        events[:] = [gpu, self._clock.wall_ns() // (_MINUTE_S * 10**9)]

    def nvmlEventSetWait_v2(self, events: list[int], timeout_ms: int) -> SimpleNamespace:
        """Answer the Xid of the current minute once."""
        gpu, seen_minute = events
        minute = self._clock.wall_ns() // (_MINUTE_S * 10**9)
        xid = self._now(gpu, alive=False).xid
        if minute == seen_minute or xid == 0:
            raise SimulatedNVMLError(10)
        events[1] = minute
        return SimpleNamespace(eventData=xid, gpuInstanceId=0xFFFFFFFF)

    def nvmlDeviceGetRemappedRows(self, gpu: int) -> tuple[int, int, int, int]:
        self._now(gpu)
        return (0, 0, 0, 0)


class SimulatedProcesses:
    """The people of the scenarios."""

    def describe(self, pid: int) -> ProcessFacts | None:
        if pid not in _PEOPLE:
            return None
        name, user = _PEOPLE[pid]
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
    )
