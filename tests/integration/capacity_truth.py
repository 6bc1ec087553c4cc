# SPDX-License-Identifier: Apache-2.0
"""What the panels about idle capacity and workloads must show of the simulated site; see dashboard_truth."""

from __future__ import annotations

import pytest

from gpuledger.states import State
from tests.integration.dashboard_truth import OBSERVED_IDLE, SITES, SLOW_RATE_S, Look, Truth, one
from tests.integration.dashboards import RANGE_S, Values

# --------------------------------------------------------------------------------------------------- idle capacity

_IDLE_STATES = frozenset({State.FREE, State.RESERVED, State.HELD, State.STANDBY})


def _mean_idle(truth: Truth) -> list[Values]:
    return [one(truth.spent(_IDLE_STATES) / RANGE_S)]


def _idle_energy(truth: Truth) -> list[Values]:
    """Over two hours: nodes that were switched off have no end of the window."""
    grown = truth.grown("gpuledger_gpu_energy_joules_total", ("state", "instance"))
    return [one(sum(value for (state, _), value in grown.items() if state in {"free", "reserved", "held"}))]


def _node_rates(truth: Truth, states: frozenset[State]) -> Values:
    grown = truth.grown("gpuledger_gpu_state_seconds_total", ("site", "instance", "state"))
    found: Values = {}
    for (site, instance, state), value in grown.items():
        node = instance.partition(":")[0]
        if node != "sim-4" and State(state) in states:
            found[site, node] = found.get((site, node), 0.0) + value / RANGE_S
    return found


def _held_kinds(truth: Truth) -> list[Values]:
    grown = truth.grown("gpuledger_fleet_workload_seconds_total", ("kind", "state"))
    assert sum(value for (_, state), value in grown.items() if state == "held") == pytest.approx(
        truth.spent({State.HELD})
    )
    return [{(kind,): value / RANGE_S for (kind, state), value in grown.items() if state == "held"}]


IDLE_CAPACITY: dict[str, Look] = {
    "Data": lambda truth: [one(1)],
    "Idle GPUs, on average": _mean_idle,
    "Free": lambda truth: [one(truth.share({State.FREE}))],
    "Reserved": lambda truth: [one(truth.share({State.RESERVED}))],
    "Held": lambda truth: [one(truth.share({State.HELD}))],
    "Free whole nodes": lambda truth: [one(1)],
    "Not schedulable": lambda truth: [one(0)],
    "Energy while idle": _idle_energy,
    "Idle GPUs by state": lambda truth: [
        {(state.value,): truth.spent({state}, window_s=SLOW_RATE_S) / SLOW_RATE_S for state in _IDLE_STATES}
    ],
    "Free whole nodes by site": lambda truth: [{("east",): 0.0, ("west",): 1.0}],
    "Idle by site, share of installed time": lambda truth: [
        {(site,): truth.share(_IDLE_STATES, site=site) for site in SITES}
    ],
    "Held by what": _held_kinds,
    "Nodes with most idle GPUs": lambda truth: [
        _node_rates(truth, OBSERVED_IDLE),
        _node_rates(truth, frozenset({State.HELD})),
    ],
    "Jobs and nodes, by scheduler": lambda truth: [{("none", ""): 0.0}],
}


# ------------------------------------------------------------------------------------------------------- workloads

_KINDS = ("training", "inference", "synthetic", "other", "unclassified")


def _kinds(truth: Truth, window_s: int = RANGE_S) -> Values:
    grown = truth.grown("gpuledger_fleet_workload_seconds_total", ("kind",), window_s)
    assert sum(grown.values()) == pytest.approx(truth.spent({State.BUSY, State.HELD}, window_s=window_s))
    return grown


def _kind_share(kind: str) -> Look:
    def look(truth: Truth) -> list[Values]:
        kinds = _kinds(truth)
        return [one(kinds[kind,] / sum(kinds.values()))]

    return look


def _by_state(truth: Truth) -> list[Values]:
    grown = truth.grown("gpuledger_fleet_workload_seconds_total", ("kind", "state"))
    return [{(kind,): grown[kind, state] for kind in _KINDS} for state in ("busy", "held")]


WORKLOADS: dict[str, Look] = {
    "Data": lambda truth: [one(1)],
    **{kind.capitalize(): _kind_share(kind) for kind in _KINDS},
    "GPUs at work or held, by kind": lambda truth: [
        {key: value / SLOW_RATE_S for key, value in _kinds(truth, SLOW_RATE_S).items()}
    ],
    "Live workloads by kind": lambda truth: [truth.now("gpuledger_fleet_workloads", ("kind",))],
    "Busy and held by kind": _by_state,
    "Largest live workloads": lambda truth: [
        truth.now("gpuledger_workload_info", ("workload", "site", "kind", "calibration"))
    ],
}

CAPACITY_TRUTH: dict[tuple[str, str], Look] = {
    **{("gpuledger-idle", title): look for title, look in IDLE_CAPACITY.items()},
    **{("gpuledger-workloads", title): look for title, look in WORKLOADS.items()},
}
