# SPDX-License-Identifier: Apache-2.0
"""The dashboards' JSON: what the code says, valid for Grafana, over families that exist, with words on every panel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as SdkDashboard

from dashboards.source.__main__ import text_of
from dashboards.source.all import DASHBOARDS
from dashboards.source.panels import CELL_STEP
from gpuledger.metrics import FAMILIES
from gpuledger.states import State

FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
KNOWN_TO_GRAFANA_ONLY = re.compile(r"templating/list/\d+/definition$")
"""Grafana writes it and no schema lists it."""


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> None:
    register_default_plugins()


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def paths_of(value: object, where: str = "") -> Iterator[str]:
    """Yield the path of every key and item."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{where}/{key}"
            yield from paths_of(inner, f"{where}/{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_of(inner, f"{where}/{index}")


def lost_in_round_trip(found: dict[str, Any]) -> list[str]:
    """Return what Grafana's own types do not know: they drop it."""
    again = json.loads(JSONEncoder(sort_keys=True).encode(SdkDashboard.from_json(found)))
    return sorted(
        path for path in set(paths_of(found)) - set(paths_of(again)) if not KNOWN_TO_GRAFANA_ONLY.search(path)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafana_knows_every_key(path: Path) -> None:
    assert lost_in_round_trip(load(path)) == []


def test_a_key_that_grafana_does_not_know_is_found() -> None:
    found = load(FILES[0])
    panel = next(panel for panel in found["panels"] if panel["type"] == "stat")
    panel["options"]["colourMode"] = "value"
    assert [path.rsplit("/", 1)[1] for path in lost_in_round_trip(found)] == ["colourMode"]


def test_files_are_what_the_code_says() -> None:
    assert {path.name for path in FILES} == {f"{dashboard.uid}.json" for dashboard in DASHBOARDS}
    for dashboard in DASHBOARDS:
        assert (FOLDER / f"{dashboard.uid}.json").read_text(encoding="utf-8") == text_of(dashboard), dashboard.uid


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_says_what_moves_it_and_has_data_to_ask_for(path: Path) -> None:
    found = load(path)
    titles = [panel["title"] for panel in found["panels"] if panel["type"] != "row"]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    for panel in found["panels"]:
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert len(panel["description"]) > 40, panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_queries_are_of_families_and_labels_of_the_contract(path: Path) -> None:
    known = set(FAMILIES)
    for family in FAMILIES.values():
        if family.kind.value == "histogram":
            known |= {f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    for panel in load(path)["panels"]:
        for target in panel.get("targets", ()):
            assert set(re.findall(r"gpuledger_\w+", target["expr"])) <= known, (panel["title"], target["expr"])
            states = set("|".join(re.findall(r'state=~?"([\w|]+)"', target["expr"])).split("|")) - {""}
            assert states <= {state.value for state in State}, (panel["title"], states)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_counters_that_move_once_in_a_cell_are_never_asked_for_in_shorter_steps(path: Path) -> None:
    for panel in load(path)["panels"]:
        for target in panel.get("targets", ()):
            if "gpuledger_fleet_" in target["expr"] and "$__rate_interval" in target["expr"]:
                assert target["interval"] == CELL_STEP, panel["title"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_do_not_overlap_and_fill_the_width(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in load(path)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
    rows = sorted({y for _, y in taken})
    assert all(after == before + 1 for before, after in pairwise(rows))


def test_every_dashboard_says_simulated() -> None:
    for dashboard in DASHBOARDS:
        first = dashboard.panels[0]
        assert 'simulated="true"' in first.queries[0].expr, dashboard.uid
