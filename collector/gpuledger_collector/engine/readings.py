# SPDX-License-Identifier: Apache-2.0
"""Cells of an engine as readings that no agent sealed, so that the ledger adds them up as it does all others. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gpuledger.cells import CELL_MS, SLICES_PER_GPU, share_equally
from gpuledger.gpu_time import UNCOVERED_ENERGY, GpuTime
from gpuledger.reading import Reading
from gpuledger.states import State
from gpuledger.workload_time import WHOLE_STATES, WorkloadTime
from gpuledger_collector.engine.gauges import Cell, Holder
from gpuledger_collector.engine.inventory import Gpu
from gpuledger_collector.ledger import Accepted, Finding

PROCESSES = "processes"
"""What a workload is called of which only the owner is known."""
ENERGY_MJ_MAX = 1 << 53
"""Blanks of DCGM are above it, and so is what a double cannot hold exactly."""


@dataclass(slots=True)
class Names:
    """Names by their digests: the ledger keeps digests, and asks for names when it is read."""

    by_digest: dict[str, str] = field(default_factory=dict)

    def digest(self, name: str, *parts: str) -> str:
        """Return the digest of what `parts` tell apart, which is shown as `name`."""
        found = hashlib.sha256("\0".join((*parts, name)).encode("utf-8", "surrogatepass")).hexdigest()
        self.by_digest[found] = name
        return found

    def names(self, digests: Iterable[str]) -> dict[str, str]:
        return {digest: self.by_digest[digest] for digest in digests if digest in self.by_digest}

    def findings(self, start_ms: int, end_ms: int) -> list[Finding]:
        """Return what stands beside the rows: nothing, findings are written with them."""
        return []

    def roster(self) -> None:
        """Return none: what an engine has samples of is no roster."""


def accept(
    gpu: Gpu,
    cell_ms: int,
    cell: Cell,
    *,
    interval_ms: int,
    names: Names,
    owners: Sequence[str] = (),
    energy_mj: int | None = None,
) -> Accepted:
    """Return one cell of one GPU as an accepted reading; `owners` had processes on it at some time of the cell."""
    known_ms = cell.active_known_slice_ms // SLICES_PER_GPU
    active_ns = None
    if known_ms > 0:
        # Both are rounded down to whole units, and an integral is never over more than was known.
        active_ns = min(cell.active_slice_ns // SLICES_PER_GPU, known_ms * 1_000_000)
    time = GpuTime(
        uuid=gpu.identity,
        model=gpu.model,
        state_slice_ms=cell.state_slice_ms,
        bin_slice_ms=tuple(cell.bin_slice_ms),
        active_ns=active_ns,
        active_known_ms=known_ms,
        activity_source=" ".join(sorted(cell.sources)) or None,
        energy_mj={} if energy_mj is None else {_energy_key(cell): energy_mj},
        memory_used_bytes_max=cell.memory_bytes_max,
    )
    reading = Reading(
        node_id=gpu.identity,
        node_name=gpu.node,
        session="engine",
        sequence=cell_ms // CELL_MS,
        boot_id="",
        start_ms=cell_ms,
        end_ms=cell_ms + CELL_MS,
        wall_start_ms=cell_ms,
        wall_end_ms=cell_ms + CELL_MS,
        interval_ms=interval_ms,
        agent_version="",
        configuration_digest="",
        previous="",
        simulated=gpu.is_simulated,
        gpus=(time,),
    )
    return Accepted(
        digest=f"{gpu.identity} {cell_ms}",
        reading=reading,
        workloads=_workloads(gpu, cell, names, owners),
    )


def _energy_key(cell: Cell) -> str:
    """Return the state that all of the cell was spent in, else that there was no one state."""
    states = list(cell.state_slice_ms)
    return states[0].value if len(states) == 1 and cell.covered_ms == CELL_MS else UNCOVERED_ENERGY


def _workloads(gpu: Gpu, cell: Cell, names: Names, owners: Sequence[str]) -> tuple[WorkloadTime, ...]:
    times: dict[Holder, dict[State, int]] = {}
    left = {state: cell.state_slice_ms.get(state, 0) for state in WHOLE_STATES}
    for holders, amounts in cell.holders.items():
        for state, amount in amounts.items():
            left[state] -= amount
            _share(times, sorted(holders, key=_order), state, amount)
    if owners:
        for state, amount in left.items():
            _share(times, [(PROCESSES, owner) for owner in sorted(owners)], state, amount)
    return tuple(
        WorkloadTime(
            workload=names.digest(workload, "workload", owner or ""),
            user=None if owner is None else names.digest(owner, "user"),
            uuid=gpu.identity,
            state_slice_ms=amounts,
            memory_bytes_max=cell.memory_bytes_max if len(times) == 1 else None,
        )
        for (workload, owner), amounts in sorted(times.items(), key=lambda item: _order(item[0]))
    )


def _share(times: dict[Holder, dict[State, int]], holders: Sequence[Holder], state: State, amount: int) -> None:
    if amount == 0:
        return
    for holder, part in zip(holders, share_equally(amount, len(holders)), strict=True):
        if part > 0:
            sums = times.setdefault(holder, {})
            sums[state] = sums.get(state, 0) + part


def _order(holder: Holder) -> tuple[str, str]:
    return holder[0], holder[1] or ""


def energy_of_cells(edges: Sequence[float | None], unit_mj: int) -> dict[int, int]:
    """Return the energy between consecutive edges in mJ, by the index of the first.

    There is none where the counter fell, is not known, or is a blank.
    """
    found = {}
    for index, (before, after) in enumerate(pairwise(edges)):
        if before is not None and after is not None and 0 <= before <= after < ENERGY_MJ_MAX:
            found[index] = round(after * unit_mj) - round(before * unit_mj)
    return found
