# SPDX-License-Identifier: Apache-2.0
"""gpuledger itself: whether what the other dashboards show can be relied on."""

from __future__ import annotations

from dashboards.source.dashboard import Dashboard, Variable
from dashboards.source.fleet import SIMULATED_PANEL
from dashboards.source.panels import AMBER, GREEN, RED, Look, Query, Row, lines, or_none, stat
from dashboards.source.tables import Column, table

AGENTS = 'site=~"$site"'
_COUNT = Look(decimals=0)
_GOOD_IF_NONE = Look(decimals=0, steps=((None, GREEN), (1, AMBER)))
_AGE = Look(unit="s", decimals=0, steps=((None, GREEN), (120, AMBER), (600, RED)))

_NOW = Row(
    title="Now",
    panels=(
        SIMULATED_PANEL,
        stat(
            "Agents scraped",
            "Agents whose metrics this data source has. Fewer than nodes: the others are dark here, and perhaps in the "
            "ledger as well.",
            Query(expr=f"count(gpuledger_agent_info{{{AGENTS}}})"),
            look=_COUNT,
            width=3,
        ),
        stat(
            "Targets that do not answer",
            "Agents that the collector polls and that did not answer last time. Their readings wait in their journals.",
            Query(expr="count(gpuledger_collector_target_up == 0) or 0 * max(gpuledger_collector_targets)"),
            look=_GOOD_IF_NONE,
            width=3,
        ),
        stat(
            "Coverage, lowest place",
            "Of all sites and models, the last complete cell's lowest coverage.",
            Query(expr=f"min(gpuledger_fleet_coverage_ratio{{{AGENTS}}})"),
            look=Look(unit="percentunit", decimals=1, steps=((None, RED), (0.95, AMBER), (0.99, GREEN))),
            width=3,
        ),
        stat(
            "Lag of the settled cell",
            "How long ago the last complete cell began. It is five to ten minutes; more means that the ledger stands.",
            Query(expr="time() - max(gpuledger_fleet_cell_timestamp_seconds)"),
            look=Look(unit="s", decimals=0, steps=((None, GREEN), (900, AMBER), (1800, RED))),
            width=3,
        ),
        stat(
            "Ledger refreshed",
            "Age of the last good refresh of the ledger. Over ten minutes: see the collector's log.",
            Query(expr="time() - max(gpuledger_collector_ledger_refresh_timestamp_seconds)"),
            look=_AGE,
            width=3,
        ),
        stat(
            "Findings",
            "What a person must look at, in the whole ledger.",
            Query(expr="sum(gpuledger_collector_findings) or 0 * max(gpuledger_collector_info)"),
            look=_GOOD_IF_NONE,
            width=3,
        ),
        stat(
            "Readings refused",
            "Over the chosen time. A refused reading is dark time: the reasons stand below.",
            Query(
                expr="sum(increase(gpuledger_collector_readings_refused_total[$__range])) "
                "or 0 * max(gpuledger_collector_info)"
            ),
            look=_GOOD_IF_NONE,
            width=3,
        ),
    ),
)

_AGENTS = Row(
    title="Agents",
    panels=(
        lines(
            "Age of the last tick, oldest five",
            "An agent that answers scrapes and does not tick is stuck in the driver.",
            Query(
                expr=f"topk(5, time() - gpuledger_agent_tick_timestamp_seconds{{{AGENTS}}})",
                legend="{{instance}}",
            ),
            look=Look(unit="s", decimals=0, steps=((None, GREEN), (60, RED))),
        ),
        lines(
            "Time not covered, by reason",
            "GPUs that agents could not cover, as a mean over time.",
            Query(
                expr=or_none(
                    f"sum by (reason) (rate(gpuledger_gpu_uncovered_seconds_total{{{AGENTS}}}[$__rate_interval]))",
                    "reason",
                    f"gpuledger_agent_info{{{AGENTS}}}",
                ),
                legend="{{reason}}",
            ),
            look=Look(unit="short", decimals=2, missing="all was covered"),
        ),
        lines(
            "Failed reads",
            "Per second, by source and NVML's error. A tick goes on without what failed.",
            Query(
                expr=or_none(
                    "sum by (source, error) "
                    f"(rate(gpuledger_agent_source_failures_total{{{AGENTS}}}[$__rate_interval]))",
                    "error",
                    f"gpuledger_agent_info{{{AGENTS}}}",
                ),
                legend="{{source}}: {{error}}",
            ),
            look=Look(unit="ops", decimals=2, missing="nothing failed"),
        ),
        lines(
            "Time that sources take",
            "Longest of all agents in the last tick. A source that takes as long as the tick is a driver in trouble.",
            Query(
                expr=f"max by (source) (gpuledger_agent_source_duration_seconds{{{AGENTS}}})",
                legend="{{source}}",
            ),
            look=Look(unit="s", decimals=3),
        ),
        table(
            "Agents by version and driver",
            "A fleet that was half upgraded shows here.",
            Query(
                expr=f"count by (version, driver_version, simulated) (gpuledger_agent_info{{{AGENTS}}})",
                is_table=True,
            ),
            columns=(
                Column(source="version", title="Version"),
                Column(source="driver_version", title="Driver"),
                Column(source="simulated", title="Simulated"),
                Column(source="A", title="Agents", look=_COUNT),
            ),
            width=12,
            height=7,
            sort="Agents",
        ),
        table(
            "Nodes seen longest ago",
            "End of the newest reading in the log. What is older than a cell or two is dark.",
            Query(
                expr=f"bottomk(20, gpuledger_node_last_seen_timestamp_seconds{{{AGENTS}}}) * 1000",
                is_table=True,
            ),
            columns=(
                Column(source="site", title="Site"),
                Column(source="node", title="Node"),
                Column(source="A", title="Last seen", look=Look(unit="dateTimeAsIso")),
            ),
            width=12,
            height=7,
        ),
    ),
)

_COLLECTOR = Row(
    title="Collector",
    panels=(
        lines(
            "Readings accepted",
            "Per second. Each node seals one every five minutes; a flat zero means that nothing arrives.",
            Query(expr="sum(rate(gpuledger_collector_readings_accepted_total[$__rate_interval]))", legend="accepted"),
            look=Look(unit="ops", decimals=3),
        ),
        lines(
            "Polls that failed",
            "Per second, by reason. A poll that failed loses nothing: readings wait in the agent's journal.",
            Query(
                expr=or_none(
                    "sum by (reason) (rate(gpuledger_collector_poll_failures_total[$__rate_interval]))",
                    "reason",
                    "gpuledger_collector_info",
                ),
                legend="{{reason}}",
            ),
            look=Look(unit="ops", decimals=3, missing="no poll failed"),
        ),
        lines(
            "Time that a refresh takes",
            "Bringing the ledger up to date. Close to the refresh interval, the collector cannot keep up.",
            Query(expr="max(gpuledger_collector_ledger_refresh_duration_seconds)", legend="refresh"),
            look=Look(unit="s", decimals=2),
        ),
        table(
            "Findings by kind",
            "What each kind means, and what to do about it, stands in the runbook.",
            Query(
                expr=or_none("sum by (kind) (gpuledger_collector_findings)", "kind", "gpuledger_collector_info"),
                is_table=True,
            ),
            columns=(
                Column(source="kind", title="Kind"),
                Column(source="A", title="Findings", look=_COUNT),
            ),
            width=12,
            height=8,
            sort="Findings",
        ),
    ),
)

HEALTH = Dashboard(
    uid="gpuledger-health",
    title="gpuledger / Health of gpuledger",
    description="Agents, coverage, lag, log and errors of gpuledger itself.",
    variables=(Variable(name="site", label="Site", metric="gpuledger_fleet_installed_gpus", of="site"),),
    rows=(_NOW, _AGENTS, _COLLECTOR),
    since="now-6h",
)
