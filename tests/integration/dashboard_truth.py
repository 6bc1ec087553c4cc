# SPDX-License-Identifier: Apache-2.0
"""What each panel must show of the simulated site, worked out in Python from the ledger and from the agents' own views.

Nothing here is PromQL: sums of the ledger's rows, and the first and last samples of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gpuledger.cells import CELL_MS, SLICES_PER_GPU
from gpuledger.states import IDLE, OBSERVED, OUT, UNKNOWN, State
from gpuledger_collector.ledger import CellRow
from tests.fakes.simulated_site import SimulatedSite
from tests.integration.dashboards import RANGE_S, Values

END_MS = 1_794_819_600_000
"""Monday 2026-11-16 09:00 UTC: the jobs of office hours have begun at 8, one GPU was lost at 6."""
BEGIN_MS = END_MS - 12_600_000
NODE = "sim-2"
MODEL = "SIMULATED NVIDIA H100 80GB HBM3"
RATE_S, SLOW_RATE_S = 240, 1200
"""What $__rate_interval is at a scrape a minute, and with a least step of a cell."""
OBSERVED_IDLE = frozenset({State.FREE, State.RESERVED, State.HELD})
ALL = frozenset(State)


class Truth:
    """What is true of a site at the end of its time."""

    def __init__(self, site: SimulatedSite) -> None:
        self.site = site
        self._cells: dict[int, list[CellRow]] = {}

    def spent(self, states: Iterable[State], *, site: str | None = None, window_s: int = RANGE_S) -> float:
        """Return the GPU-seconds in these states over the window, by the cells that were settled."""
        wanted = set(states)
        return sum(
            amount / SLICES_PER_GPU / 1000
            for cell_ms in range(END_MS - window_s * 1000, END_MS, CELL_MS)
            for row in self._cell(cell_ms)
            if row.entry.node not in self._foreign(site)
            for state, amount in row.account.state_slice_ms.items()
            if state in wanted
        )

    def _cell(self, cell_ms: int) -> list[CellRow]:
        if cell_ms not in self._cells:
            is_settled = cell_ms >= BEGIN_MS + CELL_MS
            self._cells[cell_ms] = self.site.state.keeper.cell_rows(cell_ms) if is_settled else []
        return self._cells[cell_ms]

    def _foreign(self, site: str | None) -> set[str]:
        return {node.plan.name for node in self.site.nodes if site not in {None, node.plan.site}}

    def share(self, states: Iterable[State], *, site: str | None = None, window_s: int = RANGE_S) -> float:
        whole = self.spent(ALL, site=site, window_s=window_s)
        return self.spent(states, site=site, window_s=window_s) / whole

    def now(self, metric: str, by: Iterable[str] = (), *, of: Mapping[str, str] | None = None) -> Values:
        """Return the sums of the last samples of the series that still are, by labels."""
        found: Values = {}
        for own, samples in self._series(metric, of or {}):
            if samples[-1][0] == END_MS:
                key = tuple(own.get(name, "") for name in by)
                found[key] = found.get(key, 0.0) + samples[-1][1]
        return found

    def grown(
        self, metric: str, by: Iterable[str] = (), window_s: int = RANGE_S, *, of: Mapping[str, str] | None = None
    ) -> Values:
        """Return by how much counters grew over the window up to now, as an engine extrapolates it: to its ends."""
        found: Values = {}
        for own, samples in self._series(metric, of or {}):
            inside = [(at_ms, value) for at_ms, value in samples if at_ms >= END_MS - window_s * 1000]
            if len(inside) > 1:
                key = tuple(own.get(name, "") for name in by)
                found[key] = found.get(key, 0.0) + inside[-1][1] - inside[0][1]
        return found

    def index_of(self) -> dict[str, str]:
        """Return the index of each GPU of the chosen node by UUID."""
        return {
            key[0]: key[1] for key in self.now("gpuledger_gpu_info", ("uuid", "index"), of={"instance": f"{NODE}:9400"})
        }

    def _series(
        self, metric: str, labels: Mapping[str, str]
    ) -> Iterable[tuple[dict[str, str], list[tuple[int, float]]]]:
        return [
            (own, samples)
            for own, samples in self.site.past.get(metric, [])
            if all(own.get(name) == value for name, value in labels.items())
        ]


def one(value: float) -> Values:
    return {(): value}


def mean(values: Values) -> float:
    return sum(values.values()) / len(values)


Look = Callable[[Truth], list[Values]]


# ------------------------------------------------------------------------------------------------------- the fleet

SITES = ("east", "west")


def _site_table(truth: Truth) -> list[Values]:
    def per_site(states: Iterable[State]) -> Values:
        return {(site, MODEL): truth.share(states, site=site) for site in SITES}

    return [
        {("east", MODEL): 16, ("west", MODEL): 16},
        per_site(IDLE),
        per_site(IDLE | UNKNOWN),
        per_site({State.BUSY}),
        per_site({State.BUSY} | UNKNOWN),
        # sim-4 is off for the last cell: half of the site is dark, and nothing of it was declared.
        {("east", MODEL): 1.0, ("west", MODEL): 0.5},
    ]


def _states_now(truth: Truth) -> Values:
    counts = truth.now("gpuledger_fleet_gpus", ("state",))
    assert sum(counts.values()) == 32
    assert counts["dark",] == counts["down",] * 8 == 8
    return counts


FLEET: dict[str, Look] = {
    "Data": lambda truth: [one(1)],
    "Installed GPUs": lambda truth: [one(32)],
    "Idle, at least": lambda truth: [one(truth.share(IDLE))],
    "Idle, at most": lambda truth: [one(truth.share(IDLE | UNKNOWN))],
    "Busy, at least": lambda truth: [one(truth.share({State.BUSY}))],
    "Busy, at most": lambda truth: [one(truth.share({State.BUSY} | UNKNOWN))],
    "Dark": lambda truth: [one(truth.share({State.DARK}))],
    "Out of service": lambda truth: [one(truth.share(OUT))],
    "States, share of installed time": lambda truth: [
        {(state.value,): truth.share({state}, window_s=SLOW_RATE_S) for state in State}
    ],
    "States of the chosen time": lambda truth: [{(state.value,): truth.spent({state}) for state in State}],
    "Idle, at least and at most": lambda truth: [
        one(truth.share(IDLE, window_s=SLOW_RATE_S)),
        one(truth.share(IDLE | UNKNOWN, window_s=SLOW_RATE_S)),
    ],
    "Idle, this week and the week before": lambda truth: [one(truth.share(IDLE, window_s=86_400)), {}],
    "GPUs by state, last settled cell": lambda truth: [_states_now(truth)],
    "Sites and models": _site_table,
}


# --------------------------------------------------------------------------------------------------------- a node

_AGENT = {"instance": f"{NODE}:9400"}


def _idle_of_covered(truth: Truth, by: tuple[str, ...] = ()) -> Values:
    states = truth.grown("gpuledger_gpu_state_seconds_total", (*by, "state"), of=_AGENT)
    idle: Values = {}
    whole: Values = {}
    for (*key, state), amount in states.items():
        whole[tuple(key)] = whole.get(tuple(key), 0.0) + amount
        idle[tuple(key)] = idle.get(tuple(key), 0.0) + (amount if State(state) in OBSERVED_IDLE else 0.0)
    return {key: idle[key] / amount for key, amount in whole.items() if amount > 0}


def _by_index(truth: Truth, values: Values) -> Values:
    indices = truth.index_of()
    return {(indices[key[0]], *key[1:]): value for key, value in values.items()}


def _state_codes(truth: Truth) -> list[Values]:
    codes = {state.value: code for code, state in enumerate(OBSERVED, start=1)}
    found = truth.now("gpuledger_gpu_current_state", ("uuid", "instance_id", "state"), of=_AGENT)
    return [_by_index(truth, {(uuid, instance): float(codes[state]) for uuid, instance, state in found})]


def _state_shares(truth: Truth) -> list[Values]:
    grown = truth.grown("gpuledger_gpu_state_seconds_total", ("state",), RATE_S, of=_AGENT)
    return [{key: value / sum(grown.values()) for key, value in grown.items()}]


def _engine_means(truth: Truth) -> list[Values]:
    made = []
    for engine in ("sm", "tensor", "dram"):
        metric = f"gpuledger_gpu_{engine}_active_seconds_total"
        grown = truth.grown(metric, (), RATE_S, of=_AGENT)
        made.append(one(grown[()] / RATE_S / len(truth.now(metric, ("uuid",), of=_AGENT))))
    return made


def _links(truth: Truth) -> list[Values]:
    names = [
        f"gpuledger_gpu_{link}_{way}_bytes_total" for link in ("nvlink", "pcie") for way in ("transmit", "receive")
    ]
    return [one(truth.grown(name, (), RATE_S, of=_AGENT)[()] / RATE_S) for name in names]


def _power(truth: Truth) -> list[Values]:
    power = truth.now("gpuledger_gpu_power_watts", ("uuid",), of=_AGENT)
    floors = truth.now("gpuledger_gpu_idle_floor_watts", ("kind", "uuid"), of=_AGENT)
    kinds = {kind for kind, _ in floors}
    means: Values = {(kind,): mean({key: value for key, value in floors.items() if key[0] == kind}) for kind in kinds}
    return [_by_index(truth, power), one(700.0), means]


def _gpu_table(truth: Truth) -> list[Values]:
    """Only the first query has the labels of its own; the others are joined by UUID."""
    columns = ("index", "uuid", "model", "serial", "pci_bus_id")

    def bare(values: Values) -> Values:
        return {("", key[0], "", "", ""): value for key, value in values.items()}

    return [
        truth.now("gpuledger_gpu_info", columns, of=_AGENT),
        bare(_idle_of_covered(truth, ("uuid",))),
        bare(truth.now("gpuledger_gpu_memory_used_bytes", ("uuid",), of=_AGENT)),
        bare(truth.now("gpuledger_gpu_power_watts", ("uuid",), of=_AGENT)),
        bare(truth.now("gpuledger_gpu_ecc_errors_total", ("uuid",), of=_AGENT | {"kind": "uncorrected"})),
        bare(truth.now("gpuledger_gpu_remapped_rows", ("uuid",), of=_AGENT)),
    ]


def _throttled(truth: Truth) -> list[Values]:
    grown = truth.grown("gpuledger_gpu_throttled_seconds_total", ("reason",), RATE_S, of=_AGENT)
    return [{key: value / RATE_S / 8 for key, value in grown.items()} or {("none",): 0.0}]


NODE_AND_GPU: dict[str, Look] = {
    "Data": lambda truth: [one(1)],
    "GPUs": lambda truth: [one(8)],
    "Idle, of covered time": lambda truth: [_idle_of_covered(truth)],
    "Energy while idle": lambda truth: [
        one(
            sum(
                value
                for (state,), value in truth.grown("gpuledger_gpu_energy_joules_total", ("state",), of=_AGENT).items()
                if state in {"free", "reserved", "held"}
            )
        )
    ],
    "Last tick": lambda truth: [one(0)],
    "Xid errors": lambda truth: [one(0)],
    "Hang suspicion": lambda truth: [truth.grown("gpuledger_gpu_hang_suspicion_seconds_total", of=_AGENT)],
    "Driver": lambda truth: [one(1)],
    "State of each GPU": _state_codes,
    "States, share of covered time": _state_shares,
    "Busy and held time by activity": lambda truth: [
        truth.grown("gpuledger_gpu_activity_seconds_bucket", ("le",), RATE_S, of=_AGENT)
    ],
    "Engine activity": lambda truth: [
        _by_index(
            truth,
            {
                key: value / RATE_S
                for key, value in truth.grown(
                    "gpuledger_gpu_active_seconds_total", ("uuid",), RATE_S, of=_AGENT
                ).items()
            },
        )
    ],
    "SM, tensor and DRAM activity": _engine_means,
    "Power against limit and idle floors": _power,
    "Memory in use": lambda truth: [
        _by_index(truth, truth.now("gpuledger_gpu_memory_used_bytes", ("uuid",), of=_AGENT))
    ],
    "NVLink and PCIe": _links,
    "Clocks held down": _throttled,
    "GPUs in detail": _gpu_table,
    "Xid errors by number": lambda truth: [truth.now("gpuledger_gpu_xid_errors_total", ("uuid", "xid"), of=_AGENT)],
    "Recommended action": lambda truth: [truth.now("gpuledger_gpu_recovery_action", ("uuid", "action"), of=_AGENT)],
}


# --------------------------------------------------------------------------------------------- gpuledger itself

_AGE_S = 300
"""The last settled cell ended just now, so it began a cell ago."""


def _worst_ticks(truth: Truth) -> list[Values]:
    return [{(f"{name}:9400",): 0.0 for name in ("sim-1", "sim-2", "sim-3")}]


def _failed_reads(truth: Truth) -> list[Values]:
    grown = truth.grown("gpuledger_agent_source_failures_total", ("source", "error"), RATE_S)
    return [{key: value / RATE_S for key, value in grown.items()} or {("", "none"): 0.0}]


def _durations(truth: Truth) -> list[Values]:
    found: Values = {}
    for (source, _), value in truth.now("gpuledger_agent_source_duration_seconds", ("source", "instance")).items():
        found[source,] = max(value, found.get((source,), 0.0))
    return [found]


def _agents(truth: Truth) -> list[Values]:
    found = truth.now("gpuledger_agent_info", ("version", "driver_version", "simulated"))
    assert list(found.values()) == [3.0]
    return [found]


def _seen(truth: Truth) -> list[Values]:
    found = truth.now("gpuledger_node_last_seen_timestamp_seconds", ("site", "node"))
    assert {key[1] for key, value in found.items() if value < END_MS / 1000} == {"sim-4"}
    return [{key: value * 1000 for key, value in found.items()}]


HEALTH: dict[str, Look] = {
    "Data": lambda truth: [one(1)],
    "Agents scraped": lambda truth: [one(3)],
    "Targets that do not answer": lambda truth: [one(1)],
    "Coverage, lowest place": lambda truth: [one(0.5)],
    "Lag of the settled cell": lambda truth: [one(_AGE_S)],
    "Ledger refreshed": lambda truth: [one(0)],
    "Findings": lambda truth: [one(sum(truth.now("gpuledger_collector_findings").values()))],
    "Readings refused": lambda truth: [one(0)],
    "Age of the last tick, oldest five": _worst_ticks,
    "Time not covered, by reason": lambda truth: [
        {
            key: value / RATE_S
            for key, value in truth.grown("gpuledger_gpu_uncovered_seconds_total", ("reason",), RATE_S).items()
        }
        or {("none",): 0.0}
    ],
    "Failed reads": _failed_reads,
    "Time that sources take": _durations,
    "Agents by version and driver": _agents,
    "Nodes seen longest ago": _seen,
    "Readings accepted": lambda truth: [
        one(truth.grown("gpuledger_collector_readings_accepted_total", (), RATE_S)[()] / RATE_S)
    ],
    "Polls that failed": lambda truth: [
        {
            key: value / RATE_S
            for key, value in truth.grown("gpuledger_collector_poll_failures_total", ("reason",), RATE_S).items()
        }
    ],
    "Time that a refresh takes": lambda truth: [truth.now("gpuledger_collector_ledger_refresh_duration_seconds")],
    "Findings by kind": lambda truth: [truth.now("gpuledger_collector_findings", ("kind",)) or {("none",): 0.0}],
}

TRUTH: dict[tuple[str, str], Look] = {
    **{("gpuledger-fleet", title): look for title, look in FLEET.items()},
    **{("gpuledger-node", title): look for title, look in NODE_AND_GPU.items()},
    **{("gpuledger-health", title): look for title, look in HEALTH.items()},
}
