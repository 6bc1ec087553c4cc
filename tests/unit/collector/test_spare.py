# SPDX-License-Identifier: Apache-2.0
"""What of free time could have been sold: slices without memory, GPUs beside others in use; only what is certain."""

from __future__ import annotations

import pytest

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, SLICES_PER_GPU
from gpuledger.gpu_time import GpuTime, InstanceTime
from gpuledger.states import State
from gpuledger_collector.spare import FreeTags, NodeUse, stranded_in

GIB = 1 << 30
BOARD_BYTES = 80 * GIB


def instance(slices: int, *, memory_bytes: int | None = None, ms: int = CELL_MS, number: int = 0) -> InstanceTime:
    return InstanceTime(
        uuid=f"MIG-{number}",
        instance=number,
        slices=slices,
        state_slice_ms={State.BUSY: slices * ms},
        memory_total_bytes=memory_bytes,
    )


def divided(*instances: InstanceTime, free_slice_ms: int | None = None) -> GpuTime:
    left = SLICES_PER_GPU - sum(one.slices for one in instances)
    busy = sum(one.state_slice_ms[State.BUSY] for one in instances)
    free = left * CELL_MS if free_slice_ms is None else free_slice_ms
    return GpuTime(
        uuid="GPU-1",
        state_slice_ms={State.BUSY: busy, State.FREE: free},
        memory_total_bytes=BOARD_BYTES,
        instances=instances,
    )


@pytest.mark.parametrize(
    ("profiles", "stranded"),
    [
        ([3, 3], 1),  # All memory is taken, one slice is left.
        ([4, 3], 0),  # Nothing is left.
        ([3, 2, 1], 0),  # One slice and one of memory: whether a profile fits depends on where the others are.
        ([2, 2, 2], 0),
        ([1] * 6, 0),
        ([7], 0),
        ([], 0),
    ],
)
def test_slices_are_stranded_where_instances_took_all_memory(profiles: list[int], stranded: int) -> None:
    gpu = divided(*(instance(slices, number=number) for number, slices in enumerate(profiles)))
    assert stranded_in(gpu, CELL_MS) == stranded * CELL_MS


def test_small_instances_with_much_memory_strand_the_rest() -> None:
    wide = [instance(1, memory_bytes=20 * GIB - GIB // 4, number=number) for number in range(4)]
    assert stranded_in(divided(*wide), CELL_MS) == 3 * CELL_MS


def test_instances_that_were_not_there_all_the_time_strand_nothing() -> None:
    assert stranded_in(divided(instance(3), instance(3, ms=CELL_MS - 1, number=1)), CELL_MS) == 0


def test_no_more_is_stranded_than_was_free() -> None:
    gpu = divided(instance(3), instance(3, number=1), free_slice_ms=1000)
    assert stranded_in(gpu, CELL_MS) == 1000


def test_a_gpu_beside_one_in_use_is_stranded_for_as_long_as_both_must_have_been_at_once() -> None:
    use = NodeUse()
    use.add("GPU-1", CELL_SLICE_MS)
    assert use.stranded("GPU-2", CELL_SLICE_MS) == CELL_SLICE_MS
    assert use.stranded("GPU-2", 1000) == 1000
    assert use.stranded("GPU-1", CELL_SLICE_MS) == 0
    half = NodeUse()
    half.add("GPU-1", CELL_SLICE_MS // 2)
    half.add("GPU-2", CELL_SLICE_MS // 4)
    assert half.stranded("GPU-3", CELL_SLICE_MS // 2) == 0
    assert half.stranded("GPU-3", CELL_SLICE_MS // 2 + 7) == 7
    assert half.stranded("GPU-1", CELL_SLICE_MS) == CELL_SLICE_MS // 4


def test_what_could_be_sold_is_what_no_tag_is_on() -> None:
    tags = FreeTags(not_schedulable_slice_ms=5, stranded_node_slice_ms=3, stranded_mig_slice_ms=2)
    assert tags.stranded_slice_ms == 5
    assert tags.sellable_of(100) == 90
