# SPDX-License-Identifier: Apache-2.0
"""Makes calls through the real pynvml and prints what it answered, as JSON: python -m tests.abi.probe < requests.

A request is [script time in ms or null, name, argument...]: time is moved there first, then the function of that name
(pynvml's, or one of EXTRAS) is called. The argument "gpu:N" stands for the handle of GPU N, "mig:N/S" for that of the
MIG device in slot S of GPU N; a handle is looked up once, so that it can be out of date later. An NVMLError answers
{"error": code}, anything else of pynvml's {"raised": class}.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

from tests.fakes.shared_clock import MS_NS, SharedClock

_handles: dict[str, Any] = {}
_event_sets: list[Any] = []


def plain(value: Any) -> Any:
    """Structures, unions and friends as JSON."""
    if isinstance(value, ctypes.Structure | ctypes.Union):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, pynvml.nvmlFriendlyObject):
        return {name: plain(item) for name, item in vars(value).items()}
    if isinstance(value, list | tuple | ctypes.Array):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, ctypes._Pointer):
        return bool(value)
    return value


def fields(handle: Any, ids: list[int]) -> Any:
    """nvmlDeviceGetFieldValues, each entry as [nvmlReturn, value or None, timestamp]."""
    entries = []
    for entry in pynvml.nvmlDeviceGetFieldValues(handle, ids):
        wide = entry.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        value = entry.value.ullVal if wide else entry.value.uiVal
        entries.append([entry.nvmlReturn, value if entry.nvmlReturn == 0 else None, entry.timestamp])
    return entries


def samples(handle: Any, kind: int, last_seen_us: int) -> Any:
    """nvmlDeviceGetSamples as [[timestamp, value], ...]."""
    _, found = pynvml.nvmlDeviceGetSamples(handle, kind, last_seen_us)
    return [[sample.timeStamp, sample.sampleValue.uiVal] for sample in found]


def gpm_sample(handle: Any) -> int:
    """Take a GPM sample; answers its number."""
    sample = pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleGet(handle, sample)
    _samples.append(sample)
    return len(_samples) - 1


_samples: list[Any] = []


def gpm_mig_sample(handle: Any, instance: int) -> int:
    """Take a GPM sample of a GPU instance; answers its number."""
    sample = pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmMigSampleGet(handle, instance, sample)
    _samples.append(sample)
    return len(_samples) - 1


def gpm_metrics(first: int, second: int, ids: list[int]) -> Any:
    """Metrics between two samples, as [nvmlReturn, value or "nan"]."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = len(ids)
    request.sample1, request.sample2 = _samples[first], _samples[second]
    for index, metric in enumerate(ids):
        request.metrics[index].metricId = metric
    pynvml.nvmlGpmMetricsGet(request)
    entries = [request.metrics[index] for index in range(len(ids))]
    return [[entry.nvmlReturn, entry.value if entry.value == entry.value else "nan"] for entry in entries]


def watch(handle: Any, types: int) -> None:
    """Register for events, in one set for all GPUs."""
    if not _event_sets:
        _event_sets.append(pynvml.nvmlEventSetCreate())
    pynvml.nvmlDeviceRegisterEvents(handle, types, _event_sets[0])


def wait(timeout_ms: int) -> Any:
    """Wait for an event; answers [UUID, type, Xid]."""
    event = pynvml.nvmlEventSetWait_v2(_event_sets[0], timeout_ms)
    return [pynvml.nvmlDeviceGetUUID(event.device), event.eventType, event.eventData]


def counted(function: str) -> int:
    """How often the library has been asked for `function`."""
    helper = ctypes.CDLL("libnvidia-ml.so.1").gpuledger_abi_calls
    helper.restype = ctypes.c_uint64
    count: int = helper(function.encode())
    return count


def now_ms() -> float:
    """The script's time."""
    assert _clock is not None
    return _clock.script_ms()


EXTRAS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (fields, samples, gpm_sample, gpm_mig_sample, gpm_metrics, watch, wait, counted, now_ms)
}
_clock: SharedClock | None = None


def look_up(name: str) -> Any:
    """The handle that an argument stands for."""
    board, _, slot = name[4:].partition("/")
    handle = pynvml.nvmlDeviceGetHandleByIndex(int(board))
    return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, int(slot)) if slot else handle


def answer(request: list[Any]) -> Any:
    """One request's answer."""
    at_ms, name, *arguments = request
    if at_ms is not None:
        assert _clock is not None
        _clock.advance_to(_start_ns + at_ms * MS_NS)
    try:
        for index, argument in enumerate(arguments):
            if isinstance(argument, str) and argument.startswith(("gpu:", "mig:")):
                if argument not in _handles:
                    _handles[argument] = look_up(argument)
                arguments[index] = _handles[argument]
        return plain((EXTRAS.get(name) or getattr(pynvml, name))(*arguments))
    except pynvml.NVMLError as error:
        return {"error": error.value}
    except pynvml.NVMLLibraryMismatchError as error:
        return {"raised": type(error).__name__}


if __name__ == "__main__":
    if "GPULEDGER_ABI_CLOCK" in os.environ:
        _clock = SharedClock(Path(os.environ["GPULEDGER_ABI_CLOCK"]))
        _start_ns = _clock.boottime_ns()
    json.dump([answer(request) for request in json.load(sys.stdin)], sys.stdout)
