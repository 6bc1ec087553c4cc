# SPDX-License-Identifier: Apache-2.0
"""Divided GPUs (MIG) in the ledger: whole GPUs in the hours, and whoever holds any of them once."""

from __future__ import annotations

from dataclasses import replace

from gpuledger.cells import CELL_MS, HOUR_MS, floor_to
from gpuledger.gpu_time import GpuTime, InstanceTime
from gpuledger.states import State
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.ledger import Ledger, build
from gpuledger_collector.roster import Roster
from tests.fakes.cells import T0_MS, entry, reading

GPU = "GPU-1"


def divided() -> GpuTime:
    """Three slices busy, two held, two free for a cell."""
    busy, held = 3 * CELL_MS, 2 * CELL_MS
    return GpuTime(
        uuid=GPU,
        state_slice_ms={State.BUSY: busy, State.HELD: held, State.FREE: 2 * CELL_MS},
        bin_slice_ms=(held, 0, 0, 0, 0, 0, 0, busy),
        instances=(
            InstanceTime(
                uuid="MIG-1",
                instance=1,
                slices=3,
                state_slice_ms={State.BUSY: busy},
                bin_slice_ms=(0, 0, 0, 0, 0, 0, 0, busy),
            ),
            InstanceTime(
                uuid="MIG-2",
                instance=2,
                slices=2,
                state_slice_ms={State.HELD: held},
                bin_slice_ms=(held, 0, 0, 0, 0, 0, 0, 0),
            ),
        ),
    )


def work(name: str, instance: str, memory_bytes: int | None = None, **states: int) -> WorkloadTime:
    return WorkloadTime(
        workload=name,
        user=None,
        uuid=GPU,
        instance_uuid=instance,
        state_slice_ms={State(state): amount for state, amount in states.items()},
        memory_bytes_max=memory_bytes,
    )


def ledger(*workloads: WorkloadTime) -> Ledger:
    accepted = replace(reading("n1", [divided()], T0_MS), workloads=workloads)
    roster = Roster(entries=(entry(GPU, "n1"),), windows=(), is_declared=True)
    return build([accepted], roster, T0_MS, T0_MS + CELL_MS)


def test_a_divided_gpu_is_one_row_of_seven_slices() -> None:
    (row,) = ledger().hours
    assert (row.hour_ms, row.gpu) == (floor_to(T0_MS, HOUR_MS), GPU)
    assert row.account.installed_slice_ms == 7 * CELL_MS
    assert row.account.slice_ms(State.BUSY) == 3 * CELL_MS
    assert row.account.slice_ms(State.FREE) == 2 * CELL_MS


def test_a_workload_on_two_instances_of_a_gpu_holds_it_once_with_the_time_of_both() -> None:
    both = (work("job", "MIG-1", 5, busy=3 * CELL_MS), work("job", "MIG-2", 9, held=CELL_MS))
    rows = ledger(*both, work("b", "MIG-2", held=CELL_MS)).holders
    assert [(row.workload, row.busy_slice_ms, row.held_slice_ms, row.memory_bytes_max) for row in rows] == [
        ("b", 0, CELL_MS, None),
        ("job", 3 * CELL_MS, CELL_MS, 9),
    ]


def test_who_has_neither_busy_nor_held_time_has_no_row() -> None:
    both = (work("job", "MIG-1", busy=3 * CELL_MS), work("held", "MIG-2", held=2 * CELL_MS))
    rows = ledger(*both, work("idle", "MIG-2", reserved=5)).holders
    assert {row.workload for row in rows} == {"job", "held"}


def test_time_on_instances_whose_workloads_did_not_come_is_nobodys_by_name() -> None:
    (row,) = ledger().holders
    assert (row.workload, row.busy_slice_ms, row.held_slice_ms) == ("unattributed", 3 * CELL_MS, 2 * CELL_MS)
