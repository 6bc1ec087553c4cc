# SPDX-License-Identifier: Apache-2.0
"""The part of the door to NVML that measures: GPU performance monitoring (GPM, Hopper and later), and samples.

A GPM sample is opaque and holds the counters of one moment; a metric is the mean between two of them. It is the
caller's to say which two, and to free them while NVML is initialised. One thread may use it at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gpuledger_agent.nvml import VALUE_MEMBERS, CallFailed, Handle, Nvml, NvmlError

GRAPHICS_UTIL, SM_UTIL, SM_OCCUPANCY, ANY_TENSOR_UTIL, DRAM_BW_UTIL = 1, 2, 3, 5, 10
METRICS = (GRAPHICS_UTIL, SM_UTIL, SM_OCCUPANCY, ANY_TENSOR_UTIL, DRAM_BW_UTIL)

_GPU_UTILIZATION_SAMPLES = 1

GpmSample = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GpmMeans:
    """Means between two samples in percent of the time (occupancy: of the warps); None is not offered, failed or NaN.

    `errors` are the names of what single metrics failed with.
    """

    graphics: float | None = None
    sm: float | None = None
    sm_occupancy: float | None = None
    tensor: float | None = None
    dram: float | None = None
    errors: tuple[str, ...] = ()


NO_MEANS = GpmMeans()


class Gpm:
    """GPM through the binding that the door was given."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._request: Any = None

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
        request = self._request
        if request is None:
            request = self._request = self._new_request()
        request.sample1, request.sample2 = first, second
        for place in range(len(METRICS)):
            # What a call does not write must not be taken for its answer.
            request.metrics[place].value = math.nan
        if self._nvml.offered(self._nvml.binding.nvmlGpmMetricsGet, request) is None:
            return NO_MEANS
        errors: list[str] = []
        values = [self._value(request.metrics[place], errors) for place in range(len(METRICS))]
        return GpmMeans(
            graphics=values[0],
            sm=values[1],
            sm_occupancy=values[2],
            tensor=values[3],
            dram=values[4],
            errors=tuple(errors),
        )

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

    def _new_request(self) -> Any:
        """Return the 19 kB structure of nvmlGpmMetricsGet, which is used again and again."""
        binding = self._nvml.binding
        request = binding.c_nvmlGpmMetricsGet_t()
        request.version = binding.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(METRICS)
        for place, metric_id in enumerate(METRICS):
            request.metrics[place].metricId = metric_id
        return request

    def _value(self, metric: Any, errors: list[str]) -> float | None:
        """Return one metric's value; a call that succeeds may still have failed for a metric."""
        try:
            is_offered = self._nvml.is_answered(int(metric.nvmlReturn), "nvmlGpmMetricsGet")
        except CallFailed as exc:
            errors.append(exc.error)
            return None
        value = float(metric.value)
        return value if is_offered and not math.isnan(value) else None
