# SPDX-License-Identifier: Apache-2.0
"""Readings, rosters and cells in a line of test code each."""

from collections.abc import Mapping, Sequence

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, SLICES_PER_GPU
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import Reading
from gpuledger.states import State
from gpuledger_collector.ledger import Accepted, CellRow, cell_rows
from gpuledger_collector.roster import Entry, Roster, Window

T0_MS = 1_795_305_600_000
"""2026-11-22 00:00 UTC."""


def entry(gpu: str, node: str, site: str = "fra1", model: str | None = "NVIDIA H100") -> Entry:
    return Entry(gpu=gpu, node=node, from_ms=0, site=site, model=model)


def gpu_time(uuid: str, states: Mapping[State, int], model: str | None = "NVIDIA H100") -> GpuTime:
    """`states` in milliseconds; they must fill the cell. Busy time was at full activity, held time at none."""
    slices = {state: amount * SLICES_PER_GPU for state, amount in states.items()}
    bins = (slices.get(State.HELD, 0), 0, 0, 0, 0, 0, 0, slices.get(State.BUSY, 0))
    return GpuTime(uuid=uuid, model=model, state_slice_ms=slices, bin_slice_ms=bins)


def reading(node: str, gpus: Sequence[GpuTime], cell_ms: int = T0_MS, sequence: int = 1) -> Accepted:
    """A reading of a whole cell, as the log gives it."""
    core = Reading(
        node_id=f"id-of-{node}",
        node_name=node,
        session="session",
        sequence=sequence,
        boot_id="boot",
        start_ms=cell_ms,
        end_ms=cell_ms + CELL_MS,
        wall_start_ms=cell_ms,
        wall_end_ms=cell_ms + CELL_MS,
        interval_ms=1000,
        agent_version="0",
        configuration_digest="0",
        previous="genesis",
        gpus=tuple(gpus),
    )
    return Accepted(digest=f"{node}/{cell_ms}/{sequence}", reading=core)


def rows(
    cell_ms: int,
    states: Mapping[tuple[str, str], State | Mapping[State, int] | None],
    windows: Sequence[Window] = (),
    model: str | None = "NVIDIA H100",
) -> list[CellRow]:
    """The cell's rows of GPUs named (node, uuid), each in one state or in parts (ms); None was not observed."""
    by_node: dict[str, list[GpuTime]] = {}
    for (node, uuid), state in states.items():
        if state is not None:
            parts = {state: CELL_MS} if isinstance(state, State) else state
            by_node.setdefault(node, []).append(gpu_time(uuid, parts, model))
    roster = Roster(
        entries=tuple(entry(uuid, node, model=None) for node, uuid in states), windows=tuple(windows), is_declared=True
    )
    return cell_rows([reading(node, gpus, cell_ms) for node, gpus in by_node.items()], roster, cell_ms)


assert CELL_SLICE_MS == CELL_MS * SLICES_PER_GPU
