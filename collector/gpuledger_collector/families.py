# SPDX-License-Identifier: Apache-2.0
"""The collector's metrics, built from the contract and from nothing else.

Each family is read on its own: one that fails is left out and logged, the others are served (prometheus_client would
fail the whole scrape).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gpuledger import __version__
from gpuledger.accounting import Bounds
from gpuledger.cells import SLICES_PER_GPU
from gpuledger.metrics import COLLECTOR, Family, Kind
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.fleet import CellFigures, Fleet
from gpuledger_collector.upkeep import UpkeepFigures
from gpuledger_collector.workload_metrics import NO_WORKLOADS, WorkloadFigures

Sample = tuple[tuple[str, ...], float]
"""Label values in the contract's order, and the value in the family's base unit."""

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """Everything the families are read from, at one moment; times are POSIX milliseconds."""

    fleet: Fleet
    poll: PollFigures
    simulated: bool
    last_seen_ms: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """End of the newest accepted reading by (site, node)."""
    findings: Mapping[str, int] = field(default_factory=dict)
    not_schedulable: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Nodes by (site, why)."""
    refreshed_ms: int | None = None
    refresh_duration_ns: int | None = None
    workloads: WorkloadFigures = NO_WORKLOADS
    upkeep: UpkeepFigures = field(default_factory=UpkeepFigures)


Source = Callable[[Exposed], Iterable[Sample]]


def _seconds(slice_ms: int) -> float:
    return slice_ms / (SLICES_PER_GPU * 1000)


def _cell(exposed: Exposed) -> Iterator[CellFigures]:
    if exposed.fleet.cell is not None:
        yield exposed.fleet.cell


def _gpus(exposed: Exposed) -> Iterator[Sample]:
    for cell in _cell(exposed):
        for place, states in cell.gpus_by_place.items():
            yield from (((place.site, place.model, state.value), count) for state, count in sorted(states.items()))


def _state_seconds(exposed: Exposed) -> Iterator[Sample]:
    for place, states in sorted(exposed.fleet.slice_ms.items()):
        yield from (((place.site, place.model, state.value), _seconds(amount)) for state, amount in states.items())


def _installed(exposed: Exposed) -> Iterator[Sample]:
    for cell in _cell(exposed):
        for place, states in cell.gpus_by_place.items():
            yield (place.site, place.model), sum(states.values())


def _nodes(exposed: Exposed, *, are_free: bool) -> Iterator[Sample]:
    for cell in _cell(exposed):
        counts = cell.free_nodes_by_place if are_free else cell.nodes_by_place
        yield from (((place.site, place.model), counts.get(place, 0)) for place in cell.places)


def _bounds(exposed: Exposed, name: str) -> Iterator[Sample]:
    for cell in _cell(exposed):
        for place, account in cell.places.items():
            bounds: Bounds | None = getattr(account, name)
            if bounds is not None:
                yield (place.site, place.model, "low"), bounds.low
                yield (place.site, place.model, "high"), bounds.high


def _coverage(exposed: Exposed) -> Iterator[Sample]:
    for cell in _cell(exposed):
        for place, account in cell.places.items():
            if account.coverage is not None:
                yield (place.site, place.model), account.coverage


def _by_reason(counts: Mapping[str, int]) -> Iterator[Sample]:
    return (((reason,), count) for reason, count in sorted(counts.items()))


def _optional(value: int | None, per_second: float) -> Iterator[Sample]:
    if value is not None:
        yield (), value / per_second


def _jobs(exposed: Exposed) -> Iterator[Sample]:
    """Yield jobs with GPUs and jobs that wait for some, of schedulers whose last look worked."""
    for name, known in sorted(exposed.poll.schedulers.items()):
        if known.last_ms is not None and known.trouble is None:
            yield (name, "allocated"), known.jobs
            yield (name, "waiting"), known.waiting


def _disk(exposed: Exposed, name: str) -> Iterator[Sample]:
    if exposed.upkeep.disk is not None:
        amounts: Mapping[str, float] = getattr(exposed.upkeep.disk, name)
        yield from (((part,), amount) for part, amount in sorted(amounts.items()))


SOURCES: Mapping[str, Source] = {
    "gpuledger_fleet_gpus": _gpus,
    "gpuledger_fleet_state_seconds_total": _state_seconds,
    "gpuledger_fleet_installed_gpus": _installed,
    "gpuledger_fleet_nodes": lambda exposed: _nodes(exposed, are_free=False),
    "gpuledger_fleet_free_whole_nodes": lambda exposed: _nodes(exposed, are_free=True),
    "gpuledger_fleet_not_schedulable_nodes": lambda exposed: sorted(exposed.not_schedulable.items()),
    "gpuledger_fleet_idle_ratio": lambda exposed: _bounds(exposed, "idle"),
    "gpuledger_fleet_busy_ratio": lambda exposed: _bounds(exposed, "busy"),
    "gpuledger_fleet_coverage_ratio": _coverage,
    "gpuledger_fleet_cell_timestamp_seconds": lambda exposed: (((), cell.cell_ms / 1000) for cell in _cell(exposed)),
    "gpuledger_fleet_workload_seconds_total": lambda exposed: (
        (key, _seconds(amount)) for key, amount in sorted(exposed.workloads.slice_ms.items())
    ),
    "gpuledger_fleet_workloads": lambda exposed: sorted(exposed.workloads.live.items()),
    "gpuledger_workload_info": lambda exposed: (
        ((info.workload, info.site, info.kind, info.calibration), 1) for info in exposed.workloads.infos
    ),
    "gpuledger_node_last_seen_timestamp_seconds": lambda exposed: (
        (place, seen_ms / 1000) for place, seen_ms in sorted(exposed.last_seen_ms.items())
    ),
    "gpuledger_collector_info": lambda exposed: [((__version__, str(exposed.simulated).lower()), 1)],
    "gpuledger_collector_target_up": lambda exposed: (((url,), int(up)) for url, up in sorted(exposed.poll.up.items())),
    "gpuledger_collector_targets": lambda exposed: [((), exposed.poll.targets)],
    "gpuledger_collector_target_list_up": lambda exposed: (
        ((name,), int(up)) for name, up in sorted(exposed.poll.lists_up.items())
    ),
    "gpuledger_collector_target_list_failures_total": lambda exposed: sorted(exposed.poll.list_failures.items()),
    "gpuledger_collector_targets_refused": lambda exposed: _optional(exposed.poll.targets_refused, 1),
    "gpuledger_collector_poll_failures_total": lambda exposed: _by_reason(exposed.poll.failures),
    "gpuledger_collector_pushed_pages_total": lambda exposed: _optional(exposed.poll.pushed_pages, 1),
    "gpuledger_collector_push_failures_total": lambda exposed: _by_reason(exposed.poll.push_failures),
    "gpuledger_collector_readings_accepted_total": lambda exposed: [((), exposed.poll.accepted)],
    "gpuledger_collector_readings_refused_total": lambda exposed: _by_reason(exposed.poll.refused),
    "gpuledger_collector_scheduler_looks_total": lambda exposed: (
        ((name,), known.looks) for name, known in sorted(exposed.poll.schedulers.items())
    ),
    "gpuledger_collector_scheduler_failures_total": lambda exposed: (
        ((name, reason), count)
        for name, known in sorted(exposed.poll.schedulers.items())
        for reason, count in sorted(known.failures.items())
    ),
    "gpuledger_collector_scheduler_last_look_timestamp_seconds": lambda exposed: (
        ((name,), known.last_ms / 1000)
        for name, known in sorted(exposed.poll.schedulers.items())
        if known.last_ms is not None
    ),
    "gpuledger_collector_scheduler_jobs": _jobs,
    "gpuledger_collector_scheduler_unschedulable_nodes": lambda exposed: (
        ((name,), known.unschedulable)
        for name, known in sorted(exposed.poll.schedulers.items())
        if known.last_ms is not None and known.trouble is None
    ),
    "gpuledger_collector_findings": lambda exposed: _by_reason(exposed.findings),
    "gpuledger_collector_ledger_refresh_timestamp_seconds": lambda exposed: _optional(exposed.refreshed_ms, 1e3),
    "gpuledger_collector_ledger_refresh_duration_seconds": lambda exposed: _optional(exposed.refresh_duration_ns, 1e9),
    "gpuledger_collector_disk_bytes": lambda exposed: _disk(exposed, "part_bytes"),
    "gpuledger_collector_disk_day_bytes": lambda exposed: _disk(exposed, "day_bytes"),
    "gpuledger_collector_disk_free_bytes": lambda exposed: _optional(
        None if exposed.upkeep.disk is None else exposed.upkeep.disk.free_bytes, 1
    ),
    "gpuledger_collector_pruned_entries": lambda exposed: _by_reason(exposed.upkeep.pruned_entries),
    "gpuledger_collector_final_timestamp_seconds": lambda exposed: _optional(exposed.upkeep.final_ms, 1e3),
}
"""How each family of the contract is read."""

_CONTRACT = {family.name: family for family in COLLECTOR}


class Families(Collector):
    """Serves `sources` from what `read` returns; a source that the contract does not know is a ValueError."""

    def __init__(self, read: Callable[[], Exposed], sources: Mapping[str, Source] = SOURCES) -> None:
        unknown = sorted(sources.keys() - _CONTRACT.keys())
        if unknown:
            raise ValueError(f"not in the metrics contract: {', '.join(unknown)}")
        self._read = read
        self._sources = sources
        self._failing: set[str] = set()

    def describe(self) -> list[Metric]:
        return [_empty(_CONTRACT[name]) for name in self._sources]

    def collect(self) -> Iterator[Metric]:
        exposed = self._read()
        for name, source in self._sources.items():
            metric = self._build(_CONTRACT[name], source, exposed)
            if metric is not None and metric.samples:
                yield metric

    def _build(self, family: Family, source: Source, exposed: Exposed) -> Metric | None:
        metric = _empty(family)
        try:
            for labels, value in source(exposed):
                metric.add_metric(_checked(labels, value, family), value)
        except Exception:
            # Isolated here, so that one family's bug costs that family; the log has it once, until it works again.
            if family.name not in self._failing:
                logger.exception("family_failed", extra={"family": family.name})
            self._failing.add(family.name)
            return None
        self._failing.discard(family.name)
        return metric


def _checked(labels: tuple[str, ...], value: float, family: Family) -> tuple[str, ...]:
    if len(labels) != len(family.labels) or not math.isfinite(value):
        raise ValueError(f"{family.name}: labels {labels} with value {value} break the contract")
    # Names come from nodes; half a character in one of them must not cost the scrape.
    return tuple(label.encode("utf-8", errors="replace").decode("utf-8") for label in labels)


def _empty(family: Family) -> CounterMetricFamily | GaugeMetricFamily:
    if family.kind is Kind.COUNTER:
        return CounterMetricFamily(family.name, family.help, labels=family.labels)
    return GaugeMetricFamily(family.name, family.help, labels=family.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposition:
    """All families as bytes: Prometheus text format 0.0.4 and OpenMetrics 1.0."""

    text: bytes
    openmetrics: bytes


class Exposer:
    """Renders expositions, on a registry of its own."""

    def __init__(self, sources: Mapping[str, Source] = SOURCES) -> None:
        self._exposed: Exposed | None = None
        self._registry = CollectorRegistry()
        self._registry.register(Families(self._current, sources))

    def render(self, exposed: Exposed) -> Exposition:
        """Return the exposition of one moment."""
        self._exposed = exposed
        return Exposition(
            text=generate_latest(self._registry),
            openmetrics=openmetrics.generate_latest(self._registry),  # type: ignore[no-untyped-call]
        )

    def _current(self) -> Exposed:
        if self._exposed is None:  # pragma: no cover - registering asks describe(), never collect()
            raise RuntimeError("nothing to expose yet")
        return self._exposed
