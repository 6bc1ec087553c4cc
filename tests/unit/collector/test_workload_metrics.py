# SPDX-License-Identifier: Apache-2.0
"""Seconds by kind over settled cells: they sum to the states, count once, and go on after a restart."""

from dataclasses import replace
from pathlib import Path

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS
from gpuledger.states import State
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.fleet import Fleet, settle
from gpuledger_collector.workload_demand import LedgerDemand
from gpuledger_collector.workload_metrics import INFO_MAX, WorkloadFigures, WorkloadMeter
from tests.fakes.readings import MODEL, MONDAY_MS, FakeNode, gpu_time
from tests.fakes.signs import ENGINE, LAUNCHER, NOBODY_KNOWS
from tests.fakes.storage import Storage
from tests.unit.collector.test_workload_book import HintingNode, label, open_storage, run


def settled(storage: Storage, meter: WorkloadMeter, cells: int) -> WorkloadFigures:
    fleet = Fleet()
    for index in range(cells):
        rows = storage.keeper.cell_rows(MONDAY_MS + index * CELL_MS)
        fleet = settle(fleet, MONDAY_MS + index * CELL_MS, rows, {})
        assert fleet.cell is not None
        meter.settle(fleet.cell, rows)
    for state in (State.BUSY, State.HELD):
        of_kinds = sum(ms for key, ms in meter.figures.slice_ms.items() if key[3] == state.value)
        assert of_kinds == sum(states[state] for states in fleet.slice_ms.values())
    return meter.figures


def of_kind(figures: WorkloadFigures, kind: Kind) -> int:
    return figures.slice_ms["fra1", MODEL, kind.value, "busy"]


def test_kinds_sum_to_the_states_and_a_later_verdict_moves_the_ledger_but_no_counter(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        for number, told in enumerate((LAUNCHER, ENGINE, NOBODY_KNOWS)):
            node = HintingNode(name=f"node-{number}", gpus=2)
            run(node, [told] * 4, f"slurm:c1/{number}")
            storage.take(node, place=("fra1", "c1", "h100"))
        closed = FakeNode(name="node-9", gpus=1)
        gpu = gpu_time(closed.uuids[0], CELL_MS, {State.BUSY: 200_000, State.HELD: 50_000})
        closed.seal(MONDAY_MS, gpus=[gpu])
        storage.take(closed, [replace(closed.sealed[0], workloads=None)], place=("fra1", "c1", "h100"))
        storage.refresh()
        meter = WorkloadMeter(storage.store)
        figures = settled(storage, meter, 4)
        assert of_kind(figures, Kind.TRAINING) == of_kind(figures, Kind.INFERENCE) == 8 * CELL_SLICE_MS
        assert of_kind(figures, Kind.UNCLASSIFIED) == 8 * CELL_SLICE_MS + 200_000 * 7
        assert {(info.workload, info.kind) for info in figures.infos} == {
            ("slurm:c1/0", "training"),
            ("slurm:c1/1", "inference"),
            ("slurm:c1/2", "unclassified"),
        }
        assert figures.live == {("fra1", "training"): 1, ("fra1", "inference"): 1, ("fra1", "unclassified"): 1}
        label(storage, "slurm:c1/2", Kind.OTHER)
        assert settled(storage, WorkloadMeter(storage.store), 4).slice_ms == figures.slice_ms
        demand = LedgerDemand(storage.files, storage.store).demand(MONDAY_MS, MONDAY_MS + HOUR_MS)
        assert demand is not None
        sums = {one.kind: one for one in demand.kinds}
        assert sums[Kind.OTHER].busy_slice_ms == sums[Kind.OTHER].whole_slice_ms == 8 * CELL_SLICE_MS
        assert sums[Kind.UNCLASSIFIED].busy_slice_ms == 200_000 * 7
        assert sums[Kind.UNCLASSIFIED].held_slice_ms == 50_000 * 7


def test_workloads_with_a_series_of_their_own_are_bounded(tmp_path: Path) -> None:
    with open_storage(tmp_path) as storage:
        node = HintingNode(name="node", gpus=1)
        for index in range(12):
            run(node, [LAUNCHER], f"slurm:c1/{index}", start_ms=MONDAY_MS + index * CELL_MS)
        storage.take(node, place=("fra1", "c1", "h100"))
        storage.refresh()
        figures = settled(storage, WorkloadMeter(storage.store), 12)
        assert len(figures.infos) == 12 <= INFO_MAX
