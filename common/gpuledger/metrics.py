# SPDX-License-Identifier: Apache-2.0
"""The metrics contract: every family we expose, its unit, labels and help; docs and dashboards are checked against it.

Names follow Prometheus naming: base units, `_total` on counters, ratios 0..1. Missing is absent: never 0, -1 or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """Prometheus metric types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric family; `name` is as exposed for gauges and histograms, with `_total` for counters.

    `bound` says what limits the number of series; `absent` says when there is none.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    absent: str
    bound: str


def _family(name: str, kind: Kind, labels: str, help: str, absent: str, bound: str) -> Family:
    return Family(name=name, kind=kind, labels=tuple(labels.split()), help=help, absent=absent, bound=bound)


def _single(name: str, kind: Kind, help: str, absent: str = "never") -> Family:
    return _family(name, kind, "", help, absent, "1")


_GPU = "GPUs"

AGENT: tuple[Family, ...] = (
    _family(
        "gpuledger_gpu_info",
        Kind.GAUGE,
        "uuid serial model index pci_bus_id",
        "Who a GPU is; always 1.",
        "the driver does not list the GPU",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_state_seconds_total",
        Kind.COUNTER,
        "uuid state",
        "GPU time by observed state since the agent started; the states of a GPU grow by what was covered, once.",
        "the driver does not list the GPU",
        "GPUs x 7 states",
    ),
    _family(
        "gpuledger_gpu_uncovered_seconds_total",
        Kind.COUNTER,
        "uuid reason",
        "GPU time the agent could not cover, by reason; part of no state.",
        "nothing was uncovered for that reason yet",
        "GPUs x 7 reasons",
    ),
    _family(
        "gpuledger_gpu_activity_seconds",
        Kind.HISTOGRAM,
        "uuid",
        "Busy and held time by activity (ratio 0..1, upper-closed); sum is engine-active seconds of that time.",
        "no activity was ever known",
        "GPUs x 9 buckets",
    ),
    _family(
        "gpuledger_gpu_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of engine activity over all time for which it was known.",
        "no activity was ever known",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_sm_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of the share of streaming multiprocessors with a warp on them, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_tensor_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of the share of time in which a tensor core worked, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_dram_active_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Integral of the share of the memory bandwidth in use, by GPM.",
        "GPM never answered for it",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_energy_joules_total",
        Kind.COUNTER,
        "uuid state",
        "Energy of the board by the state it was spent in; state is uncovered where no state was covered.",
        "the board offers no energy counter",
        "GPUs x 8",
    ),
    _family(
        "gpuledger_gpu_power_watts",
        Kind.GAUGE,
        "uuid",
        "Mean power of the board over the last tick, from its energy counter.",
        "there was no energy reading at both ends of the last tick",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_memory_used_bytes",
        Kind.GAUGE,
        "uuid",
        "Memory in use, without what the driver reserves.",
        "the last read failed or is not offered",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_memory_total_bytes",
        Kind.GAUGE,
        "uuid",
        "Memory of the board.",
        "the driver does not tell",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_current_state",
        Kind.GAUGE,
        "uuid state",
        "1 for the state of the last tick.",
        "the last tick covered no state",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_hang_suspicion_seconds_total",
        Kind.COUNTER,
        "uuid",
        "Time at over 70 % activity with idle SMs and power at the GPU's learnt floor: unmeasured, never busy.",
        "the driver does not list the GPU",
        _GPU,
    ),
    _family(
        "gpuledger_gpu_rejected_values_total",
        Kind.COUNTER,
        "uuid",
        "Values outside the physical range that were not used.",
        "the driver does not list the GPU",
        _GPU,
    ),
    _family(
        "gpuledger_agent_info",
        Kind.GAUGE,
        "node_id node version simulated driver_version",
        "Who the agent is; simulated says whether NVML is the simulator; always 1.",
        "never; driver_version is empty while the driver is not attached",
        "1",
    ),
    _single("gpuledger_agent_driver_attached", Kind.GAUGE, "1 while NVML is initialised, 0 while the agent retries."),
    _family(
        "gpuledger_agent_driver_failures_total",
        Kind.COUNTER,
        "reason",
        "Failed attempts to use NVML, by reason.",
        "there was no such failure",
        "about 10 reasons",
    ),
    _single(
        "gpuledger_agent_gpus_unidentified",
        Kind.GAUGE,
        "GPUs the driver lists that could not be told apart: lost before this agent knew them; in no other family.",
        "the driver is not attached",
    ),
    _single(
        "gpuledger_agent_tick_timestamp_seconds",
        Kind.GAUGE,
        "Start of the last tick, POSIX time.",
        "before the first tick",
    ),
    _single("gpuledger_agent_tick_interval_seconds", Kind.GAUGE, "Configured sampling interval."),
    _single("gpuledger_agent_ticks_total", Kind.COUNTER, "Ticks made."),
    _family(
        "gpuledger_agent_sessions_total",
        Kind.COUNTER,
        "cause",
        "Sessions begun since the agent started: start, or clock_step.",
        "there was none for that cause",
        "2 causes",
    ),
    _family(
        "gpuledger_agent_source_duration_seconds",
        Kind.GAUGE,
        "source",
        "Wall time the source took in the last tick it ran, over all GPUs.",
        "the source has not run yet",
        "sources",
    ),
    _family(
        "gpuledger_agent_source_success",
        Kind.GAUGE,
        "source",
        "1 if the source answered for every GPU in the last tick it ran, 0 otherwise.",
        "the source has not run yet",
        "sources",
    ),
    _family(
        "gpuledger_agent_source_failures_total",
        Kind.COUNTER,
        "source error",
        "Failed reads by source and error.",
        "there was no such failure",
        "sources x NVML errors",
    ),
    _single("gpuledger_agent_seals_total", Kind.COUNTER, "Readings sealed and on disk."),
    _single(
        "gpuledger_agent_seal_failures_total",
        Kind.COUNTER,
        "Attempts to write a sealed reading that failed; each is retried at every tick.",
    ),
    _single("gpuledger_agent_seals_pending", Kind.GAUGE, "Finished cells that are not on disk yet."),
    _single(
        "gpuledger_agent_seals_dropped_total",
        Kind.COUNTER,
        "Readings given up because a week of them could not be written: their time is dark.",
    ),
    _single(
        "gpuledger_agent_crash_file_failures_total",
        Kind.COUNTER,
        "Ticks whose open cell could not be written to the crash file: kill -9 would darken it.",
    ),
    _single(
        "gpuledger_agent_journal_last_sequence",
        Kind.GAUGE,
        "Sequence number of the newest sealed reading.",
        "nothing was sealed yet",
    ),
    _single("gpuledger_agent_journal_size_bytes", Kind.GAUGE, "Size of the journal on disk."),
    _family(
        "gpuledger_agent_exposition_failures_total",
        Kind.COUNTER,
        "family",
        "Scrapes that lack a family because it could not be built: a bug, logged with its traceback.",
        "every family could be built",
        "families",
    ),
)
"""What an agent exposes."""

_PLACE = "sites x models"

COLLECTOR: tuple[Family, ...] = (
    _family(
        "gpuledger_fleet_gpus",
        Kind.GAUGE,
        "site model state",
        "Installed GPUs by the state that took most of the last complete cell.",
        "no GPU was in that state",
        "sites x models x 10 states",
    ),
    _family(
        "gpuledger_fleet_state_seconds_total",
        Kind.COUNTER,
        "site model state",
        "GPU time by state, added once per cell when the cell is settled; later readings change the ledger only.",
        "no cell was settled yet",
        "sites x models x 10 states",
    ),
    _family(
        "gpuledger_fleet_installed_gpus",
        Kind.GAUGE,
        "site model",
        "GPUs the roster has in service in the last complete cell.",
        "the roster has none",
        _PLACE,
    ),
    _family(
        "gpuledger_fleet_idle_ratio",
        Kind.GAUGE,
        "site model bound",
        "Share of the last complete cell's installed GPU time that was idle: at least (low), at most (high).",
        "nothing is installed or no cell is settled",
        "sites x models x 2",
    ),
    _family(
        "gpuledger_fleet_busy_ratio",
        Kind.GAUGE,
        "site model bound",
        "Share of the last complete cell's installed GPU time that was busy: at least (low), at most (high).",
        "nothing is installed or no cell is settled",
        "sites x models x 2",
    ),
    _family(
        "gpuledger_fleet_coverage_ratio",
        Kind.GAUGE,
        "site model",
        "1 - dark / (installed - declared standby and maintenance) in the last complete cell.",
        "nothing was to be observed",
        _PLACE,
    ),
    _family(
        "gpuledger_fleet_cell_timestamp_seconds",
        Kind.GAUGE,
        "",
        "Start of the cell that the ratios cover, POSIX time.",
        "no cell is settled",
        "1",
    ),
    _family(
        "gpuledger_node_last_seen_timestamp_seconds",
        Kind.GAUGE,
        "site node",
        "End of the newest accepted reading of the node, POSIX time.",
        "the node never reported",
        "nodes",
    ),
    _family(
        "gpuledger_collector_info",
        Kind.GAUGE,
        "version simulated",
        "Who the collector is; simulated is true once it accepted a simulated reading; always 1.",
        "never",
        "1",
    ),
    _family(
        "gpuledger_collector_target_up",
        Kind.GAUGE,
        "target",
        "1 if the last poll of the target answered, 0 otherwise.",
        "the target was not polled yet",
        "targets",
    ),
    _family(
        "gpuledger_collector_poll_failures_total",
        Kind.COUNTER,
        "reason",
        "Failed polls by reason.",
        "there was no such failure",
        "about 6 reasons",
    ),
    _family(
        "gpuledger_collector_readings_accepted_total",
        Kind.COUNTER,
        "",
        "Readings verified and logged.",
        "never",
        "1",
    ),
    _family(
        "gpuledger_collector_readings_refused_total",
        Kind.COUNTER,
        "reason",
        "Readings that were not logged, by reason.",
        "none was refused for that reason",
        "about 6 reasons",
    ),
    _family(
        "gpuledger_collector_findings",
        Kind.GAUGE,
        "kind",
        "Findings in the ledger, by kind.",
        "there is none of that kind",
        "about 10 kinds",
    ),
    _family(
        "gpuledger_collector_ledger_refresh_timestamp_seconds",
        Kind.GAUGE,
        "",
        "When the ledger was last brought up to date, POSIX time.",
        "never refreshed yet",
        "1",
    ),
    _family(
        "gpuledger_collector_ledger_refresh_duration_seconds",
        Kind.GAUGE,
        "",
        "How long the last refresh took.",
        "never refreshed yet",
        "1",
    ),
)
"""What a collector exposes."""

FAMILIES: dict[str, Family] = {family.name: family for family in (*AGENT, *COLLECTOR)}
