# SPDX-License-Identifier: Apache-2.0
"""What /metrics says of GPUs and their instances: the samples of each family, from the last View."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from gpuledger.cells import SLICES_PER_GPU
from gpuledger.metrics import Family
from gpuledger.states import ACTIVITY_EDGES_PPM, OBSERVED, State
from gpuledger_agent.health_samples import Samples, per_gpu
from gpuledger_agent.loop import GpuView, View
from gpuledger_agent.snapshot import InstanceIdentity
from gpuledger_agent.tally import Measured, Part

SLICE_MS_PER_SECOND = 7_000
SLICE_NS_PER_SECOND = 7_000_000_000


def _shares(gpu: GpuView) -> list[tuple[str, Measured]]:
    """Return what was measured by instance id; the empty id has all that no instance has."""
    total = gpu.total
    rest: list[tuple[str, Measured]] = [("", total if total.rest is None else total.rest)]
    return rest + [(str(identity.instance), measured) for identity, measured in total.instances.items()]


def _state_seconds(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, instance, state.value), measured.state_slice_ms.get(state, 0) / SLICE_MS_PER_SECOND)
        for gpu in view.gpus
        for instance, measured in _shares(gpu)
        for state in OBSERVED
    ]


def _uncovered_seconds(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, instance, reason.value), amount / SLICE_MS_PER_SECOND)
        for gpu in view.gpus
        for instance, measured in _shares(gpu)
        for reason, amount in measured.uncovered_slice_ms.items()
    ]


def _is_allocated(gpu: GpuView) -> bool | None:
    """Return whether the GPU or an instance of it was given to somebody; None where it may have been."""
    if gpu.seen.instances is None:
        return True if gpu.seen.is_allocated is True else None
    marks = {gpu.seen.is_allocated, *(one.seen.is_allocated for one in gpu.seen.instances)}
    return True if True in marks else None if None in marks else False


def _per_share(value: Callable[[Measured], float | None]) -> Callable[[View], Samples]:
    def samples(view: View) -> Samples:
        return [
            ((gpu.identity.uuid, instance), number)
            for gpu in view.gpus
            for instance, measured in _shares(gpu)
            if (number := value(measured)) is not None
        ]

    return samples


def _current_state(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, _instance_id(part), part.result.value), part.slices / SLICES_PER_GPU)
        for gpu in view.gpus
        for part in gpu.parts
        if isinstance(part.result, State)
    ]


def _instance_id(part: Part) -> str:
    return "" if part.instance is None else str(part.instance.instance)


def _instances(gpu: GpuView) -> list[tuple[InstanceIdentity, Part]]:
    return [(part.instance, part) for part in gpu.parts if part.instance is not None]


def _memory_used(view: View) -> Samples:
    return _memory(view, lambda gpu: gpu.seen.memory_used_bytes, lambda part: part.seen.memory_used_bytes)


def _memory_total(view: View) -> Samples:
    return _memory(
        view,
        lambda gpu: gpu.identity.memory_total_bytes,
        lambda part: None if part.instance is None else part.instance.memory_total_bytes,
    )


def _memory(
    view: View, of_board: Callable[[GpuView], int | None], of_instance: Callable[[Part], int | None]
) -> Samples:
    """Return the memory of boards; a divided one's is its instances', or it would be there twice."""
    samples: Samples = []
    for gpu in view.gpus:
        places = [(str(identity.instance), of_instance(part)) for identity, part in _instances(gpu)]
        for instance, size in places or [("", of_board(gpu))]:
            if size is not None:
                samples.append(((gpu.identity.uuid, instance), float(size)))
    return samples


def _instance_info(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, str(found.instance), found.uuid, found.profile or "", str(found.slices)), 1.0)
        for gpu in view.gpus
        for found, _ in _instances(gpu)
    ]


def _energy_joules(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, state), amount / 1000)
        for gpu in view.gpus
        for state, amount in gpu.total.energy_mj.items()
    ]


def _info(view: View) -> Samples:
    return [
        (
            (
                gpu.identity.uuid,
                gpu.identity.serial or "",
                gpu.identity.model or "",
                "" if gpu.identity.index is None else str(gpu.identity.index),
                gpu.identity.pci_bus_id or "",
            ),
            1.0,
        )
        for gpu in view.gpus
    ]


def _active_seconds(measured: Measured) -> float | None:
    return _scaled(measured.active_slice_ns, SLICE_NS_PER_SECOND)


def _engine_seconds(engine: str) -> Callable[[View], Samples]:
    def seconds(measured: Measured) -> float | None:
        is_known = measured.engine_known_slice_ms.get(engine, 0) > 0
        return measured.engine_slice_ns.get(engine, 0) / SLICE_NS_PER_SECOND if is_known else None

    return _per_share(seconds)


def _link_bytes(link: str) -> Callable[[View], Samples]:
    def carried(gpu: GpuView) -> float | None:
        return gpu.total.link_bytes.get(link, 0) if gpu.total.link_known_ms.get(link, 0) > 0 else None

    return per_gpu(carried)


def _idle_floors(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, kind), power_mw / 1000) for gpu in view.gpus for kind, power_mw in gpu.floors_mw.items()
    ]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


def activity_histogram(family: Family, view: View) -> Metric | None:
    """Return the histogram of time by activity, None where no activity was ever known."""
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for uuid, instance, measured in ((gpu.identity.uuid, *share) for gpu in view.gpus for share in _shares(gpu)):
        if measured.active_slice_ns is None:
            continue
        buckets: list[tuple[str, float]] = []
        seconds = 0.0
        cumulative = 0
        for edge_ppm, amount in zip(ACTIVITY_EDGES_PPM, measured.bin_slice_ms, strict=True):
            cumulative += amount
            seconds = cumulative / SLICE_MS_PER_SECOND
            buckets.append((repr(edge_ppm / 1_000_000), seconds))
        buckets.append(("+Inf", seconds))
        metric.add_metric((uuid, instance), buckets, sum_value=measured.binned_active_slice_ns / SLICE_NS_PER_SECOND)
    return metric if metric.samples else None


GPU_SAMPLES: dict[str, Callable[[View], Samples]] = {
    "gpuledger_gpu_info": _info,
    "gpuledger_gpu_instance_info": _instance_info,
    "gpuledger_gpu_state_seconds_total": _state_seconds,
    "gpuledger_gpu_uncovered_seconds_total": _uncovered_seconds,
    "gpuledger_gpu_active_seconds_total": _per_share(_active_seconds),
    "gpuledger_gpu_sm_active_seconds_total": _engine_seconds("sm"),
    "gpuledger_gpu_tensor_active_seconds_total": _engine_seconds("tensor"),
    "gpuledger_gpu_dram_active_seconds_total": _engine_seconds("dram"),
    "gpuledger_gpu_pcie_transmit_bytes_total": _link_bytes("pcie_tx"),
    "gpuledger_gpu_pcie_receive_bytes_total": _link_bytes("pcie_rx"),
    "gpuledger_gpu_nvlink_transmit_bytes_total": _link_bytes("nvlink_tx"),
    "gpuledger_gpu_nvlink_receive_bytes_total": _link_bytes("nvlink_rx"),
    "gpuledger_gpu_energy_joules_total": _energy_joules,
    "gpuledger_gpu_idle_floor_watts": _idle_floors,
    "gpuledger_gpu_power_watts": per_gpu(lambda gpu: _scaled(gpu.power_mw, 1000)),
    "gpuledger_gpu_power_limit_watts": per_gpu(lambda gpu: _scaled(gpu.identity.power_limit_mw, 1000)),
    "gpuledger_gpu_memory_used_bytes": _memory_used,
    "gpuledger_gpu_memory_total_bytes": _memory_total,
    "gpuledger_gpu_current_state": _current_state,
    "gpuledger_gpu_allocated": per_gpu(_is_allocated),
    "gpuledger_gpu_hang_suspicion_seconds_total": per_gpu(lambda gpu: gpu.total.hang_suspicion_ms / 1000),
    "gpuledger_gpu_rejected_values_total": per_gpu(lambda gpu: gpu.total.rejected_values),
}
"""By family; the histogram of activity is not among them."""
