# SPDX-License-Identifier: Apache-2.0
"""Idle capacity: how much there is, what it is, where, and what it costs in energy."""

from __future__ import annotations

from dashboards.source.dashboard import Dashboard
from dashboards.source.fleet import PLACE, SIMULATED_PANEL, share, variables
from dashboards.source.panels import (
    AMBER,
    CELL_STEP,
    GREEN,
    RATIO,
    RED,
    Look,
    Query,
    Row,
    bars,
    lines,
    or_none,
    stat,
)
from dashboards.source.tables import Column, table

OBSERVED_IDLE = "free|reserved|held"
ALL_IDLE = "free|reserved|held|standby"
SITE = 'site=~"$site"'
_TIME = "gpuledger_fleet_state_seconds_total"
_COUNT = Look(decimals=0)


def mean_gpus(states: str) -> str:
    """Return how many GPUs, on average, were in these states over the chosen time."""
    return f'sum(rate({_TIME}{{{PLACE}, state=~"{states}"}}[$__range]))'


_NOW = Row(
    title="How much",
    panels=(
        SIMULATED_PANEL,
        stat(
            "Idle GPUs, on average",
            "Free, reserved, held and standby over the chosen time, in GPUs. What could have been sold, used or "
            "switched off, at least: what was not observed is not in it.",
            Query(expr=mean_gpus("free|reserved|held|standby")),
            look=Look(decimals=1, missing="one settled cell, not two"),
            width=3,
        ),
        stat(
            "Free",
            "Healthy, not allocated, nobody on them. Sell them, or switch whole nodes off.",
            Query(expr=share("free")),
            look=RATIO,
            width=3,
        ),
        stat(
            "Reserved",
            "Given to a job, a pod or a lease, without a process: wasted whole. Ask whoever has them.",
            Query(expr=share("reserved")),
            look=Look(unit="percentunit", decimals=1, steps=((None, GREEN), (0.05, AMBER), (0.2, RED))),
            width=3,
        ),
        stat(
            "Held",
            "A process keeps the GPU and does nothing. The page and the report name the holders.",
            Query(expr=share("held")),
            look=Look(unit="percentunit", decimals=1, steps=((None, GREEN), (0.1, AMBER), (0.3, RED))),
            width=3,
        ),
        stat(
            "Free whole nodes",
            "Nodes whose GPUs were all free for the whole of the last complete cell: blocks that can be sold as they "
            "are, unless their scheduler keeps them out.",
            Query(expr=f"sum(gpuledger_fleet_free_whole_nodes{{{PLACE}}})"),
            look=_COUNT,
            width=3,
        ),
        stat(
            "Not schedulable",
            "Nodes on which schedulers place no new work: drained, cordoned, reserved or down. Free time there cannot "
            "be sold until somebody opens them again.",
            Query(
                expr=f"sum(gpuledger_fleet_not_schedulable_nodes{{{SITE}}}) or on () "
                f"0 * sum(gpuledger_fleet_nodes{{{PLACE}}})"
            ),
            look=Look(decimals=0, steps=((None, GREEN), (1, AMBER))),
            width=3,
        ),
        stat(
            "Energy while idle",
            "Of the boards in free, reserved and held time over the chosen time, by their own counters. Other parts of "
            "the machines and cooling come on top.",
            Query(
                expr=f'sum(increase(gpuledger_gpu_energy_joules_total{{{SITE}, state=~"{OBSERVED_IDLE}"}}[$__range]))'
            ),
            look=Look(unit="joule", decimals=1, missing="no energy counter"),
            width=3,
        ),
    ),
)

_KINDS = Row(
    title="What kind",
    panels=(
        lines(
            "Idle GPUs by state",
            "Free is for the market, reserved and held are for a talk with whoever has them, standby was declared.",
            Query(
                expr=f'sum by (state) (rate({_TIME}{{{PLACE}, state=~"{ALL_IDLE}"}}[$__rate_interval]))',
                legend="{{state}}",
                step=CELL_STEP,
            ),
            look=Look(unit="short", decimals=1),
            stack="normal",
            is_state=True,
            width=12,
        ),
        lines(
            "Free whole nodes by site",
            "Nodes that were free in whole for a whole cell.",
            Query(
                expr=f"sum by (site) (gpuledger_fleet_free_whole_nodes{{{PLACE}}})",
                legend="{{site}}",
                step=CELL_STEP,
            ),
            look=_COUNT,
            width=12,
        ),
        bars(
            "Idle by site, share of installed time",
            "The lower bound, over the chosen time. The site with the longest bar is where to begin.",
            Query(
                expr=f'sum by (site) (increase({_TIME}{{{PLACE}, state=~"free|reserved|held|standby"}}[$__range])) '
                f"/ (sum by (site) (increase({_TIME}{{{PLACE}}}[$__range])) > 0)",
                legend="{{site}}",
                is_instant=True,
            ),
            look=Look(unit="percentunit", decimals=1, low=0, high=1, steps=((None, GREEN), (0.3, AMBER), (0.6, RED))),
            width=12,
        ),
        bars(
            "Held by what",
            "GPUs that were held without work on average over the chosen time, by what the workload was taken for.",
            Query(
                expr=f'sum by (kind) (rate(gpuledger_fleet_workload_seconds_total{{{PLACE}, state="held"}}[$__range]))',
                legend="{{kind}}",
                is_instant=True,
            ),
            look=Look(decimals=2),
            width=12,
        ),
    ),
)

_WHERE = Row(
    title="Where",
    panels=(
        table(
            "Nodes with most idle GPUs",
            "By what their agents counted over the chosen time, the 20 with most; the second column is how many "
            "of them were held. Open a node for its GPUs.",
            Query(
                expr=f"topk(20, sum by (job, instance, site) (rate(gpuledger_gpu_state_seconds_total{{{SITE}, "
                f'state=~"{OBSERVED_IDLE}"}}[$__range])) * on (job, instance) group_left (node) gpuledger_agent_info)',
                is_table=True,
            ),
            Query(
                expr=f'sum by (job, instance, site) (rate(gpuledger_gpu_state_seconds_total{{{SITE}, state="held"}}'
                "[$__range])) * on (job, instance) group_left (node) gpuledger_agent_info",
                is_table=True,
            ),
            columns=(
                Column(source="site", title="Site"),
                Column(source="node", title="Node"),
                Column(source="A", title="Idle GPUs", look=Look(decimals=2)),
                Column(source="B", title="Held GPUs", look=Look(decimals=2)),
            ),
            width=12,
            height=9,
            sort="Idle GPUs",
            links={"Node": ("Node and GPU", "/d/gpuledger-node?var-node=${__value.raw}&${datasource:queryparam}")},
        ),
        table(
            "Jobs and nodes, by scheduler",
            "Jobs that have GPUs, jobs that wait for some, and nodes on which nothing new is placed. Idle GPUs beside "
            "waiting jobs are a question to the scheduler: the report gives its reasons.",
            Query(
                expr=or_none(
                    "sum by (cluster, state) (gpuledger_collector_scheduler_jobs)",
                    "cluster",
                    "gpuledger_collector_info",
                ),
                is_table=True,
            ),
            columns=(
                Column(source="cluster", title="Cluster"),
                Column(source="state", title="Jobs"),
                Column(source="A", title="Number", look=_COUNT),
            ),
            width=12,
            height=9,
        ),
    ),
)

IDLE_CAPACITY = Dashboard(
    uid="gpuledger-idle",
    title="gpuledger / Idle capacity",
    description="Idle GPU time: how much, of what kind, where, and who could use it.",
    variables=variables(),
    rows=(_NOW, _KINDS, _WHERE),
)
