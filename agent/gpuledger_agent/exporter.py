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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gpuledger import __version__
from gpuledger.metrics import AGENT, Family, Kind
from gpuledger_agent.gpu_samples import GPU_SAMPLES, activity_histogram
from gpuledger_agent.health_samples import HEALTH_SAMPLES, Samples
from gpuledger_agent.loop import View
from gpuledger_agent.push import PushFigures

_log = logging.getLogger(__name__)


def _source_failures(view: View) -> Samples:
    return [
        ((source, error), float(count))
        for source, report in view.sources.items()
        for error, count in report.failures.items()
    ]


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
            **GPU_SAMPLES,
            **HEALTH_SAMPLES,
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
            return activity_histogram(family, view)
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


def registry_of(collector: AgentCollector) -> CollectorRegistry:
    """Return a registry that holds our families only."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
