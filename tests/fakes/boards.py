# SPDX-License-Identifier: Apache-2.0
"""GPUs and GPU instances as a test sets them, for tests.fakes.nvml."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass(slots=True)
class FakeGpu:
    """One GPU; `fails` maps a function's name (or "*") to the code it fails with for this GPU."""

    uuid: str
    serial: str = "1650222012345"
    name: str = "NVIDIA H100 80GB HBM3"
    pci_bus_id: str | bytes = b"00000000:1B:00.0"
    percent: int = 0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 85_520_809_984
    power_mw: int = 70_000
    energy_base_mj: int = 0
    reported_power_mw: int | None = None
    """What the driver reports beside the counter; None: the same."""
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    recovery_action: int = 0
    is_row_remap_failed: bool = False
    gpm: dict[int, tuple[int, float]] | None = None
    """GPM metric -> (nvmlReturn, value); None: the GPU has no GPM."""
    samples: list[tuple[int, int]] | None = None
    """(time stamp in us, %) of the utilisation ring; None: not supported."""
    minor: int | None = None
    """Its minor number where that is not its index."""
    mps_clients: list[tuple[int, int | None]] | None = None
    """None: the driver does not list clients of MPS."""
    fails: dict[str, int] = field(default_factory=dict)
    instances: list[FakeInstance | None] | None = None
    """What MIG divides it into, by slot (None: a hole); None: it is not divided."""
    tells_instances: bool = True
    """Its own list of processes says which instance each is on."""
    xids: list[tuple[int, int | None]] = field(default_factory=list)
    """(number, GPU instance or None) of all that has happened."""
    event_types: int = 1 | 2 | 8
    ecc: dict[int, int] | None = None
    """Memory error type -> volatile count; None: no ECC."""
    values: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Field -> (nvmlReturn, value), beside the recovery action."""
    hangs: dict[str, threading.Event] = field(default_factory=dict)
    """Function -> what lets its calls about this GPU return."""

    def work(self, percent: int, *pids: int, power_mw: int = 500_000) -> FakeGpu:
        """Let processes hold the GPU and keep it busy."""
        self.percent, self.power_mw = percent, power_mw
        self.processes = [(pid, 8 << 30) for pid in pids]
        self.memory_used_bytes = (8 << 30) * len(pids)
        return self


@dataclass(slots=True, kw_only=True)
class FakeInstance(FakeGpu):
    """One GPU instance with one compute instance; `fails` is of calls about it alone."""

    uuid: str
    instance: int
    slices: int

    @property
    def profile(self) -> str:
        return f"{self.slices}g.{10 * self.slices}gb"


def instance(number: int, slices: int, *pids: int, **details: Any) -> FakeInstance:
    """Return a GPU instance that GPM knows to be idle, held by processes."""
    made = FakeInstance(uuid=f"MIG-{number:08x}-0000-5000-8000-000000000000", instance=number, slices=slices)
    made.gpm = dict.fromkeys((1, 2, 3, 5, 10), (0, 0.0))
    made.memory_total_bytes = slices * (10 << 30)
    made.processes = [(pid, 1 << 30) for pid in pids]
    made.memory_used_bytes = len(pids) << 30
    for name, value in details.items():
        setattr(made, name, value)
    return made


def process_of(pid: int, memory_bytes: int | None, on: int | None) -> SimpleNamespace:
    """Return an entry of a process list."""
    return SimpleNamespace(
        pid=pid, usedGpuMemory=memory_bytes, gpuInstanceId=0xFFFFFFFF if on is None else on, computeInstanceId=0
    )


def gpus(count: int) -> list[FakeGpu]:
    """Return so many GPUs that nobody uses."""
    return [
        FakeGpu(f"GPU-{index:08x}-0000-4000-8000-000000000000", serial=f"16502{index:08d}") for index in range(count)
    ]
