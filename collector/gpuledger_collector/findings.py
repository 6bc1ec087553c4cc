# SPDX-License-Identifier: Apache-2.0
"""What a person must look at, and the sentences for GPUs that nobody installed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger.cells import HOUR_MS, floor_to
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """Something a person must look at: what kind, about whom, when, in one sentence."""

    at_ms: int
    kind: str
    subject: str
    text: str


def unrostered(reading: Reading, gpu: GpuTime) -> Finding:
    """Return what is found where a reading tells of a GPU that the roster does not have."""
    return Finding(
        at_ms=floor_to(reading.start_ms, HOUR_MS),
        kind="unrostered",
        subject=gpu.uuid,
        text=f"{gpu.uuid} on {reading.node_name} is not in the roster; its time is in no figure",
    )


def out_of_service(gpu: str, reading: Reading) -> Finding:
    """Return what is found where a reading tells of a GPU at a time in which the roster has it nowhere."""
    return Finding(
        at_ms=floor_to(reading.start_ms, HOUR_MS),
        kind="out_of_service",
        subject=gpu,
        text=f"{reading.node_name} reports {gpu} while the roster has it out of service; that time is in no figure",
    )
