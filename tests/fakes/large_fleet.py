# SPDX-License-Identifier: Apache-2.0
"""A SIMULATED fleet of any size as it is published: two or more sites, every state, workloads, findings.

Everything goes through the code that a collector uses: cells are settled, rows are read as the ledger is, agents'
answers are parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.states import OBSERVED, State
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.fleet import Fleet, settle
from gpuledger_collector.ledger import Finding, HolderRow, HourRow
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.overview import overview, read_ledger
from gpuledger_collector.published import Published, Publisher
from gpuledger_collector.targets import Target
from tests.fakes.cells import T0_MS, rows
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import holder_row, hour_row

MODELS = ("SIMULATED NVIDIA H100 80GB HBM3", "SIMULATED NVIDIA H200")
STATES = (State.BUSY, State.BUSY, State.HELD, State.FREE, State.RESERVED, State.DOWN, State.FREE, State.BUSY)
LAST_HOUR_MS = T0_MS + 5 * HOUR_MS
CELL = LAST_HOUR_MS + 5 * 60_000
NOW_MS = CELL + CELL_MS + 100_000
FINDINGS = tuple(
    Finding(at_ms=T0_MS + number * 60_000, kind=kind, subject=f"GPU-{number}", text=f"finding {number} of a simulator")
    for number, kind in enumerate(("unrostered", "foreign_claim", "hang_suspected", "sequence_gap") * 3)
)


def a_large_fleet(nodes: int = 12, gpus: int = 8, *, sites: int = 2, simulated: bool = True) -> Published:
    """Return a fleet of `nodes` nodes, in turn at each site; every third node is free, every seventh is dark."""
    names = [(f"site-{number % sites}", f"node-{number}") for number in range(1, nodes + 1)]
    states = {
        (node, f"GPU-{node}-{gpu}"): _state(number, gpu)
        for number, (_, node) in enumerate(names, start=1)
        for gpu in range(gpus)
    }
    sites_of = {node: site for site, node in names}
    fleet = _fleet(states, sites_of)
    board = LiveBoard()
    for number, (site, node) in enumerate(names, start=1):
        if number % 7 != 0:
            target = Target(
                url=f"http://{node}:9400", site=site, cluster=f"cluster-{number % 3}", pool=f"pool-{number % 2}"
            )
            board.note(_document(node, states, simulated=simulated), target, NOW_MS - 2000)
    dark = [f"http://{node}:9400" for number, (_, node) in enumerate(names, start=1) if number % 7 == 0]
    hours, holders = _rows(states, sites_of, simulated=simulated)
    opened = {_workload(1): "train.py --config=a", _user(1): "ann"}
    ledger = FakeLedger(hours, holders, FINDINGS, openings=opened, extent=(T0_MS, CELL + CELL_MS))
    view = overview(
        now_ms=NOW_MS,
        simulated=simulated,
        ledger=read_ledger(ledger),
        fleet=fleet,
        live=board.nodes(),
        poll=PollFigures(
            targets=nodes,
            up={node.target.url: True for node in board.nodes()} | dict.fromkeys(dark, False),
            failures={},
            accepted=nodes,
            refused={},
            troubles={url: f"{url} did not answer within 10 s" for url in dark},
        ),
        sealed_ms={node.node: CELL + CELL_MS for node in board.nodes()},
        names=opened,
        refreshed_ms=NOW_MS - 20_000,
    )
    return Publisher().publish(view, fleet)


def _state(number: int, gpu: int) -> State | None:
    if number % 7 == 0:
        return None
    return State.FREE if number % 3 == 0 else STATES[(number + gpu) % len(STATES)]


def _fleet(states: Mapping[tuple[str, str], State | None], sites: Mapping[str, str]) -> Fleet:
    fleet = Fleet()
    for cell_ms in (CELL - CELL_MS, CELL):
        found = []
        for row in rows(cell_ms, dict(states), model=None):
            number = int(row.entry.node.removeprefix("node-"))
            entry = replace(
                row.entry,
                site=sites[row.entry.node],
                cluster=f"cluster-{number % 3}",
                pool=f"pool-{number % 2}",
                model=_model(row.entry.node),
            )
            found.append(replace(row, entry=entry))
        fleet = settle(fleet, cell_ms, found, {"node-3": T0_MS - 26 * HOUR_MS}, T0_MS - 160 * HOUR_MS)
    return fleet


def _model(node: str) -> str:
    return MODELS[int(node.removeprefix("node-")) % len(MODELS)]


def _workload(number: int) -> str:
    return f"{number:02x}" * 32


def _user(number: int) -> str:
    return f"{number + 128:02x}" * 32


def _document(node: str, states: Mapping[tuple[str, str], State | None], *, simulated: bool) -> dict[str, object]:
    number = int(node.removeprefix("node-")) % 100
    gpus = [
        {
            "uuid": uuid,
            "state": state.value,
            "reason": None,
            "activity_ppm": 813_000 if state is State.BUSY else 0,
            "memory_used_bytes": 64 << 30 if state in {State.BUSY, State.HELD} else 0,
            "power_mw": 512_500 if state is State.BUSY else 70_500,
            "holders": [_workload(number)] if state in {State.BUSY, State.HELD} else [],
        }
        for (name, uuid), state in states.items()
        if name == node and state in OBSERVED and state is not None
    ]
    live = {"cell_ms": CELL + CELL_MS, "edge_ms": NOW_MS, "gpus": gpus}
    return {"node": node, "node_id": f"id-{node}", "simulated": simulated, "live": live}


def _rows(
    states: Mapping[tuple[str, str], State | None], sites: Mapping[str, str], *, simulated: bool
) -> tuple[list[HourRow], list[HolderRow]]:
    return _split(_hours(states, sites, simulated=simulated))


def _hours(
    states: Mapping[tuple[str, str], State | None], sites: Mapping[str, str], *, simulated: bool
) -> Iterator[tuple[HourRow, int]]:
    for (node, uuid), state in states.items():
        for hour_ms in range(T0_MS, LAST_HOUR_MS + HOUR_MS, HOUR_MS):
            minutes = 10 if hour_ms == LAST_HOUR_MS else 60
            time = {State.DARK if state is None else state: minutes - 1, State.UNMEASURED: 1}
            row = hour_row(
                hour_ms, node, uuid, time, site=sites[node], model=_model(node), simulated=simulated, interval_ms=1000
            )
            yield row, int(node.removeprefix("node-")) % 100


def _split(found: Iterator[tuple[HourRow, int]]) -> tuple[list[HourRow], list[HolderRow]]:
    hours, holders = [], []
    for row, number in found:
        hours.append(row)
        if row.account.slice_ms(State.BUSY, State.HELD) > 0:
            holders.append(holder_row(row, _workload(number), _user(number)))
    return hours, holders
