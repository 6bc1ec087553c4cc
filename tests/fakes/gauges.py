# SPDX-License-Identifier: Apache-2.0
"""Gauges as exporters make them, into a FakeEngine: one GPU, one span, constant values, a sample each interval."""

from __future__ import annotations

from collections.abc import Mapping

from gpuledger.cells import HOUR_MS
from tests.fakes.engines import FakeEngine

MONDAY_MS = 1_794_787_200_000
"""2026-11-16T00:00Z."""
MODEL = "NVIDIA H100 80GB HBM3"


def uuid_of(number: int) -> str:
    return f"GPU-{number:08x}-0000-4000-8000-{number:012x}"


def dcgm_labels(number: int, node: str, **more: str) -> dict[str, str]:
    """Labels as dcgm-exporter 4.5.3-4.8.2 writes them (internal/pkg/rendermetrics), and those of a scrape."""
    return {
        "gpu": str(number % 8),
        "UUID": uuid_of(number),
        "pci_bus_id": f"00000000:{number % 8 + 1:02X}:00.0",
        "device": f"nvidia{number % 8}",
        "modelName": MODEL,
        "hostname": node,
        "DCGM_FI_DRIVER_VERSION": "570.86.15",
        "job": "dcgm",
        "instance": f"{node}:9400",
        **more,
    }


def add_dcgm(
    engine: FakeEngine,
    labels: Mapping[str, str],
    start_ms: int,
    end_ms: int,
    *,
    active: float | None = None,
    utilisation: float | None = None,
    memory_mib: float | None = None,
    interval_ms: int = 30_000,
    offset_ms: int = 7_000,
) -> None:
    """Add samples in [start_ms, end_ms), the first `offset_ms` after the start."""
    times = range(start_ms + offset_ms, end_ms, interval_ms)
    gauges = {
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE": active,
        "DCGM_FI_DEV_GPU_UTIL": utilisation,
        "DCGM_FI_DEV_FB_USED": memory_mib,
    }
    for name, value in gauges.items():
        if value is not None:
            engine.add(name, labels, [(time_ms, value) for time_ms in times])


def busy(engine: FakeEngine, labels: Mapping[str, str], start_ms: int, end_ms: int) -> None:
    add_dcgm(engine, labels, start_ms, end_ms, active=0.9, utilisation=97, memory_mib=70_000)


def held(engine: FakeEngine, labels: Mapping[str, str], start_ms: int, end_ms: int) -> None:
    add_dcgm(engine, labels, start_ms, end_ms, active=0.0, utilisation=0, memory_mib=20_000)


def free(engine: FakeEngine, labels: Mapping[str, str], start_ms: int, end_ms: int) -> None:
    add_dcgm(engine, labels, start_ms, end_ms, active=0.0, utilisation=0, memory_mib=4)


def a_morning() -> FakeEngine:
    """Six hours of two nodes, with a dark GPU, pods that come and go, and an engine that is ten hours in.

    n1: GPU 0 works for pod a 3 h and is then held by it; GPU 1 is free. n2: GPU 8 works 2 h and never reports again.
    """
    engine = FakeEngine(now_ms=MONDAY_MS + 10 * HOUR_MS)
    until = [MONDAY_MS + hours * HOUR_MS for hours in range(7)]
    pod = {"pod": "a-0", "namespace": "team-a", "container": "main"}
    busy(engine, dcgm_labels(0, "n1", **pod), until[0], until[3])
    held(engine, dcgm_labels(0, "n1", **pod), until[3], until[6])
    free(engine, dcgm_labels(1, "n1"), until[0], until[6])
    busy(engine, dcgm_labels(8, "n2"), until[0], until[2])
    return engine
