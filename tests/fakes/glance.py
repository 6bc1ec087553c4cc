# SPDX-License-Identifier: Apache-2.0
"""A small fleet to look at: 4 nodes × 2 GPUs, one of each kind of trouble, at 05:14:12 on 22 November 2026."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuledger.accounting import Account
from gpuledger.cells import CELL_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.answers import PollFigures
from gpuledger_collector.fleet import Fleet, Place, settle
from gpuledger_collector.ledger import Finding
from gpuledger_collector.live import LiveBoard
from gpuledger_collector.overview import LedgerFigures, Overview, Sums, overview
from gpuledger_collector.published import Published, Publisher
from gpuledger_collector.targets import Target
from tests.fakes.cells import T0_MS, rows

NOW_MS = T0_MS + 5 * HOUR_MS + 14 * 60_000 + 12_000
CELL = T0_MS + 5 * HOUR_MS + 5 * 60_000
MODEL = "NVIDIA H100 80GB HBM3"
HOUR_SLICE_MS = HOUR_MS * SLICES_PER_GPU

STATES: Mapping[tuple[str, str], State | None] = {
    ("node-1", "GPU-11"): State.BUSY,
    ("node-1", "GPU-12"): State.DOWN,
    ("node-2", "GPU-21"): State.HELD,
    ("node-2", "GPU-22"): State.HELD,
    ("node-3", "GPU-31"): State.FREE,
    ("node-3", "GPU-32"): State.FREE,
    ("node-10", "GPU-101"): None,
    ("node-10", "GPU-102"): None,
}

ALICE, BOB = "a1" * 32, "b0" * 32
"""Digests of two names; only the first is open."""

NO_POLLS = PollFigures(targets=0, up={}, failures={}, accepted=0, refused={}, troubles={})


def an_account(**gpu_hours: int) -> Account:
    states = {State(name): hours * HOUR_SLICE_MS for name, hours in gpu_hours.items()}
    return Account(state_slice_ms=states, active_ns=44 * HOUR_MS * 1_000_000)


MEASURED = an_account(busy=100, held=20, free=60, down=10, dark=2)
"""192 GPU-hours: idle from 41.6 (80/192) to 42.8 %, busy from 52.0 to 53.2 %, coverage 98.9 %."""
UNMEASURED = an_account(busy=90, held=20, free=60, down=10, dark=12)
"""Measured 93.75 %, coverage 93.75 %."""


def a_document(node: str, simulated: bool = False) -> dict[str, Any]:
    gpus = [
        {
            "uuid": uuid,
            "state": state.value,
            "reason": None,
            "activity_ppm": 913_000 if state is State.BUSY else 0,
            "memory_used_bytes": 3 << 30,
            "power_mw": 70_500,
            "holders": [ALICE, BOB] if state is State.HELD else [],
        }
        for (name, uuid), state in STATES.items()
        if name == node and state is not None
    ]
    live = {"cell_ms": CELL + CELL_MS, "edge_ms": NOW_MS, "gpus": gpus}
    return {"node": node, "node_id": f"id-{node}", "simulated": simulated, "live": live}


def a_fleet(looked_back_to_ms: int | None = T0_MS - 160 * HOUR_MS) -> Fleet:
    named = [replace(row, entry=replace(row.entry, site="fra1", model=MODEL)) for row in rows(CELL, dict(STATES))]
    return settle(Fleet(), CELL, named, {"node-3": T0_MS - 26 * HOUR_MS}, looked_back_to_ms)


def a_glance(
    *,
    account: Account = MEASURED,
    simulated: bool = False,
    site: str = "fra1",
    findings: tuple[Finding, ...] = (),
    board: LiveBoard | None = None,
    troubles: Mapping[str, str] | None = None,
    fleet: Fleet | None = None,
) -> Overview:
    if board is None:
        board = LiveBoard()
        for node in ("node-1", "node-2", "node-3"):
            target = Target(url=f"http://{node}:9400", site="fra1")
            board.note(a_document(node, simulated), target, NOW_MS - 3000)
    troubles = (
        {"http://node-10:9400": "http://node-10:9400 did not answer within 10 s"} if troubles is None else troubles
    )
    up = {"http://node-1:9400": True, "http://node-2:9400": True, "http://node-3:9400": True}
    return overview(
        now_ms=NOW_MS,
        simulated=False,
        ledger=LedgerFigures(
            start_ms=T0_MS - 18 * HOUR_MS,
            end_ms=CELL + CELL_MS,
            places={Place(site, MODEL): Sums(account=account, gpus=8)},
            findings=findings,
        ),
        fleet=a_fleet() if fleet is None else fleet,
        live=board.nodes(),
        poll=PollFigures(
            targets=4, up=up | dict.fromkeys(troubles, False), failures={}, accepted=0, refused={}, troubles=troubles
        ),
        sealed_ms={"node-1": CELL + CELL_MS, "node-2": CELL + CELL_MS, "node-3": CELL + CELL_MS},
        names={ALICE: "train.py (alice)"},
        refreshed_ms=NOW_MS - 20_000,
    )


def a_published(view: Overview | None = None, fleet: Fleet | None = None) -> Published:
    return Publisher().publish(a_glance() if view is None else view, a_fleet() if fleet is None else fleet)
