# SPDX-License-Identifier: Apache-2.0
"""Live aggregates of the fleet: the last settled cell by site and model, and counters of seconds over settled cells.

Pure. A cell is settled when its readings had time to arrive; what arrives later changes the ledger, never these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gpuledger.accounting import Account, add
from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import IDLE, State
from gpuledger_collector.figures import Group
from gpuledger_collector.ledger import CellRow
from gpuledger_collector.roster import Entry

PLACES_MAX = 500
"""Pairs of site and model with series of their own; models come from nodes, so there must be a bound."""

_LEAST_FLATTERING_FIRST = tuple(reversed(State))


class Place(NamedTuple):
    """A site and a GPU model; an unknown model is the empty text."""

    site: str
    model: str


OTHER = Place("other", "other")
"""Stands for all places beyond PLACES_MAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCell:
    """One installed GPU in one cell: where it is, its account, and the state it counts as (see dominant).

    `uuid` is the name under which agents speak of it; None where only its serial is known.
    """

    entry: Entry
    uuid: str | None
    model: str
    state: State
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigures:
    """One settled cell: every installed GPU, in order of identity, and the sums by place."""

    cell_ms: int
    gpus: tuple[GpuCell, ...]
    places: Mapping[Place, Account]
    gpus_by_place: Mapping[Place, Mapping[State, int]]
    """How many GPUs each dominant state has, by place."""
    nodes_by_place: Mapping[Place, int]
    """How many nodes stand in each place; one with several models is where its first GPU is."""
    free_nodes_by_place: Mapping[Place, int]
    """Of them, those whose GPUs were all free for the whole of the cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The last settled cell, and what was counted of all cells up to `counted_to_ms` (None: nothing yet).

    `slice_ms` has every state of every place once the place was seen, from 0 on: a counter that first shows up with
    a value would hide that value from rate(). Counts of an earlier run may be carried on from; its cells are then
    not counted again. `free_since_ms` has the nodes whose GPUs were all free for the whole of the last cell.
    """

    cell: CellFigures | None = None
    counted_to_ms: int | None = None
    slice_ms: Mapping[Place, Mapping[State, int]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    free_since_ms: Mapping[str, int] = field(default_factory=dict)
    looked_back_to_ms: int | None = None
    """Before this nobody looked: what is free since then may be free for longer."""
    idle_since_ms: Mapping[str, int] = field(default_factory=dict)
    """GPUs that were in one idle state for the whole of the last cell: since when, in cells that were settled here."""
    watched_from_ms: int | None = None
    """Start of the unbroken run of settled cells: what is idle since then may be idle for longer."""


def settle(
    fleet: Fleet,
    cell_ms: int,
    rows: Sequence[CellRow],
    earlier_free_ms: Mapping[str, int],
    looked_back_to_ms: int | None = None,
) -> Fleet:
    """Return the fleet after one more settled cell; a cell that is not newer than the last changes nothing.

    `earlier_free_ms` tells, for the first cell only, since when a node had been free by then (see free_since), as far
    as somebody looked back.
    """
    if fleet.cell is not None and cell_ms <= fleet.cell.cell_ms:
        return fleet
    models = {**fleet.models, **{row.entry.gpu: model for row in rows if (model := _model_of(row)) is not None}}
    cell = summarise(cell_ms, rows, models, fleet.slice_ms.keys())
    is_counted = fleet.counted_to_ms is not None and cell_ms < fleet.counted_to_ms
    counts = {place: {state: states.get(state, 0) for state in State} for place, states in fleet.slice_ms.items()}
    for place, account in cell.places.items():
        states = counts.setdefault(place, dict.fromkeys(State, 0))
        if not is_counted:
            for state, amount in account.state_slice_ms.items():
                states[state] += amount
    is_next = fleet.cell is not None and fleet.cell.cell_ms == cell_ms - CELL_MS
    before = fleet.free_since_ms if is_next else ({} if fleet.cell is not None else earlier_free_ms)
    free = {node: min(before.get(node, cell_ms), cell_ms) for node in free_whole_nodes(cell)}
    counted_to_ms = fleet.counted_to_ms if is_counted else cell_ms + CELL_MS
    earlier = fleet if is_next else Fleet()
    return Fleet(
        cell=cell,
        counted_to_ms=counted_to_ms,
        slice_ms=counts,
        models=models,
        free_since_ms=free,
        looked_back_to_ms=(looked_back_to_ms if fleet.cell is None else fleet.looked_back_to_ms),
        idle_since_ms=_idle_since(earlier, cell),
        watched_from_ms=fleet.watched_from_ms if is_next else cell_ms,
    )


def added(before: Fleet, after: Fleet) -> dict[tuple[str, str, str], int]:
    """Return what `after` counted beyond `before`: slice-ms by (site, model, state), zeros left out."""
    return {
        (place.site, place.model, state.value): grown
        for place, states in after.slice_ms.items()
        for state, amount in states.items()
        if (grown := amount - before.slice_ms.get(place, {}).get(state, 0)) > 0
    }


def resume(counted_to_ms: int | None, amounts: Mapping[tuple[str, str, str], int]) -> Fleet:
    """Return the fleet that goes on from what an earlier run counted (see added)."""
    counts: dict[Place, dict[State, int]] = {}
    for (site, model, state), amount in amounts.items():
        counts.setdefault(Place(site, model), {})[State(state)] = amount
    return Fleet(counted_to_ms=counted_to_ms, slice_ms=counts)


def summarise(
    cell_ms: int, rows: Iterable[CellRow], models: Mapping[str, str], admitted: Iterable[Place] = ()
) -> CellFigures:
    """Return one cell's figures; `models` names the model of GPUs that the cell's readings do not name."""
    gpus = tuple(
        GpuCell(
            entry=row.entry,
            uuid=_uuid_of(row),
            model=_model_of(row) or models.get(row.entry.gpu, ""),
            state=dominant(row.account, is_divided=any(gpu.instances for _, gpu in row.parts)),
            account=row.account,
        )
        for row in rows
    )
    places = set(admitted)
    accounts: dict[Place, list[Account]] = {}
    counts: dict[Place, dict[State, int]] = {}
    nodes: dict[str, Place] = {}
    free: dict[str, bool] = {}
    for gpu in sorted(gpus, key=lambda g: (g.entry.site, g.model, g.entry.gpu)):
        place = Place(gpu.entry.site, gpu.model)
        if place not in places and len(places) >= PLACES_MAX:
            place = OTHER
        places.add(place)
        accounts.setdefault(place, []).append(gpu.account)
        states = counts.setdefault(place, {})
        states[gpu.state] = states.get(gpu.state, 0) + 1
        nodes.setdefault(gpu.entry.node, place)
        free[gpu.entry.node] = free.get(gpu.entry.node, True) and idle_throughout(gpu.account) is State.FREE
    return CellFigures(
        cell_ms=cell_ms,
        gpus=gpus,
        places={place: add(accounts[place]) for place in sorted(accounts)},
        gpus_by_place={place: counts[place] for place in sorted(counts)},
        nodes_by_place=Counter(nodes.values()),
        free_nodes_by_place=Counter(place for node, place in nodes.items() if free[node]),
    )


def dominant(account: Account, *, is_divided: bool = False) -> State:
    """Return the state that took most of the time; of equals, the one that flatters least.

    A GPU that was divided (MIG) is not free for what its other slices are: it counts as free only where all else took
    less than half of one slice, and otherwise as what took most of the rest.
    """
    states = account.state_slice_ms
    if is_divided:
        others: dict[State, int] = {state: amount for state, amount in states.items() if state is not State.FREE}
        if 2 * sum(others.values()) * SLICES_PER_GPU >= account.installed_slice_ms:
            states = others
    return max(_LEAST_FLATTERING_FIRST, key=lambda state: states.get(state, 0))


def free_whole_nodes(cell: CellFigures) -> list[str]:
    """Return the nodes whose installed GPUs were all free for the whole cell."""
    nodes: dict[str, bool] = {}
    for gpu in cell.gpus:
        is_free = idle_throughout(gpu.account) is State.FREE
        nodes[gpu.entry.node] = nodes.get(gpu.entry.node, True) and is_free
    return sorted(node for node, is_free in nodes.items() if is_free)


def idle_throughout(account: Account) -> State | None:
    """Return the idle state that took all of a cell, or None where none did."""
    return next((state for state in IDLE if account.state_slice_ms.get(state, 0) == CELL_SLICE_MS), None)


def _idle_since(before: Fleet, cell: CellFigures) -> dict[str, int]:
    known = {} if before.cell is None else {gpu.entry.gpu: idle_throughout(gpu.account) for gpu in before.cell.gpus}
    found = {}
    for gpu in cell.gpus:
        state, name = idle_throughout(gpu.account), gpu.entry.gpu
        if state is not None:
            found[name] = before.idle_since_ms[name] if known.get(name) is state else cell.cell_ms
    return found


def free_since(groups: Iterable[Group], end_ms: int) -> dict[str, int]:
    """Return since when each node was free through up to `end_ms`, to the hour, from sums by ("node", "hour_ms").

    A node that was not free all of the last hour is not in the answer.
    """
    hours: dict[str, dict[int, bool]] = {}
    for group in groups:
        node, hour_ms = str(group.key[0]), int(group.key[1])
        states = group.account.state_slice_ms
        hours.setdefault(node, {})[hour_ms] = states.get(State.FREE, 0) == group.account.installed_slice_ms
    found: dict[str, int] = {}
    last_ms = (end_ms - 1) // HOUR_MS * HOUR_MS
    for node, free in hours.items():
        hour_ms = last_ms
        while free.get(hour_ms, False):
            found[node] = hour_ms
            hour_ms -= HOUR_MS
    return found


def _uuid_of(row: CellRow) -> str | None:
    if not row.entry.gpu.startswith("serial:"):
        return row.entry.gpu
    return min((gpu.uuid for _, gpu in row.parts), default=None)


def _model_of(row: CellRow) -> str | None:
    if row.entry.model is not None:
        return row.entry.model
    # The least name, so that readings in another order give the same model.
    return min((gpu.model for _, gpu in row.parts if gpu.model is not None), default=None)
