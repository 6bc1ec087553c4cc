# SPDX-License-Identifier: Apache-2.0
"""The JSON interface: what the page shows, with integer numerators and denominators instead of rounded percentages.

Slice-milliseconds: a GPU-hour is 25,200,000. Times are POSIX milliseconds. What is not known is null, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from gpuledger import __version__
from gpuledger.accounting import Bounds
from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.states import OUT, UNKNOWN, State
from gpuledger_collector.overview import GpuView, NodeView, Overview, Sums

SCHEMA = 1
NODES_MAX = 5_000
FINDINGS_MAX = 1_000


def render(view: Overview) -> bytes:
    """Return the fleet as a JSON document."""
    document = {
        "schema": SCHEMA,
        "version": __version__,
        "simulated": view.simulated,
        "prepared_ms": view.now_ms,
        "refreshed_ms": view.refreshed_ms,
        "period": _span(view.ledger.start_ms, view.ledger.end_ms),
        "settled_cell": None if view.cell_ms is None else _span(view.cell_ms, view.cell_ms + CELL_MS),
        "total": figures(view.total),
        "sites": [{"site": site, **figures(sums)} for site, sums in view.sites.items()],
        "places": [
            {"site": place.site, "model": place.model or None, **figures(sums)}
            for place, sums in view.ledger.places.items()
        ],
        "gpus_now": {state.value: view.states_now[state] for state in State if view.states_now.get(state)},
        "nodes": [_node(node) for node in view.nodes[:NODES_MAX]],
        "nodes_left_off": max(0, len(view.nodes) - NODES_MAX),
        "free_whole_nodes": [
            {
                "node": free.node,
                "site": free.site,
                "pool": free.pool,
                "gpus": free.gpus,
                "since_ms": free.since_ms,
                "since_is_exact": free.is_since_exact,
            }
            for free in view.free_nodes[:NODES_MAX]
        ],
        "agents": {"configured": view.targets, "up": view.targets_up, "troubles": view.troubles},
        "findings": [
            {"at_ms": found.at_ms, "kind": found.kind, "subject": found.subject, "text": found.text}
            for found in view.ledger.findings[:FINDINGS_MAX]
        ],
        "findings_left_off": max(0, len(view.ledger.findings) - FINDINGS_MAX),
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def figures(sums: Sums) -> dict[str, object]:
    """Return one account's figures; busy is null where too little was measured to call anything busy."""
    account = sums.account
    installed = account.installed_slice_ms
    observable = installed - account.declared_uncovered_slice_ms
    return {
        "gpus": sums.gpus,
        "installed_slice_ms": installed,
        "state_slice_ms": {state.value: amount for state in State if (amount := account.slice_ms(state)) > 0},
        "idle": _bounds(account.idle),
        "busy": _bounds(account.busy) if sums.may_say_busy else None,
        "coverage": _quotient(observable - account.slice_ms(State.DARK), observable),
        "measured": _quotient(installed - account.slice_ms(*UNKNOWN), installed),
        "out": _quotient(account.slice_ms(*OUT), installed),
        "declared_uncovered": _quotient(account.declared_uncovered_slice_ms, installed),
        "engine_active": None
        if account.active_ns is None
        else _quotient(account.active_ns * SLICES_PER_GPU, installed * 1_000_000),
        "withheld": [
            word
            for word, may_say in (
                ("occupancy", sums.may_say_occupancy),
                ("used", sums.may_say_busy),
                ("busy", sums.may_say_busy),
            )
            if not may_say
        ],
    }


def _span(start_ms: int | None, end_ms: int | None) -> Mapping[str, int] | None:
    return None if start_ms is None or end_ms is None else {"start_ms": start_ms, "end_ms": end_ms}


def _quotient(numerator: int, denominator: int) -> Mapping[str, int] | None:
    return None if denominator == 0 else {"numerator": numerator, "denominator": denominator}


def _bounds(bounds: Bounds | None) -> Mapping[str, int] | None:
    if bounds is None:
        return None
    return {
        "low_numerator": bounds.low_slice_ms,
        "high_numerator": bounds.high_slice_ms,
        "denominator": bounds.installed_slice_ms,
    }


def _node(node: NodeView) -> dict[str, object]:
    return {
        "node": node.node,
        "site": node.site,
        "cluster": node.cluster,
        "pool": node.pool,
        "rack": node.rack,
        "agent": node.target,
        "trouble": node.trouble,
        "answered_ms": node.answered_ms,
        "sealed_ms": node.sealed_ms,
        "gpus": [_gpu(gpu) for gpu in node.gpus],
    }


def _gpu(gpu: GpuView) -> dict[str, object]:
    live = gpu.live
    found: dict[str, object] = {
        "gpu": gpu.gpu,
        "state": gpu.state.value,
        "from": gpu.origin.value,
        "rostered": gpu.is_rostered,
    }
    if live is not None:
        found |= {
            "reason": live.reason,
            "since_ms": live.since_ms,
            "since_is_exact": live.is_since_exact,
            "activity_ppm": live.activity_ppm,
            "memory_used_bytes": live.memory_used_bytes,
            "power_mw": live.power_mw,
            "holders": [
                {"digest": digest, "name": name} for digest, name in zip(live.holders, gpu.holders, strict=True)
            ],
        }
    return found
