# SPDX-License-Identifier: Apache-2.0
"""Panels as Grafana 9.4 and later read them (schema 39): what every panel shares, and one function for each kind.

Colours are those of the page and the reports. A panel without data says what is missing instead of showing 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gpuledger.states import State
from gpuledger_collector.palette import LOOKS

Json = dict[str, Any]
DATA_SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
CELL_STEP = "5m"
"""The least step for what moves once in a cell: a shorter one would show the cells' edges as spikes."""
GREEN, AMBER, RED, BLUE, GREY = "#6aa84f", "#e08e0b", "#c0392b", "#2f6db3", "#5f6368"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One PromQL expression; `step` is the least step (Grafana's "Min step"), `is_table` asks for this moment alone."""

    expr: str
    legend: str = ""
    step: str | None = None
    is_instant: bool = False
    is_table: bool = False
    is_heatmap: bool = False

    def to_json(self, position: int) -> Json:
        is_instant = self.is_instant or self.is_table
        made: Json = {
            "datasource": DATA_SOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": "table" if self.is_table else "heatmap" if self.is_heatmap else "time_series",
            "instant": is_instant,
            "range": not is_instant,
            "legendFormat": self.legend or "__auto",
            "refId": chr(ord("A") + position),
        }
        if self.step is not None:
            made["interval"] = self.step
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; `width` is of 24 columns. `description` says what moves it, and what to do about it."""

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int
    height: int
    field_config: Json
    options: Json
    transformations: tuple[Json, ...] = ()
    links: tuple[Json, ...] = ()

    def to_json(self, number: int, x: int, y: int) -> Json:
        made: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATA_SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [query.to_json(position) for position, query in enumerate(self.queries)],
            "fieldConfig": self.field_config,
            "options": self.options,
        }
        if self.transformations:
            made["transformations"] = list(self.transformations)
        if self.links:
            made["links"] = list(self.links)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How values are shown: Grafana's unit, decimals, (from, colour) steps with None as the least, words for values."""

    unit: str = "short"
    decimals: int | None = None
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),)
    words: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    """Value -> (text, colour)."""
    low: float | None = None
    high: float | None = None
    missing: str = "no data"


RATIO = Look(unit="percentunit", decimals=1, low=0, high=1)
STATE_ORDER = tuple(State)


def or_none(expr: str, label: str, base: str) -> str:
    """Return the expression, and where it has no series a zero called none, as long as `base` has any.

    A panel that is empty because all is well must not look like one whose data are missing. The expression must not
    filter by value: where it does, VictoriaMetrics puts the other side into what was filtered out.
    """
    return f'({expr}) or on () label_replace(0 * max({base}), "{label}", "none", "", "")'


def thresholds(steps: Sequence[tuple[float | None, str]]) -> Json:
    """Return steps of colours by value; None is the least."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in steps]}


def defaults_of(look: Look, custom: Json | None = None) -> Json:
    """Return the defaults of a panel's fields: how values look, and what the kind of panel adds."""
    made: Json = {
        "color": {"mode": "thresholds" if len(look.steps) > 1 else "palette-classic"},
        "mappings": mappings_of(look),
        "thresholds": thresholds(look.steps),
        "unit": look.unit,
        "noValue": look.missing,
    }
    if len(look.steps) == 1 and look.steps[0][1] != BLUE:
        made["color"] = {"mode": "fixed", "fixedColor": look.steps[0][1]}
    for name, value in (("decimals", look.decimals), ("min", look.low), ("max", look.high)):
        if value is not None:
            made[name] = value
    if custom is not None:
        made["custom"] = custom
    return made


def mappings_of(look: Look) -> list[Json]:
    """Return the words for values."""
    if not look.words:
        return []
    options = {
        f"{value:g}": {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(look.words.items())
    }
    return [{"type": "value", "options": options}]


def by_name(name: str, **properties: object) -> Json:
    """Return an override of the field of this name; a double underscore in a property stands for a dot."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def state_colors() -> list[Json]:
    """Return an override for each state: its colour, wherever a series is called by its name."""
    return [by_name(state.value, color={"mode": "fixed", "fixedColor": look.color}) for state, look in LOOKS.items()]


def stat(title: str, description: str, *queries: Query, look: Look, width: int = 4, height: int = 4) -> Panel:
    """Return one or two big numbers."""
    return Panel(
        kind="stat",
        title=title,
        description=description,
        queries=queries,
        width=width,
        height=height,
        field_config={"defaults": defaults_of(look), "overrides": []},
        options={
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        },
    )


def gauge(title: str, description: str, query: Query, *, look: Look, width: int = 4, height: int = 6) -> Panel:
    """Return a dial between the look's least and most."""
    return Panel(
        kind="gauge",
        title=title,
        description=description,
        queries=(query,),
        width=width,
        height=height,
        field_config={"defaults": defaults_of(look), "overrides": []},
        options={
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showThresholdLabels": False,
            "showThresholdMarkers": True,
        },
    )


def bars(
    title: str, description: str, *queries: Query, look: Look, width: int = 8, height: int = 8, is_state: bool = False
) -> Panel:
    """Return a horizontal bar for each series, at this moment."""
    return Panel(
        kind="bargauge",
        title=title,
        description=description,
        queries=queries,
        width=width,
        height=height,
        field_config={"defaults": defaults_of(look), "overrides": state_colors() if is_state else []},
        options={
            "displayMode": "basic",
            "minVizHeight": 10,
            "minVizWidth": 0,
            "orientation": "horizontal",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showUnfilled": True,
            "valueMode": "color",
        },
    )


def pie(title: str, description: str, query: Query, *, look: Look, width: int = 6, height: int = 8) -> Panel:
    """Return shares of a whole, by state."""
    return Panel(
        kind="piechart",
        title=title,
        description=description,
        queries=(query,),
        width=width,
        height=height,
        field_config={
            "defaults": defaults_of(look, {"hideFrom": {"legend": False, "tooltip": False, "viz": False}}),
            "overrides": state_colors(),
        },
        options={
            "legend": {
                "displayMode": "table",
                "placement": "right",
                "showLegend": True,
                "values": ["value", "percent"],
            },
            "pieType": "donut",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


def lines(
    title: str,
    description: str,
    *queries: Query,
    look: Look,
    width: int = 12,
    height: int = 8,
    stack: Literal["none", "normal", "percent"] = "none",
    overrides: Sequence[Json] = (),
    is_state: bool = False,
) -> Panel:
    """Return series over time; `is_state` gives series that are named as states their colours."""
    custom: Json = {
        "axisPlacement": "auto",
        "drawStyle": "line",
        "fillOpacity": 70 if stack != "none" else 8,
        "gradientMode": "none",
        "lineInterpolation": "stepAfter" if stack != "none" else "linear",
        "lineWidth": 0 if stack != "none" else 2,
        "pointSize": 4,
        "scaleDistribution": {"type": "linear"},
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": stack},
        "thresholdsStyle": {"mode": "line" if len(look.steps) > 1 else "off"},
    }
    defaults = defaults_of(look, custom)
    defaults["color"] = {"mode": "palette-classic"}
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        queries=queries,
        width=width,
        height=height,
        field_config={"defaults": defaults, "overrides": [*(state_colors() if is_state else []), *overrides]},
        options={
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def timeline(title: str, description: str, *queries: Query, look: Look, width: int = 24, height: int = 8) -> Panel:
    """Return a row of coloured stretches for each series; its values have words."""
    return Panel(
        kind="state-timeline",
        title=title,
        description=description,
        queries=queries,
        width=width,
        height=height,
        field_config={
            "defaults": defaults_of(look, {"fillOpacity": 85, "lineWidth": 0}) | {"color": {"mode": "thresholds"}},
            "overrides": [],
        },
        options={
            "alignValue": "center",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "mergeValues": True,
            "rowHeight": 0.85,
            "showValue": "never",
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


def heat(title: str, description: str, query: Query, *, unit: str, width: int = 12, height: int = 8) -> Panel:
    """Return buckets of a histogram over time."""
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        queries=(query,),
        width=width,
        height=height,
        field_config={
            "defaults": {
                "custom": {
                    "hideFrom": {"legend": False, "tooltip": False, "viz": False},
                    "scaleDistribution": {"type": "linear"},
                }
            },
            "overrides": [],
        },
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {
                "exponent": 0.5,
                "fill": "dark-orange",
                "mode": "scheme",
                "reverse": False,
                "scale": "exponential",
                "scheme": "Blues",
                "steps": 64,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "le"},
            "tooltip": {"mode": "single", "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A heading, and the panels under it."""

    title: str
    panels: tuple[Panel, ...]
