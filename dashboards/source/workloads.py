# SPDX-License-Identifier: Apache-2.0
"""Workloads: training and inference over time, what is asserted and what is not, how surely."""

from __future__ import annotations

from dashboards.source.dashboard import Dashboard
from dashboards.source.fleet import PLACE, SIMULATED_PANEL, variables
from dashboards.source.panels import (
    AMBER,
    BLUE,
    CELL_STEP,
    GREEN,
    GREY,
    RED,
    Json,
    Look,
    Query,
    Row,
    bars,
    by_name,
    lines,
    stat,
)
from dashboards.source.tables import Column, table

KINDS = ("training", "inference", "synthetic", "other", "unclassified")
_COLORS = {"training": BLUE, "inference": GREEN, "synthetic": RED, "other": AMBER, "unclassified": GREY}
_TIME = "gpuledger_fleet_workload_seconds_total"
_SHARE = Look(unit="percentunit", decimals=1, low=0, high=1, missing="nothing was busy or held")


def _colors() -> tuple[Json, ...]:
    return tuple(by_name(kind, color={"mode": "fixed", "fixedColor": color}) for kind, color in _COLORS.items())


def kind_share(kind: str) -> str:
    """Return the share of busy and held time that one kind of workload had over the chosen time."""
    own = f'sum(increase({_TIME}{{{PLACE}, kind="{kind}"}}[$__range]))'
    return f"{own} / (sum(increase({_TIME}{{{PLACE}}}[$__range])) > 0)"


_NOW = Row(
    title="The chosen time",
    panels=(
        SIMULATED_PANEL,
        *(
            stat(
                words,
                f"{why} Share of busy and held GPU time over the chosen time, by what workloads were taken for when "
                "each cell was settled.",
                Query(expr=kind_share(kind)),
                look=_SHARE,
                width=4,
            )
            for kind, words, why in (
                ("training", "Training", "Trainers name themselves, or somebody declared it."),
                ("inference", "Inference", "Servers and batch generation."),
                (
                    "synthetic",
                    "Synthetic",
                    "Burn-in, benchmarks, keep-alive: load that serves nobody. Look at who runs it.",
                ),
                ("other", "Other", "Computing that is neither: HPC codes, rendering."),
                ("unclassified", "Unclassified", "The evidence is thin: label what you know with gpuledger workload."),
            )
        ),
    ),
)

_TIMES = Row(
    title="Over time",
    panels=(
        lines(
            "GPUs at work or held, by kind",
            "On average over each step. A shift from one band to another is a shift in demand.",
            Query(
                expr=f"sum by (kind) (rate({_TIME}{{{PLACE}}}[$__rate_interval]))",
                legend="{{kind}}",
                step=CELL_STEP,
            ),
            look=Look(unit="short", decimals=1, missing="no settled cell yet"),
            stack="normal",
            overrides=_colors(),
            width=16,
            height=10,
        ),
        bars(
            "Live workloads by kind",
            "Seen within the last hour. Many small unclassified ones are usually notebooks.",
            Query(expr='sum by (kind) (gpuledger_fleet_workloads{site=~"$site"})', legend="{{kind}}", is_instant=True),
            look=Look(decimals=0, missing="nobody works"),
            width=8,
            height=10,
        ),
    ),
)

_WHICH = Row(
    title="Which",
    panels=(
        table(
            "Busy and held by kind",
            "GPU-seconds over the chosen time. Held beside busy is how much of what a kind keeps it does not use.",
            *(
                Query(
                    expr=f'sum by (kind) (increase({_TIME}{{{PLACE}, state="{state}"}}[$__range]))',
                    is_table=True,
                )
                for state in ("busy", "held")
            ),
            columns=(
                Column(source="kind", title="Kind"),
                Column(source="A", title="Busy", look=Look(unit="s", decimals=1)),
                Column(source="B", title="Held", look=Look(unit="s", decimals=1)),
            ),
            width=10,
            sort="Busy",
        ),
        table(
            "Largest live workloads",
            "What each is taken for; default means that nobody at this site has confirmed such evidence yet. The page "
            "and gpuledger workload show give the reasons in words. Names are digests unless the site opened them.",
            Query(
                expr='max by (workload, site, kind, calibration) (gpuledger_workload_info{site=~"$site"})',
                is_table=True,
            ),
            columns=(
                Column(source="workload", title="Workload"),
                Column(source="site", title="Site"),
                Column(source="kind", title="Kind"),
                Column(source="calibration", title="Calibration"),
            ),
            width=14,
        ),
    ),
)

WORKLOADS = Dashboard(
    uid="gpuledger-workloads",
    title="gpuledger / Workloads",
    description="What GPUs work on: training, inference, synthetic load, other, and what nobody can tell.",
    variables=variables(),
    rows=(_NOW, _TIMES, _WHICH),
)
