# SPDX-License-Identifier: Apache-2.0
"""/metrics: the last View as Prometheus families, built only from the contract, on a registry of our own.

A GPU or value that is not there has no series. A family that cannot be built costs only itself, and is counted. Nothing
here reads hardware.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gpuledger import __version__
from gpuledger.cells import SLICES_PER_GPU
from gpuledger.metrics import AGENT, Family, Kind
from gpuledger.states import ACTIVITY_EDGES_PPM, OBSERVED, State
from gpuledger_agent.health import action_name
from gpuledger_agent.loop import GpuView, View
from gpuledger_agent.push import PushFigures
from gpuledger_agent.snapshot import InstanceIdentity
from gpuledger_agent.tally import Measured, Part

_log = logging.getLogger(__name__)

SLICE_MS_PER_SECOND = 7_000
SLICE_NS_PER_SECOND = 7_000_000_000
Samples = list[tuple[tuple[str, ...], float]]


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


def _per_gpu(value: Callable[[GpuView], float | None]) -> Callable[[View], Samples]:
    def samples(view: View) -> Samples:
        pairs = [(gpu.identity.uuid, value(gpu)) for gpu in view.gpus]
        return [((uuid,), number) for uuid, number in pairs if number is not None]

    return samples


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


def _source_failures(view: View) -> Samples:
    return [
        ((source, error), float(count))
        for source, report in view.sources.items()
        for error, count in report.failures.items()
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

    return _per_gpu(carried)


def _idle_floors(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, kind), power_mw / 1000) for gpu in view.gpus for kind, power_mw in gpu.floors_mw.items()
    ]


def _xids(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, str(xid)), float(count))
        for gpu in view.gpus
        for xid, count in gpu.total.health.xids.items()
    ]


def _ecc_errors(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, kind), float(count))
        for gpu in view.gpus
        for kind, count in gpu.total.health.ecc_errors.items()
    ]


def _throttled_seconds(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, reason), time_ns / 1e9)
        for gpu in view.gpus
        for reason, time_ns in gpu.total.health.throttled_ns.items()
    ]


def _recovery_actions(view: View) -> Samples:
    actions = [(gpu.identity.uuid, _fact(gpu, "recovery_action")) for gpu in view.gpus]
    return [((uuid, action_name(int(action))), 1.0) for uuid, action in actions if action is not None]


def _remapped_rows(view: View) -> Samples:
    rows = [
        ((gpu.identity.uuid, kind), _fact(gpu, f"remapped_{kind}"))
        for gpu in view.gpus
        for kind in ("correctable", "uncorrectable")
    ]
    return [(labels, count) for labels, count in rows if count is not None]


def _fact(gpu: GpuView, name: str) -> float | None:
    value = None if gpu.seen.health_facts is None else getattr(gpu.seen.health_facts, name)
    return None if value is None else float(value)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


_PUSHED: dict[str, Callable[[PushFigures], Samples]] = {
    "gpuledger_agent_push_acknowledged_sequence": lambda figures: (
        [] if figures.acknowledged is None else [((), float(figures.acknowledged))]
    ),
    "gpuledger_agent_push_pages_total": lambda figures: [((), float(figures.pages))],
    "gpuledger_agent_push_readings_total": lambda figures: [((), float(figures.readings))],
    "gpuledger_agent_push_failures_total": lambda figures: [
        ((reason,), float(count)) for reason, count in figures.failures.items()
    ],
    "gpuledger_agent_push_success_timestamp_seconds": lambda figures: (
        [] if figures.succeeded_ms is None else [((), figures.succeeded_ms / 1000)]
    ),
}


def _pushed(
    source: Callable[[PushFigures], Samples], pushed: Callable[[], PushFigures] | None
) -> Callable[[View], Samples]:
    return lambda view: [] if pushed is None else source(pushed())


class AgentCollector(Collector):
    """Yields every family of the contract from the current View; one that fails costs only itself."""

    def __init__(
        self,
        view: Callable[[], View],
        node_id: str,
        node_name: str,
        interval_s: float,
        simulated: bool,
        pushed: Callable[[], PushFigures] | None = None,
    ) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        who = (node_id, node_name, __version__, "true" if simulated else "false")
        self._samples: dict[str, Callable[[View], Samples]] = {
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
            "gpuledger_gpu_power_watts": _per_gpu(lambda gpu: _scaled(gpu.power_mw, 1000)),
            "gpuledger_gpu_memory_used_bytes": _memory_used,
            "gpuledger_gpu_memory_total_bytes": _memory_total,
            "gpuledger_gpu_current_state": _current_state,
            "gpuledger_gpu_allocated": _per_gpu(_is_allocated),
            "gpuledger_gpu_hang_suspicion_seconds_total": _per_gpu(lambda gpu: gpu.total.hang_suspicion_ms / 1000),
            "gpuledger_gpu_xid_errors_total": _xids,
            "gpuledger_gpu_ecc_errors_total": _ecc_errors,
            "gpuledger_gpu_throttled_seconds_total": _throttled_seconds,
            "gpuledger_gpu_recovery_action": _recovery_actions,
            "gpuledger_gpu_remapped_rows": _remapped_rows,
            "gpuledger_gpu_row_remap_pending": _per_gpu(lambda gpu: _fact(gpu, "is_remap_pending")),
            "gpuledger_gpu_row_remap_failed": _per_gpu(lambda gpu: _fact(gpu, "is_remap_failed")),
            "gpuledger_gpu_rejected_values_total": _per_gpu(lambda gpu: gpu.total.rejected_values),
            "gpuledger_agent_info": lambda view: [((*who, view.driver_version or ""), 1.0)],
            "gpuledger_agent_driver_attached": lambda view: [((), float(view.is_attached))],
            "gpuledger_agent_driver_failures_total": lambda view: [
                ((reason,), float(count)) for reason, count in view.driver_failures.items()
            ],
            "gpuledger_agent_driver_released": lambda view: [((), float(view.is_released))],
            "gpuledger_agent_stuck_calls": lambda view: [((), float(view.stuck_calls))],
            "gpuledger_agent_hung_gpus": lambda view: [((), float(view.hung_gpus))],
            "gpuledger_agent_hung_calls_total": lambda view: [
                ((function,), float(count)) for function, count in view.hung_calls.items()
            ],
            "gpuledger_agent_gpus_unidentified": lambda view: (
                # Not known, and so absent, until the driver was asked.
                [] if not view.is_attached else [((), float(view.unidentified))]
            ),
            "gpuledger_agent_tick_timestamp_seconds": lambda view: (
                [] if view.edge_ms is None else [((), view.edge_ms / 1000)]
            ),
            "gpuledger_agent_tick_interval_seconds": lambda view: [((), interval_s)],
            "gpuledger_agent_ticks_total": lambda view: [((), float(view.ticks))],
            "gpuledger_agent_sessions_total": lambda view: [
                ((cause,), float(count)) for cause, count in view.sessions.items()
            ],
            "gpuledger_agent_source_duration_seconds": lambda view: [
                ((source,), report.duration_ns / 1e9) for source, report in view.sources.items()
            ],
            "gpuledger_agent_source_success": lambda view: [
                ((source,), float(report.is_success)) for source, report in view.sources.items()
            ],
            "gpuledger_agent_source_failures_total": _source_failures,
            "gpuledger_agent_seals_total": lambda view: [((), float(view.sealed))],
            "gpuledger_agent_seal_failures_total": lambda view: [((), float(view.seal_failures))],
            "gpuledger_agent_seals_pending": lambda view: [((), float(view.seals_pending))],
            "gpuledger_agent_seals_dropped_total": lambda view: [((), float(view.seals_dropped))],
            "gpuledger_agent_crash_file_failures_total": lambda view: [((), float(view.crash_file_failures))],
            "gpuledger_agent_journal_last_sequence": lambda view: (
                [] if view.last_sequence == 0 else [((), float(view.last_sequence))]
            ),
            "gpuledger_agent_journal_size_bytes": lambda view: [((), float(view.journal_bytes))],
            "gpuledger_agent_exposition_failures_total": lambda view: self._exposition_failures(),
            **{name: _pushed(source, pushed) for name, source in _PUSHED.items()},
        }

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        for family in AGENT:
            try:
                metric = self._build(family, view)
            except Exception:  # noqa: BLE001 - the other families are what is needed to see that one is broken
                self._fail(family)
                continue
            if metric is not None:
                yield metric

    def _build(self, family: Family, view: View) -> Metric | None:
        if family.kind is Kind.HISTOGRAM:
            return _activity_histogram(family, view)
        return _flat(family, self._samples[family.name](view))

    def _fail(self, family: Family) -> None:
        with self._lock:
            count = self._failures[family.name] = self._failures.get(family.name, 0) + 1
        if count == 1:
            _log.exception("family_failed", extra={"family": family.name})

    def _exposition_failures(self) -> Samples:
        with self._lock:
            return [((name,), float(count)) for name, count in self._failures.items()]


def _flat(family: Family, samples: Samples) -> Metric | None:
    if not samples:
        return None
    kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = kind(family.name, family.help, labels=family.labels)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric


def _activity_histogram(family: Family, view: View) -> Metric | None:
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


def registry_of(collector: AgentCollector) -> CollectorRegistry:
    """Return a registry that holds our families only."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
