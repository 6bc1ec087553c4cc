# SPDX-License-Identifier: Apache-2.0
"""The fleet at a glance, from what the collector counts: all installed time is in it, the dark too."""

from __future__ import annotations

from dashboards.source.dashboard import Dashboard, Variable
from dashboards.source.panels import (
    AMBER,
    BLUE,
    CELL_STEP,
    GREEN,
    GREY,
    RATIO,
    RED,
    Look,
    Query,
    Row,
    bars,
    by_name,
    lines,
    pie,
    stat,
)
from dashboards.source.tables import Column, table

PLACE = 'site=~"$site", model=~"$model"'
IDLE = "free|reserved|held|standby"
UNKNOWN = "dark|unmeasured"
GPUS = Look(unit="short", decimals=0, missing="no settled cell yet")
SHARE = Look(unit="percentunit", decimals=1, low=0, high=1, missing="no settled cell yet")
SIMULATED = Look(
    words={0: ("measured", GREEN), 1: ("SIMULATED", RED)}, steps=((None, GREEN), (1, RED)), missing="no collector"
)


def grown(states: str | None = None, window: str = "$__range", offset: str = "") -> str:
    """Return the GPU-seconds that the fleet spent in these states (None: in all) over a window."""
    chosen = "" if states is None else f', state=~"{states}"'
    return f"sum(increase(gpuledger_fleet_state_seconds_total{{{PLACE}{chosen}}}[{window}]{offset}))"


def share(states: str, window: str = "$__range", offset: str = "") -> str:
    """Return the share of all installed time in these states; sums of seconds, divided once.

    An engine sees no growth in the first cell that it ever scraped: until the next one, by the GPUs' main states.
    """
    of_time = f"{grown(states, window, offset)} / ({grown(None, window, offset)} > 0)"
    return of_time if offset else f"({of_time}) or {_share_of_gpus(states)}"


def _share_of_gpus(states: str) -> str:
    chosen = f'gpuledger_fleet_gpus{{{PLACE}, state=~"{states}"}}'
    whole = f"sum(gpuledger_fleet_gpus{{{PLACE}}})"
    return f"(sum({chosen}) or 0 * {whole}) / {whole}"


def variables() -> tuple[Variable, ...]:
    """Return the choices of every dashboard about the fleet."""
    return (
        Variable(name="site", label="Site", metric="gpuledger_fleet_installed_gpus", of="site"),
        Variable(name="model", label="Model", metric='gpuledger_fleet_installed_gpus{site=~"$site"}', of="model"),
    )


SIMULATED_PANEL = stat(
    "Data",
    "SIMULATED as soon as the collector took in a single simulated reading: then no figure here is about real GPUs.",
    Query(expr='max(gpuledger_collector_info{simulated="true"}) or 0 * max(gpuledger_collector_info)'),
    look=SIMULATED,
    width=3,
)
"""Whether anything here is simulated."""

_NOW = Row(
    title="The chosen time, in one line",
    panels=(
        SIMULATED_PANEL,
        stat(
            "Installed GPUs",
            "What the roster has in service now. A jump is a roster change: look at the roster's findings.",
            Query(expr=f"sum(gpuledger_fleet_installed_gpus{{{PLACE}}})"),
            look=GPUS,
            width=3,
        ),
        stat(
            "Idle, at least",
            "Free, reserved, held and standby time over all installed time. It is the lower bound: what was not "
            "observed is not in it. Rising: see Idle capacity for whose it is.",
            Query(expr=share(IDLE)),
            look=Look(unit="percentunit", decimals=1, steps=((None, GREEN), (0.3, AMBER), (0.6, RED))),
            width=3,
        ),
        stat(
            "Idle, at most",
            "The same with all dark and unmeasured time added. A wide gap to the lower bound means that agents are "
            "off: see Health of gpuledger.",
            Query(expr=share(f"{IDLE}|{UNKNOWN}")),
            look=Look(unit="percentunit", decimals=1, steps=((None, GREEN), (0.3, AMBER), (0.6, RED))),
            width=3,
        ),
        stat(
            "Busy, at least",
            "Time in which a process was there and the engines worked, over all installed time.",
            Query(expr=share("busy")),
            look=SHARE,
            width=3,
        ),
        stat(
            "Busy, at most",
            "The same with all dark and unmeasured time added.",
            Query(expr=share(f"busy|{UNKNOWN}")),
            look=SHARE,
            width=3,
        ),
        stat(
            "Dark",
            "Installed time that nobody observed and nobody declared beforehand. Over 5 % reports withhold the word "
            "occupancy: bring the agents back.",
            Query(expr=share("dark")),
            look=Look(unit="percentunit", decimals=1, steps=((None, GREEN), (0.02, AMBER), (0.05, RED))),
            width=3,
        ),
        stat(
            "Out of service",
            "Down, under maintenance or under the operator's own load, over all installed time.",
            Query(expr=share("down|maintenance|operator")),
            look=SHARE,
            width=3,
        ),
    ),
)

_TIME = Row(
    title="Over time",
    panels=(
        lines(
            "States, share of installed time",
            "Every installed GPU-second is in one state, so the bands fill the whole. Green is free, amber is held by "
            "a process that does nothing, grey is not observed.",
            Query(
                expr=f"(sum by (state) (increase(gpuledger_fleet_state_seconds_total{{{PLACE}}}[$__rate_interval])) "
                f"/ ignoring (state) group_left () ({grown(None, '$__rate_interval')} > 0)) or on () "
                f"sum by (state) (gpuledger_fleet_gpus{{{PLACE}}}) / ignoring (state) group_left () "
                f"sum(gpuledger_fleet_gpus{{{PLACE}}})",
                legend="{{state}}",
                step=CELL_STEP,
            ),
            look=RATIO,
            width=16,
            height=10,
            stack="normal",
            is_state=True,
        ),
        pie(
            "States of the chosen time",
            "GPU-time by state over the chosen time, dark time included: the whole is all installed time.",
            Query(
                expr=f"sum by (state) (increase(gpuledger_fleet_state_seconds_total{{{PLACE}}}[$__range])) "
                f"or on () 300 * sum by (state) (gpuledger_fleet_gpus{{{PLACE}}})",
                legend="{{state}}",
                is_instant=True,
            ),
            look=Look(unit="s", decimals=0),
            width=8,
            height=10,
        ),
        lines(
            "Idle, at least and at most",
            "The truth lies between the two lines; what widens the gap is time without observation.",
            Query(expr=share(IDLE, "$__rate_interval"), legend="at least", step=CELL_STEP),
            Query(expr=share(f"{IDLE}|{UNKNOWN}", "$__rate_interval"), legend="at most", step=CELL_STEP),
            look=RATIO,
            overrides=(
                by_name("at most", custom__fillBelowTo="at least", custom__fillOpacity=18),
                by_name("at least", color={"mode": "fixed", "fixedColor": GREEN}),
            ),
        ),
        lines(
            "Idle, this week and the week before",
            "The lower bound over one day up to each moment, beside the same a week earlier. The second line appears "
            "when there is a week of history.",
            Query(expr=share(IDLE, "1d"), legend="now", step="30m"),
            Query(expr=share(IDLE, "1d", " offset 1w"), legend="a week before", step="30m"),
            look=RATIO,
            overrides=(
                by_name("now", color={"mode": "fixed", "fixedColor": BLUE}),
                by_name("a week before", color={"mode": "fixed", "fixedColor": GREY}),
            ),
        ),
    ),
)

_PLACES = Row(
    title="Where",
    panels=(
        bars(
            "GPUs by state, last settled cell",
            "Each GPU counts once, in the state that took most of the last complete five minutes. A divided GPU is "
            "free only where all its slices were.",
            Query(
                expr=f"sum by (state) (gpuledger_fleet_gpus{{{PLACE}}})",
                legend="{{state}}",
                is_instant=True,
            ),
            look=GPUS,
            width=8,
            height=9,
            is_state=True,
        ),
        table(
            "Sites and models",
            "Shares of installed time over the chosen time, with both bounds. Coverage is that of the last complete "
            "cell; a place under 95 % must not be called occupied or idle without its bounds.",
            Query(expr=f"sum by (site, model) (gpuledger_fleet_installed_gpus{{{PLACE}}})", is_table=True),
            *(
                Query(
                    expr=f"(sum by (site, model) (increase(gpuledger_fleet_state_seconds_total{{{PLACE}, "
                    f'state=~"{states}"}}[$__range])) / (sum by (site, model) '
                    f"(increase(gpuledger_fleet_state_seconds_total{{{PLACE}}}[$__range])) > 0)) "
                    f'or sum by (site, model) (gpuledger_fleet_{figure}_ratio{{{PLACE}, bound="{bound}"}})',
                    is_table=True,
                )
                for states, figure, bound in (
                    (IDLE, "idle", "low"),
                    (f"{IDLE}|{UNKNOWN}", "idle", "high"),
                    ("busy", "busy", "low"),
                    (f"busy|{UNKNOWN}", "busy", "high"),
                )
            ),
            Query(expr=f"min by (site, model) (gpuledger_fleet_coverage_ratio{{{PLACE}}})", is_table=True),
            columns=(
                Column(source="site", title="Site"),
                Column(source="model", title="Model"),
                Column(source="A", title="GPUs", look=GPUS, width=70),
                Column(source="B", title="Idle at least", look=SHARE),
                Column(source="C", title="Idle at most", look=SHARE),
                Column(source="D", title="Busy at least", look=SHARE),
                Column(source="E", title="Busy at most", look=SHARE),
                Column(
                    source="F",
                    title="Coverage",
                    look=Look(unit="percentunit", decimals=1, steps=((None, RED), (0.95, GREEN)), missing="not to be"),
                    is_colored=True,
                ),
            ),
            width=16,
            height=9,
            sort="GPUs",
        ),
    ),
)

FLEET = Dashboard(
    uid="gpuledger-fleet",
    title="gpuledger / Fleet",
    description="Idle and busy time of all installed GPUs with lower and upper bounds, from the collector's counters.",
    variables=variables(),
    rows=(_NOW, _TIME, _PLACES),
)
