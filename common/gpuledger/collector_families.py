# SPDX-License-Identifier: Apache-2.0
"""The families a collector exposes: of the fleet, of nodes and of itself."""

from __future__ import annotations

from gpuledger.family import Family, Kind, family

_PLACE = "sites x models"

COLLECTOR: tuple[Family, ...] = (
    family(
        "gpuledger_fleet_gpus",
        Kind.GAUGE,
        "site model state",
        "Installed GPUs by the state that took most of the last complete cell.",
        "no GPU was in that state",
        "sites x models x 10 states",
    ),
    family(
        "gpuledger_fleet_state_seconds_total",
        Kind.COUNTER,
        "site model state",
        "GPU time by state, added once per cell when the cell is settled; later readings change the ledger only.",
        "no cell was settled yet",
        "sites x models x 10 states",
    ),
    family(
        "gpuledger_fleet_installed_gpus",
        Kind.GAUGE,
        "site model",
        "GPUs the roster has in service in the last complete cell.",
        "the roster has none",
        _PLACE,
    ),
    family(
        "gpuledger_fleet_idle_ratio",
        Kind.GAUGE,
        "site model bound",
        "Share of the last complete cell's installed GPU time that was idle: at least (low), at most (high).",
        "nothing is installed or no cell is settled",
        "sites x models x 2",
    ),
    family(
        "gpuledger_fleet_busy_ratio",
        Kind.GAUGE,
        "site model bound",
        "Share of the last complete cell's installed GPU time that was busy: at least (low), at most (high).",
        "nothing is installed or no cell is settled",
        "sites x models x 2",
    ),
    family(
        "gpuledger_fleet_coverage_ratio",
        Kind.GAUGE,
        "site model",
        "1 - dark / (installed - declared standby and maintenance) in the last complete cell.",
        "nothing was to be observed",
        _PLACE,
    ),
    family(
        "gpuledger_fleet_cell_timestamp_seconds",
        Kind.GAUGE,
        "",
        "Start of the cell that the ratios cover, POSIX time.",
        "no cell is settled",
        "1",
    ),
    family(
        "gpuledger_node_last_seen_timestamp_seconds",
        Kind.GAUGE,
        "site node",
        "End of the newest accepted reading of the node, POSIX time.",
        "the node never reported",
        "nodes",
    ),
    family(
        "gpuledger_collector_info",
        Kind.GAUGE,
        "version simulated",
        "Who the collector is; simulated is true once it accepted a simulated reading; always 1.",
        "never",
        "1",
    ),
    family(
        "gpuledger_collector_target_up",
        Kind.GAUGE,
        "target",
        "1 if the last poll of the target answered, 0 otherwise.",
        "the target was not polled yet",
        "targets",
    ),
    family(
        "gpuledger_collector_poll_failures_total",
        Kind.COUNTER,
        "reason",
        "Failed polls by reason.",
        "there was no such failure",
        "about 6 reasons",
    ),
    family(
        "gpuledger_collector_readings_accepted_total",
        Kind.COUNTER,
        "",
        "Readings verified and logged.",
        "never",
        "1",
    ),
    family(
        "gpuledger_collector_readings_refused_total",
        Kind.COUNTER,
        "reason",
        "Readings that were not logged, by reason.",
        "none was refused for that reason",
        "about 6 reasons",
    ),
    family(
        "gpuledger_collector_findings",
        Kind.GAUGE,
        "kind",
        "Findings in the ledger, by kind.",
        "there is none of that kind",
        "about 10 kinds",
    ),
    family(
        "gpuledger_collector_ledger_refresh_timestamp_seconds",
        Kind.GAUGE,
        "",
        "When the ledger was last brought up to date, POSIX time.",
        "never refreshed yet",
        "1",
    ),
    family(
        "gpuledger_collector_ledger_refresh_duration_seconds",
        Kind.GAUGE,
        "",
        "How long the last refresh took.",
        "never refreshed yet",
        "1",
    ),
)
"""What a collector exposes."""
