# SPDX-License-Identifier: Apache-2.0
"""Asks what a dashboard's panels ask, as Grafana would: variables put in, of a real engine, at one moment."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.engines import fetch

SCRAPE_S = 60
RANGE_S = 3 * 3600
_STEPS_S = {None: SCRAPE_S, "5m": 300, "30m": 1800}
Labels = tuple[tuple[str, str], ...]
Values = dict[tuple[str, ...], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query of one panel, ready to be sent; `labels` are those by which its series are told apart."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    labels: tuple[str, ...]


def put_in(expr: str, chosen: Mapping[str, str], step: str | None = None) -> str:
    """Return the expression with Grafana's own variables and the dashboard's replaced."""
    step_s = _STEPS_S[step]
    rate_s = max(step_s + (SCRAPE_S if step is None else step_s), 4 * (SCRAPE_S if step is None else step_s))
    own = {"__range": f"{RANGE_S}s", "__rate_interval": f"{rate_s}s", "__interval": f"{step_s}s"}
    return re.sub(r"\$(\w+)", lambda found: (own | dict(chosen))[found[1]], expr)


def queries_of(dashboard: Mapping[str, Any], chosen: Mapping[str, str]) -> Iterator[Asked]:
    """Yield every query of every panel."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield Asked(
                dashboard=dashboard["uid"],
                panel=panel["title"],
                ref=target["refId"],
                expr=put_in(target["expr"], chosen, target.get("interval")),
                labels=_labels(panel, target),
            )


def _labels(panel: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[str, ...]:
    if panel["type"] != "table":
        return tuple(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    names = next(one for one in panel["transformations"] if one["id"] == "filterFieldsByName")["options"]["include"]
    return tuple(name for name in names["names"] if not name.startswith("Value"))


def ask(url: str, expr: str, at_ms: int | None = None) -> list[tuple[dict[str, str], float]]:
    """Return the series of an instant query, as of now if not told; raises AssertionError where it is refused."""
    query = urllib.parse.urlencode({"query": expr} | ({} if at_ms is None else {"time": f"{at_ms / 1000:.3f}"}))
    found = json.loads(fetch(f"{url}/api/v1/query?{query}"))
    assert found["status"] == "success", (expr, found)
    assert found["data"]["resultType"] == "vector", (expr, found)
    return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]


def values_of(answer: Sequence[tuple[Mapping[str, str], float]], labels: Sequence[str]) -> Values:
    """Return the answer by the labels' values; each series once, and no NaN: that would be drawn as a number."""
    found: Values = {}
    for metric, value in answer:
        key = tuple(metric.get(label, "") for label in labels)
        assert key not in found, (key, answer)
        assert math.isfinite(value), (key, value)
        found[key] = value
    return found


def chosen_for(node: str, instance: str) -> dict[str, str]:
    """Return all sites, models and GPUs, and one node."""
    return {"site": ".*", "model": ".*", "node": node, "instance": instance, "gpu": ".*"}


def queries_of_files(folder: Path, chosen: Mapping[str, str]) -> list[Asked]:
    """Return every query of the dashboards in a folder."""
    files = sorted(folder.glob("*.json"))
    return [query for path in files for query in queries_of(json.loads(path.read_text(encoding="utf-8")), chosen)]


def label_values(url: str, query: str, at_ms: int) -> list[str]:
    """Return what a variable of the form label_values(metric, label) offers."""
    inside = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert inside is not None, query
    match = urllib.parse.urlencode(
        {"match[]": inside[1], "start": f"{at_ms / 1000 - RANGE_S:.3f}", "end": f"{at_ms / 1000:.3f}"}
    )
    found = json.loads(fetch(f"{url}/api/v1/series?{match}"))
    return sorted({one[inside[2]] for one in found["data"] if inside[2] in one})
