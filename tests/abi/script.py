# SPDX-License-Identifier: Apache-2.0
"""Scripts for the scripted NVML library: what each GPU does over time, and which calls go wrong.

Times are milliseconds since script start, ratios parts per million of one, power mW, energy mJ, memory bytes.
The text format is described in README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

FULL = 1_000_000
"""100 % in parts per million."""
GIB = 1 << 30

BOARD = -1
"""Of a rule: no GPU instance."""

# nvmlReturn_t values that scripts name.
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
UNKNOWN = 999


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that holds."""

    value: int

    def words(self) -> str:
        return f"const {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """A square wave: `high` for the first `on_ms` of each period, else `low`; phase counts from script start."""

    period_ms: int
    on_ms: int
    high: int = FULL
    low: int = 0
    phase_ms: int = 0

    def words(self) -> str:
        return f"wave {self.period_ms} {self.on_ms} {self.phase_ms} {self.high} {self.low}"


@dataclass(frozen=True, slots=True)
class Failure:
    """The value cannot be read: every call that needs it answers `code`."""

    code: int = NOT_SUPPORTED

    def words(self) -> str:
        return f"error {self.code}"


Signal = Constant | Wave | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that a list shows during [from_ms, to_ms); `to_ms` None: to the end. Memory None: not available.

    On a GPU instance it runs in the compute instance `compute`.
    """

    pid: int
    kind: str = "compute"
    from_ms: int = 0
    to_ms: int | None = None
    memory_bytes: int | None = GIB
    compute: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A GPU off the bus (or waiting for a reset) during [from_ms, to_ms)."""

    from_ms: int
    to_ms: int | None = None
    code: int = GPU_IS_LOST
    handle_fails: bool = False

    def words(self, gpu: int) -> str:
        word = "lost" if self.code == GPU_IS_LOST else "reset_required"
        return f"{word} {gpu} {self.from_ms} {_end(self.to_ms)}" + (" handle" if self.handle_fails else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What goes wrong with calls of `function` ("*": all) about GPU `gpu` (None: any) during [from_ms, to_ms).

    `instance` makes it one GPU instance only, by its place in the script, or BOARD: what is not about an instance.
    Exactly one of: `error`, a code every such call answers; `latency_ms`, how long it takes; `fail`, (k, n, code): of
    the matching calls, numbered from 0, those with number % n == k answer code; `field`, (field id, code): that entry
    of nvmlDeviceGetFieldValues answers code; `kill`: the call ends the program as kill -9 would.
    """

    function: str
    gpu: int | None = None
    instance: int | None = None
    from_ms: int = 0
    to_ms: int | None = None
    error: int | None = None
    latency_ms: int | None = None
    fail: tuple[int, int, int] | None = None
    field: tuple[int, int] | None = None
    kill: bool = False

    def words(self) -> str:
        given = {
            "error": self.error,
            "latency": self.latency_ms,
            "fail": None if self.fail is None else " ".join(map(str, self.fail)),
            "field": None if self.field is None else " ".join(map(str, self.field)),
        }
        effects = [f"{word} {value}" for word, value in given.items() if value is not None]
        effects += ["kill"] * self.kill
        if len(effects) != 1:
            raise ValueError(f"a rule has one effect, not {len(effects)}: {self}")
        gpu = "*" if self.gpu is None else str(self.gpu)
        if self.instance is not None:
            gpu += "/-" if self.instance == BOARD else f"/{self.instance}"
        return f"rule {self.function} {gpu} {self.from_ms} {_end(self.to_ms)} {effects[0]}"


@dataclass(slots=True, kw_only=True)
class Worker:
    """What works: a GPU or a GPU instance (`tracks`: quantity → [(from ms, signal)], the first at 0)."""

    tracks: dict[str, list[tuple[int, Signal]]] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    def set(self, track: str, signal: Signal | int, from_ms: int = 0) -> Self:
        """From `from_ms` on, the quantity follows `signal` (an int: a constant). Moments of a track must rise."""
        spans = self.tracks.setdefault(track, [])
        spans.append((from_ms, Constant(signal) if isinstance(signal, int) else signal))
        return self

    def act(
        self,
        from_ms: int,
        *,
        utilization_pct: float | None = None,
        power_w: float | None = None,
        memory_gib: float | None = None,
    ) -> Self:
        """Shorthand in a person's units: set what is given, from `from_ms` on."""
        if utilization_pct is not None:
            self.set("utilization", round(utilization_pct * 10_000), from_ms)
        if power_w is not None:
            self.set("power_mw", round(power_w * 1_000), from_ms)
        if memory_gib is not None:
            self.set("memory_used_bytes", round(memory_gib * GIB), from_ms)
        return self

    def run(
        self, pid: int, from_ms: int = 0, to_ms: int | None = None, *, kind: str = "compute", compute: int = 0
    ) -> Self:
        """Show a process during [from_ms, to_ms)."""
        self.processes.append(Process(pid=pid, kind=kind, from_ms=from_ms, to_ms=to_ms, compute=compute))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class MigDevice:
    """A compute instance in a slot of its GPU during [from_ms, to_ms).

    A `ghost` is destroyed then, and its slot still hands out the handle.
    """

    uuid: str
    slot: int
    compute: int = 0
    from_ms: int = 0
    to_ms: int | None = None
    ghost: bool = False


@dataclass(slots=True, kw_only=True)
class Instance(Worker):
    """A GPU instance during [from_ms, to_ms), with its compute instances."""

    instance_id: int
    slices: int
    profile: str
    memory_total_bytes: int
    from_ms: int = 0
    to_ms: int | None = None
    devices: list[MigDevice] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Gpu(Worker):
    """One GPU: what it is, and what it does over time.

    `mig` has (from ms, current mode, pending mode), none: never divided.
    """

    uuid: str
    serial: str | None = None
    name: str = "NVIDIA H100 80GB HBM3"
    part: str | None = "692-2G520-0200-000"
    pci: str = "00000000:1B:00.0"
    memory_total_bytes: int = 81_559 << 20
    memory_reserved_bytes: int = 512 << 20
    power_limit_mw: int = 700_000
    energy_base_mj: int = 0
    gpm: bool = True
    mig_supported: bool = True
    mig: list[tuple[int, bool, bool]] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    energy_resets: list[tuple[int, int]] = field(default_factory=list)
    xids: list[tuple[int, int]] = field(default_factory=list)

    def divide(self, from_ms: int = 0, *, on: bool = True, pending: bool | None = None) -> Gpu:
        """Switch MIG mode on or off at `from_ms`."""
        self.mig.append((from_ms, on, on if pending is None else pending))
        return self

    def add_instance(
        self,
        profile: str,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        instance_id: int | None = None,
        slot: int | None = None,
        **details: object,
    ) -> Instance:
        """Append a GPU instance of a profile ("3g.40gb") with one compute instance, in slot and id of its ordinal."""
        number = len(self.instances)
        slices, gib = profile.split(".")
        known: dict[str, object] = {
            "instance_id": number + 1 if instance_id is None else instance_id,
            "slices": int(slices.removesuffix("g")),
            "profile": profile,
            "memory_total_bytes": int(gib.removesuffix("gb")) * GIB,
            "from_ms": from_ms,
            "to_ms": to_ms,
        }
        instance = Instance(**(known | details))  # type: ignore[arg-type]
        uuid = f"MIG-{self.uuid[-12:-6]}{number:02x}-0000-5000-8000-{self.uuid[-12:]}"
        place = number if slot is None else slot
        if "devices" not in details:
            instance.devices.append(MigDevice(uuid=uuid, slot=place, from_ms=from_ms, to_ms=to_ms))
        self.instances.append(instance)
        return instance

    def lose(self, from_ms: int, to_ms: int | None = None, *, handle_fails: bool = False) -> Gpu:
        """Take the GPU off the bus during [from_ms, to_ms)."""
        self.outages.append(Outage(from_ms=from_ms, to_ms=to_ms, handle_fails=handle_fails))
        return self


@dataclass(slots=True, kw_only=True)
class Script:
    """A node's GPUs, rules and the library's settings. `steps_ms`: (when, by how much) the wall clock steps."""

    gpus: list[Gpu] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    utilization_period_ms: int = 1_000
    samples_hz: int = 6
    mig_parent_gpm: bool = False
    driver: str = "570.124.06"
    steps_ms: list[tuple[int, int]] = field(default_factory=list)

    def add_gpu(self, **details: object) -> Gpu:
        """Append a GPU with an invented identity; `details` override Gpu's fields."""
        index = len(self.gpus)
        known: dict[str, object] = {
            "uuid": f"GPU-00000000-0000-4000-8000-{index:012x}",
            "serial": f"16502200{index:05d}",
            "pci": f"00000000:{0x1B + index:02X}:00.0",
        }
        gpu = Gpu(**(known | details))  # type: ignore[arg-type]
        self.gpus.append(gpu)
        return gpu

    def rule(self, function: str, **effect: object) -> Script:
        """Append a rule; see Rule."""
        self.rules.append(Rule(function=function, **effect))  # type: ignore[arg-type]
        return self

    def polled(self) -> Script:
        """Leave the GPUs so far nothing but polled utilisation to tell their activity."""
        for gpu in self.gpus:
            gpu.gpm = False
        return self.rule("nvmlDeviceGetSamples", error=NOT_SUPPORTED)

    def text(self) -> str:
        """The script as the library reads it."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "gpuledger-abi 1"
        yield f"set utilization_period_ms {self.utilization_period_ms}"
        yield f"set samples_hz {self.samples_hz}"
        if self.mig_parent_gpm:
            yield "set mig_parent_gpm 1"
        yield f"set driver {self.driver}"
        for index, gpu in enumerate(self.gpus):
            yield from _gpu_lines(index, gpu)
        for rule in self.rules:
            yield rule.words()


def _gpu_lines(index: int, gpu: Gpu) -> Iterator[str]:
    yield f"gpu {index}"
    for key in ("uuid", "serial", "name", "part", "pci"):
        yield f"gpu {index} {key} {getattr(gpu, key) or '-'}"
    for key in ("memory_total_bytes", "memory_reserved_bytes", "power_limit_mw", "energy_base_mj"):
        yield f"gpu {index} {key} {getattr(gpu, key)}"
    yield f"gpu {index} gpm {int(gpu.gpm)}"
    yield f"gpu {index} mig_supported {int(gpu.mig_supported)}"
    for from_ms, current, pending in gpu.mig:
        yield f"mig {index} {from_ms} {int(current)} {int(pending)}"
    for number, instance in enumerate(gpu.instances):
        place = f"{index}/{number}"
        span = f"{instance.from_ms} {_end(instance.to_ms)}"
        what = f"{instance.instance_id} {instance.slices} {instance.memory_total_bytes}"
        yield f"instance {place} {what} {span} {instance.profile}"
        for device in instance.devices:
            span = f"{device.from_ms} {_end(device.to_ms)}" + (" ghost" if device.ghost else "")
            yield f"device {place} {device.slot} {device.compute} {device.uuid} {span}"
        yield from _work_lines(place, instance)
    yield from _work_lines(str(index), gpu)
    for outage in gpu.outages:
        yield outage.words(index)
    for at_ms, base_mj in gpu.energy_resets:
        yield f"energy_reset {index} {at_ms} {base_mj}"
    for at_ms, code in gpu.xids:
        yield f"xid {index} {at_ms} {code}"


def _work_lines(place: str, worker: Worker) -> Iterator[str]:
    for track, spans in worker.tracks.items():
        for from_ms, signal in spans:
            yield f"track {place} {track} {from_ms} {signal.words()}"
    for process in worker.processes:
        memory = "-" if process.memory_bytes is None else str(process.memory_bytes)
        span = f"{process.from_ms} {_end(process.to_ms)}"
        yield f"process {place} {process.pid} {process.kind} {span} {memory} {process.compute}"


def _end(to_ms: int | None) -> str:
    return "end" if to_ms is None else str(to_ms)
