# SPDX-License-Identifier: Apache-2.0
"""The part of the door to NVML that measures: GPU performance monitoring (GPM, Hopper and later), samples, power.

A GPM sample is opaque and holds the counters of one moment; a metric is the mean between two of them. It is the
caller's to say which two, and to free them while NVML is initialised. One thread may use it at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuledger_agent.measures import NO_MEANS, GpmMeans
from gpuledger_agent.nvml import VALUE_MEMBERS, CallFailed, Handle, Nvml, NvmlError
from gpuledger_agent.snapshot import Count

GRAPHICS_UTIL, SM_UTIL, SM_OCCUPANCY, ANY_TENSOR_UTIL, DRAM_BW_UTIL = 1, 2, 3, 5, 10
PCIE_TX_PER_SEC, PCIE_RX_PER_SEC, NVLINK_TOTAL_RX_PER_SEC, NVLINK_TOTAL_TX_PER_SEC = 20, 21, 60, 61
METRICS = (
    GRAPHICS_UTIL,
    SM_UTIL,
    SM_OCCUPANCY,
    ANY_TENSOR_UTIL,
    DRAM_BW_UTIL,
    PCIE_TX_PER_SEC,
    PCIE_RX_PER_SEC,
    NVLINK_TOTAL_RX_PER_SEC,
    NVLINK_TOTAL_TX_PER_SEC,
)
SM_CYCLES_ELAPSED, SM_CYCLES_ACTIVE, MMA_CYCLES_ACTIVE, PCIE_TX, PCIE_RX = 248, 249, 250, 255, 256
COUNTERS = (SM_CYCLES_ELAPSED, SM_CYCLES_ACTIVE, MMA_CYCLES_ACTIVE, PCIE_TX, PCIE_RX)
"""Counters "since reboot", in nvml.h of 13.x: those of all tensor work are called MMA."""

_GPU_UTILIZATION_SAMPLES = 1

GpmSample = Any
_Request = tuple[Any, list[Any]]


class Gpm:
    """GPM through the binding that the door was given."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._means_request: _Request | None = None
        self._counts_request: _Request | None = None

    def is_supported(self, handle: Handle) -> bool:
        """Return whether the GPU has GPM; a driver that does not know the question has not."""
        support = self._nvml.offered(self._nvml.binding.nvmlGpmQueryDeviceSupport, handle)
        return support is not None and int(support.isSupportedDevice) != 0

    def allocate(self) -> GpmSample:
        """Return a new sample, to be freed by `free`; raises CallFailed."""
        return self._nvml.required(self._nvml.binding.nvmlGpmSampleAlloc)

    def free(self, sample: GpmSample) -> None:
        """Free a sample; one of a library that is gone is gone with it."""
        try:
            self._nvml.required(self._nvml.binding.nvmlGpmSampleFree, sample)
        except NvmlError:
            return

    def take(self, handle: Handle, sample: GpmSample, instance: int | None = None) -> bool:
        """Fill the sample with this moment's counters; return False where the GPU does not offer them (now).

        `instance` is the id of one of the GPU's instances; None: the whole GPU.
        """
        if instance is not None:
            return self._nvml.offered(self._nvml.binding.nvmlGpmMigSampleGet, handle, instance, sample) is not None
        return self._nvml.offered(self._nvml.binding.nvmlGpmSampleGet, handle, sample) is not None

    def means(self, first: GpmSample, second: GpmSample) -> GpmMeans:
        """Return the means from the first to the second sample; raises CallFailed, GpuLost, ResetRequired."""
        if self._means_request is None:
            self._means_request = self._new_request(METRICS)
        metrics = self._ask(self._means_request, first, second)
        if metrics is None:
            return NO_MEANS
        errors: list[str] = []
        values = [self._value(metric, errors) for metric in metrics]
        return GpmMeans(
            graphics=values[0],
            sm=values[1],
            sm_occupancy=values[2],
            tensor=values[3],
            dram=values[4],
            pcie_tx=values[5],
            pcie_rx=values[6],
            nvlink_rx=values[7],
            nvlink_tx=values[8],
            errors=tuple(errors),
        )

    def counts(self, first: GpmSample, second: GpmSample) -> dict[str, Count] | None:
        """Return the counters as of the second sample by engine or link, None where the driver has none.

        nvml.h says "since reboot" and no more. That they want two samples as every metric does, and that PCIe is in
        bytes, is what NVIDIA's own DCGM does; whoever uses them holds them against the means first.
        """
        if self._counts_request is None:
            self._counts_request = self._new_request(COUNTERS)
        metrics = self._ask(self._counts_request, first, second)
        if metrics is None:
            return None
        elapsed, active, tensor, pcie_tx, pcie_rx = (self._count(metric) for metric in metrics)
        found: dict[str, Count] = {}
        for engine, cycles in (("sm", active), ("tensor", tensor)):
            if cycles is not None and elapsed is not None:
                found[engine] = Count(cycles, elapsed)
        for link, amount in (("pcie_tx", pcie_tx), ("pcie_rx", pcie_rx)):
            if amount is not None:
                found[link] = Count(amount)
        return found or None

    def utilization_samples(self, handle: Handle, since_us: int) -> list[tuple[int, int]] | None:
        """Return the (time stamp, %) of nvmlDeviceGetSamples that are newer than the time stamp `since_us`.

        Time stamps are the driver's own; an empty list is not a zero.
        """
        try:
            answer = self._nvml.offered(
                self._nvml.binding.nvmlDeviceGetSamples, handle, _GPU_UTILIZATION_SAMPLES, since_us
            )
        except CallFailed as exc:
            if exc.error == "not_found":
                return []
            raise
        if answer is None:
            return None
        kind, samples = answer
        if kind not in VALUE_MEMBERS:
            raise CallFailed("nvmlDeviceGetSamples", "unexpected_value_type")
        return [(int(s.timeStamp), int(getattr(s.sampleValue, VALUE_MEMBERS[kind]))) for s in samples]

    def reported_power_mw(self, handle: Handle) -> int | None:
        """Return nvmlDeviceGetPowerUsage: on Hopper the mean of the last second."""
        value = self._nvml.offered(self._nvml.binding.nvmlDeviceGetPowerUsage, handle)
        return None if value is None else int(value)

    def _new_request(self, metric_ids: Sequence[int]) -> _Request:
        """Return the 19 kB structure of nvmlGpmMetricsGet, which is used again and again, and its metrics."""
        binding = self._nvml.binding
        request = binding.c_nvmlGpmMetricsGet_t()
        request.version = binding.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(metric_ids)
        metrics = [request.metrics[place] for place in range(len(metric_ids))]
        for metric, metric_id in zip(metrics, metric_ids, strict=True):
            metric.metricId = metric_id
        return request, metrics

    def _ask(self, asked: _Request, first: GpmSample, second: GpmSample) -> list[Any] | None:
        """Return the answered metrics in order, None where the call is not offered; raises as the door does."""
        request, metrics = asked
        request.sample1, request.sample2 = first, second
        for metric in metrics:
            # What a call does not write must not be taken for its answer.
            metric.value = math.nan
        return None if self._nvml.offered(self._nvml.binding.nvmlGpmMetricsGet, request) is None else metrics

    def _count(self, metric: Any) -> int | None:
        value = self._value(metric, [])
        return int(value) if value is not None and math.isfinite(value) and value >= 0 else None

    def _value(self, metric: Any, errors: list[str]) -> float | None:
        """Return one metric's value; a call that succeeds may still have failed for a metric.

        INVALID_ARGUMENT is what a driver says of a metric that it, or this board, does not know.
        """
        try:
            is_offered = self._nvml.is_answered(int(metric.nvmlReturn), "nvmlGpmMetricsGet")
        except CallFailed as exc:
            if exc.error != "invalid_argument":
                errors.append(exc.error)
            return None
        value = float(metric.value)
        return value if is_offered and not math.isnan(value) else None
