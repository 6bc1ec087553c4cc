# SPDX-License-Identifier: Apache-2.0
"""Each GPU's energy counter, read in every tick, and now and then the power that the driver reports beside it.

Both come with the GPU's batch of fields; where a field is not offered, from the call that says the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from gpuledger_agent.gpm import Gpm
from gpuledger_agent.nvml import Handle, Nvml
from gpuledger_agent.nvml_fields import FI_ENERGY, FI_POWER_AVERAGE, FieldAnswers
from gpuledger_agent.power_check import PowerCheck
from gpuledger_agent.sources import GpuReads

_log = logging.getLogger(__name__)

POWER_POLL_MS = 10_000
POWER_WINDOW_MS_MIN, POWER_WINDOW_MS_MAX = 500, 2_000
"""The driver reports the mean of a second: what is held against it must be of about the same time."""


@dataclass(slots=True)
class _Gpu:
    """What is kept of one GPU between ticks: `last` is the counter in the last tick, mJ, and that tick's edge."""

    is_field: bool = True
    last: tuple[int, int] | None = None
    power_read_ms: int | None = None
    power_check: PowerCheck = field(default_factory=PowerCheck)


class EnergySource:
    """Reads the energy counters of whole GPUs; times are edges of ticks in milliseconds."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._gpm = Gpm(nvml)
        self._gpus: dict[str, _Gpu] = {}
        self._said: set[str] = set()

    def forget(self) -> None:
        """Trust nothing that was read before."""
        self._gpus.clear()

    def interrupt(self, uuid: str) -> None:
        """Trust nothing that was read of one GPU before."""
        self._gpus.pop(uuid, None)

    def fields(self, uuid: str, edge_ms: int) -> tuple[int, ...]:
        """Return which fields of the GPU this tick wants."""
        gpu = self._gpus.get(uuid)
        if gpu is None:
            gpu = self._gpus[uuid] = _Gpu()
        energy = (FI_ENERGY,) if gpu.is_field else ()
        return (*energy, FI_POWER_AVERAGE) if self._is_power_due(gpu, edge_ms) else energy

    def read(self, uuid: str, handle: Handle, edge_ms: int, answers: FieldAnswers, reads: GpuReads) -> int | None:
        """Return the counter, mJ; None where it is not known. Raises as every read does."""
        gpu = self._gpus[uuid]
        energy_mj = answers.values.get(FI_ENERGY)
        if energy_mj is not None:
            reads.note("energy")
        else:
            # A batch that failed as a whole says nothing of what is offered.
            gpu.is_field &= answers.is_failed or not answers.is_silent(FI_ENERGY)
            energy_mj = reads.ask("energy", self._nvml.energy_mj, handle)
        self._check(uuid, handle, energy_mj, edge_ms, answers, reads)
        return energy_mj

    @staticmethod
    def _is_power_due(gpu: _Gpu, edge_ms: int) -> bool:
        if gpu.last is None or not POWER_WINDOW_MS_MIN <= edge_ms - gpu.last[1] <= POWER_WINDOW_MS_MAX:
            return False
        return gpu.power_read_ms is None or edge_ms - gpu.power_read_ms >= POWER_POLL_MS

    def _check(
        self,
        uuid: str,
        handle: Handle,
        energy_mj: int | None,
        edge_ms: int,
        answers: FieldAnswers,
        reads: GpuReads,
    ) -> None:
        """Hold the energy counter against the power that the driver reports, now and then."""
        gpu = self._gpus[uuid]
        is_due = self._is_power_due(gpu, edge_ms)
        before, gpu.last = gpu.last, None if energy_mj is None else (energy_mj, edge_ms)
        if not is_due or before is None or energy_mj is None or energy_mj < before[0]:
            return
        gpu.power_read_ms = edge_ms
        reported_mw = answers.values.get(FI_POWER_AVERAGE)
        if reported_mw is not None:
            reads.note("power")
        elif answers.is_silent(FI_POWER_AVERAGE):
            reported_mw = reads.ask("power", self._gpm.reported_power_mw, handle)
        if reported_mw is None:
            return
        means_mw = gpu.power_check.offer(1000 * (energy_mj - before[0]) / (edge_ms - before[1]), reported_mw)
        if means_mw is None:
            return
        reads.count("energy", "disagreement")
        if uuid not in self._said:
            self._said.add(uuid)
            counted_w, reported_w = (round(mean_mw / 1000, 1) for mean_mw in means_mw)
            _log.warning("energy_disagrees", extra={"uuid": uuid, "counted_w": counted_w, "reported_w": reported_w})
