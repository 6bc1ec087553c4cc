# SPDX-License-Identifier: Apache-2.0
"""One GPU's cell: what was observed, and what absence, declarations, leases and schedulers make of it. Pure.

accounting.md, 2, "The collector". Observation beats declaration: only time that nobody covered, and time without a
process, ever becomes something else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gpuledger.accounting import Account
from gpuledger.cells import CELL_SLICE_MS
from gpuledger.gpu_time import GpuTime
from gpuledger.states import ACTIVITY_EDGES_PPM, State
from gpuledger_collector.roster import WindowKind

_STATES = tuple(State)
"""In order; iterating over the Enum itself is slow, and this is done for every cell of every GPU."""


def account_cell(gpus: Sequence[GpuTime], declared: Collection[WindowKind], *, is_given: bool) -> Account:
    """Return the account of one cell from the parts of the readings that count.

    `is_given` says that somebody had the GPU for the whole cell, by a lease that names it or from a scheduler.
    """
    states: dict[State, int] = {}
    energy: dict[str, int] = {}
    bins = [0] * len(ACTIVITY_EDGES_PPM)
    active_ns: int | None = None
    for gpu in gpus:
        for state, amount in gpu.state_slice_ms.items():
            states[state] = states.get(state, 0) + amount
        for key, amount in gpu.energy_mj.items():
            energy[key] = energy.get(key, 0) + amount
        for position, amount in enumerate(gpu.bin_slice_ms):
            bins[position] += amount
        if gpu.active_ns is not None:
            active_ns = gpu.active_ns + (0 if active_ns is None else active_ns)
    uncovered = CELL_SLICE_MS - sum(states.values())
    if uncovered < 0:  # pragma: no cover - excluded by the reading's own law and by dropping overlaps
        raise AssertionError("more than a cell of time in one cell")
    if is_given and (free := states.pop(State.FREE, 0)) > 0:
        states[State.RESERVED] = states.get(State.RESERVED, 0) + free
    declared_uncovered = 0
    if uncovered > 0:
        # Standby before maintenance: it counts as idle, so a double declaration cannot flatter.
        if WindowKind.STANDBY in declared:
            target, declared_uncovered = State.STANDBY, uncovered
        elif WindowKind.MAINTENANCE in declared:
            target, declared_uncovered = State.MAINTENANCE, uncovered
        else:
            target = State.DARK
        states[target] = states.get(target, 0) + uncovered
    if WindowKind.MAINTENANCE in declared:
        moved = states.pop(State.FREE, 0) + states.pop(State.RESERVED, 0)
        if moved > 0:
            states[State.MAINTENANCE] = states.get(State.MAINTENANCE, 0) + moved
    return Account(
        state_slice_ms={state: states[state] for state in _STATES if states.get(state, 0) > 0},
        bin_slice_ms=tuple(bins),
        active_ns=active_ns,
        energy_mj=energy,
        declared_uncovered_slice_ms=declared_uncovered,
    )
