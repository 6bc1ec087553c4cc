# SPDX-License-Identifier: Apache-2.0
"""A dashboard: its variables, rows and links, laid out on Grafana's grid of 24 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.source.panels import DATA_SOURCE, Json, Panel, Row

SCHEMA_VERSION = 39
"""Grafana 9.4 reads it and later ones migrate it."""
TAG = "gpuledger"
COLUMNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One choice at the head of a dashboard: the values of a label, or of a metric's label where others are chosen."""

    name: str
    label: str
    metric: str
    of: str
    is_many: bool = True
    is_hidden: bool = False

    def to_json(self) -> Json:
        query = f"label_values({self.metric}, {self.of})"
        made: Json = {
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if self.is_many else {},
            "datasource": DATA_SOURCE,
            "definition": query,
            "hide": 2 if self.is_hidden else 0,
            "includeAll": self.is_many,
            "label": self.label,
            "multi": self.is_many,
            "name": self.name,
            "options": [],
            "query": {"query": query, "refId": f"{self.name}-values"},
            "refresh": 2,
            "regex": "",
            "skipUrlSync": False,
            "sort": 1,
            "type": "query",
        }
        if self.is_many:
            made["allValue"] = ".*"
        return made


def _data_source_variable() -> Json:
    return {
        "current": {},
        "hide": 0,
        "includeAll": False,
        "label": "Data source",
        "multi": False,
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard; `uid` is for ever, links are by it."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    since: str = "now-24h"
    refresh: str = "1m"

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)

    def to_json(self) -> Json:
        return {
            "annotations": {"list": []},
            "description": self.description,
            "editable": True,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "links": [_links()],
            "liveNow": False,
            "panels": _lay_out(self.rows),
            "refresh": self.refresh,
            "schemaVersion": SCHEMA_VERSION,
            "tags": [TAG],
            "templating": {"list": [_data_source_variable(), *(variable.to_json() for variable in self.variables)]},
            "time": {"from": self.since, "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
            "weekStart": "monday",
        }


def _links() -> Json:
    return {
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "tags": [TAG],
        "targetBlank": False,
        "title": "",
        "tooltip": "",
        "type": "dashboards",
        "url": "",
    }


def _lay_out(rows: Sequence[Row]) -> list[Json]:
    made: list[Json] = []
    y = 0
    for row in rows:
        made.append(
            {
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "id": len(made) + 1,
                "panels": [],
                "title": row.title,
                "type": "row",
            }
        )
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            made.append(panel.to_json(len(made) + 1, x, y))
            x += panel.width
            height = max(height, panel.height)
        y += height
    return made
