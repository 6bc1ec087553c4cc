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
from gpuledger.metrics import AGENT, Family, Kind
from gpuledger.states import ACTIVITY_EDGES_PPM, OBSERVED, State
from gpuledger_agent.loop import GpuView, View

_log = logging.getLogger(__name__)

SLICE_MS_PER_SECOND = 7_000
SLICE_NS_PER_SECOND = 7_000_000_000
Samples = list[tuple[tuple[str, ...], float]]


def _state_seconds(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, state.value), gpu.total.state_slice_ms.get(state, 0) / SLICE_MS_PER_SECOND)
        for gpu in view.gpus
        for state in OBSERVED
    ]


def _uncovered_seconds(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, reason.value), amount / SLICE_MS_PER_SECOND)
        for gpu in view.gpus
        for reason, amount in gpu.total.uncovered_slice_ms.items()
    ]


def _per_gpu(value: Callable[[GpuView], float | None]) -> Callable[[View], Samples]:
    def samples(view: View) -> Samples:
        pairs = [(gpu.identity.uuid, value(gpu)) for gpu in view.gpus]
        return [((uuid,), number) for uuid, number in pairs if number is not None]

    return samples


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
                str(gpu.identity.index),
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


def _active_seconds(gpu: GpuView) -> float | None:
    return _scaled(gpu.total.active_slice_ns, SLICE_NS_PER_SECOND)


def _engine_seconds(engine: str) -> Callable[[View], Samples]:
    def seconds(gpu: GpuView) -> float | None:
        total = gpu.total
        is_known = total.engine_known_slice_ms.get(engine, 0) > 0
        return total.engine_slice_ns.get(engine, 0) / SLICE_NS_PER_SECOND if is_known else None

    return _per_gpu(seconds)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


class AgentCollector(Collector):
    """Yields every family of the contract from the current View; one that fails costs only itself."""

    def __init__(
        self, view: Callable[[], View], node_id: str, node_name: str, interval_s: float, simulated: bool
    ) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        who = (node_id, node_name, __version__, "true" if simulated else "false")
        self._samples: dict[str, Callable[[View], Samples]] = {
            "gpuledger_gpu_info": _info,
            "gpuledger_gpu_state_seconds_total": _state_seconds,
            "gpuledger_gpu_uncovered_seconds_total": _uncovered_seconds,
            "gpuledger_gpu_active_seconds_total": _per_gpu(_active_seconds),
            "gpuledger_gpu_sm_active_seconds_total": _engine_seconds("sm"),
            "gpuledger_gpu_tensor_active_seconds_total": _engine_seconds("tensor"),
            "gpuledger_gpu_dram_active_seconds_total": _engine_seconds("dram"),
            "gpuledger_gpu_energy_joules_total": _energy_joules,
            "gpuledger_gpu_power_watts": _per_gpu(lambda gpu: _scaled(gpu.power_mw, 1000)),
            "gpuledger_gpu_memory_used_bytes": _per_gpu(lambda gpu: gpu.seen.memory_used_bytes),
            "gpuledger_gpu_memory_total_bytes": _per_gpu(lambda gpu: gpu.identity.memory_total_bytes),
            "gpuledger_gpu_current_state": lambda view: [
                ((gpu.identity.uuid, gpu.result.value), 1.0) for gpu in view.gpus if isinstance(gpu.result, State)
            ],
            "gpuledger_gpu_hang_suspicion_seconds_total": _per_gpu(lambda gpu: gpu.total.hang_suspicion_ms / 1000),
            "gpuledger_gpu_rejected_values_total": _per_gpu(lambda gpu: gpu.total.rejected_values),
            "gpuledger_agent_info": lambda view: [((*who, view.driver_version or ""), 1.0)],
            "gpuledger_agent_driver_attached": lambda view: [((), float(view.is_attached))],
            "gpuledger_agent_driver_failures_total": lambda view: [
                ((reason,), float(count)) for reason, count in view.driver_failures.items()
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
    for gpu in view.gpus:
        total = gpu.total
        if total.active_slice_ns is None:
            continue
        buckets: list[tuple[str, float]] = []
        seconds = 0.0
        cumulative = 0
        for edge_ppm, amount in zip(ACTIVITY_EDGES_PPM, total.bin_slice_ms, strict=True):
            cumulative += amount
            seconds = cumulative / SLICE_MS_PER_SECOND
            buckets.append((repr(edge_ppm / 1_000_000), seconds))
        buckets.append(("+Inf", seconds))
        metric.add_metric((gpu.identity.uuid,), buckets, sum_value=total.binned_active_slice_ns / SLICE_NS_PER_SECOND)
    return metric if metric.samples else None


def registry_of(collector: AgentCollector) -> CollectorRegistry:
    """Return a registry that holds our families only."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
