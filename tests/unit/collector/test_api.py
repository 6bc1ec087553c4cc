# SPDX-License-Identifier: Apache-2.0
"""The JSON interface: the figures of the page as integers."""

import json
from typing import Any

from gpuledger_collector import api
from gpuledger_collector.fleet import Fleet
from gpuledger_collector.overview import LedgerFigures, Overview, overview
from tests.fakes.glance import CELL, HOUR_SLICE_MS, NO_POLLS, NOW_MS, UNMEASURED, a_glance


def read(view: Overview) -> Any:
    return json.loads(api.render(view))


def test_figures_are_integer_numerators_and_denominators() -> None:
    total = read(a_glance())["total"]
    assert total["installed_slice_ms"] == 192 * HOUR_SLICE_MS
    assert total["state_slice_ms"]["dark"] == 2 * HOUR_SLICE_MS
    assert total["idle"] == {
        "low_numerator": 80 * HOUR_SLICE_MS,
        "high_numerator": 82 * HOUR_SLICE_MS,
        "denominator": 192 * HOUR_SLICE_MS,
    }
    assert total["coverage"] == {"numerator": 190 * HOUR_SLICE_MS, "denominator": 192 * HOUR_SLICE_MS}
    assert total["engine_active"]["numerator"] * 192 == total["engine_active"]["denominator"] * 44
    assert total["withheld"] == []


def test_sites_and_places_sum_to_the_total() -> None:
    found = read(a_glance())
    for parts in (found["sites"], found["places"]):
        assert sum(part["installed_slice_ms"] for part in parts) == found["total"]["installed_slice_ms"]


def test_busy_is_null_where_too_little_was_measured() -> None:
    total = read(a_glance(account=UNMEASURED))["total"]
    assert total["busy"] is None
    assert total["withheld"] == ["occupancy", "used", "busy"]


def test_nodes_gpus_and_free_whole_nodes_are_listed() -> None:
    found = read(a_glance())
    assert [node["node"] for node in found["nodes"]] == ["node-1", "node-2", "node-3", "node-10"]
    gpu = found["nodes"][0]["gpus"][0]
    assert (gpu["gpu"], gpu["state"], gpu["from"], gpu["activity_ppm"]) == ("GPU-11", "busy", "live", 913_000)
    assert found["nodes"][3]["gpus"][0] == {"gpu": "GPU-101", "state": "dark", "from": "nobody", "rostered": True}
    assert found["nodes"][3]["sealed_ms"] is None
    assert [node["node"] for node in found["free_whole_nodes"]] == ["node-3"]
    assert found["settled_cell"]["start_ms"] == CELL
    assert found["gpus_now"] == {"busy": 1, "held": 2, "free": 2, "down": 1, "dark": 2}
    assert found["agents"]["up"] == 3


def test_what_is_not_known_is_null() -> None:
    empty = overview(
        now_ms=NOW_MS,
        simulated=False,
        ledger=LedgerFigures(),
        fleet=Fleet(),
        live=[],
        poll=NO_POLLS,
        sealed_ms={},
        names={},
        refreshed_ms=None,
    )
    found = read(empty)
    for key in ("period", "settled_cell", "refreshed_ms"):
        assert found[key] is None
    for key in ("idle", "busy", "coverage", "measured", "out", "engine_active"):
        assert found["total"][key] is None


def test_simulated_data_is_marked() -> None:
    assert read(a_glance(simulated=True))["simulated"] is True
    assert read(a_glance())["simulated"] is False
