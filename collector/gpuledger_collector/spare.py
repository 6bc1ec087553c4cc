# SPDX-License-Identifier: Apache-2.0
"""Free time that could not be sold: on nodes that take no new work, and stranded (accounting.md, 2). Pure.

Tags beside the state, never a state: `free` stays free. Each is what is certain, so sellable time is never too little.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuledger.cells import CELL_SLICE_MS, SLICES_PER_GPU
from gpuledger.gpu_time import GpuTime, InstanceTime
from gpuledger.states import State

MEMORY_SLICES = 8
"""Of an H100; an instance takes whole ones, and without one there is no instance."""
_MEMORY_OF_PROFILE = {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}
"""The least memory slices that a profile of so many compute slices takes."""
USED = (State.BUSY, State.HELD, State.RESERVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeTags:
    """Parts of free time, in slice-ms, which do not overlap: nobody could have had it, and why."""

    not_schedulable_slice_ms: int = 0
    stranded_node_slice_ms: int = 0
    """GPUs beside others of their node that were in use."""
    stranded_mig_slice_ms: int = 0
    """Slices of divided GPUs for which no memory is left."""

    @property
    def stranded_slice_ms(self) -> int:
        return self.stranded_node_slice_ms + self.stranded_mig_slice_ms

    def sellable_of(self, free_slice_ms: int) -> int:
        """Return what of the free time could have been sold whole: neither tag."""
        return free_slice_ms - self.not_schedulable_slice_ms - self.stranded_slice_ms


NO_TAGS = FreeTags()


def add_tags(tags: Iterable[FreeTags]) -> FreeTags:
    """Return the sums."""
    not_schedulable = node = mig = 0
    for one in tags:
        not_schedulable += one.not_schedulable_slice_ms
        node += one.stranded_node_slice_ms
        mig += one.stranded_mig_slice_ms
    return FreeTags(not_schedulable_slice_ms=not_schedulable, stranded_node_slice_ms=node, stranded_mig_slice_ms=mig)


def stranded_in(gpu: GpuTime, length_ms: int) -> int:
    """Return the free slice-ms of a divided GPU that no profile could use: its instances have all memory slices.

    Nought where any instance was not there all the time: what was left then changed.
    """
    slices = sum(instance.slices for instance in gpu.instances)
    if not gpu.instances or slices >= SLICES_PER_GPU:
        return 0
    if any(_time_of(instance) != instance.slices * length_ms for instance in gpu.instances):
        return 0
    if sum(_memory_slices(instance, gpu) for instance in gpu.instances) < MEMORY_SLICES:
        return 0
    of_instances = sum(instance.state_slice_ms.get(State.FREE, 0) for instance in gpu.instances)
    unassigned = gpu.state_slice_ms.get(State.FREE, 0) - of_instances
    return max(min(unassigned, (SLICES_PER_GPU - slices) * length_ms), 0)


def _time_of(instance: InstanceTime) -> int:
    return sum(instance.state_slice_ms.values()) + sum(instance.uncovered_slice_ms.values())


def _memory_slices(instance: InstanceTime, gpu: GpuTime) -> int:
    """Return how many memory slices an instance has, at least."""
    least = _MEMORY_OF_PROFILE.get(instance.slices, 0)
    if instance.memory_total_bytes is None or not gpu.memory_total_bytes:
        return least
    # An instance's memory is a little less than its share, the board's total a little less than all.
    return max(least, round(MEMORY_SLICES * instance.memory_total_bytes / gpu.memory_total_bytes))


class NodeUse:
    """How far the GPUs of one node were in use in one cell; they are added one by one, by slice-ms."""

    __slots__ = ("_first", "_second", "_user")

    def __init__(self) -> None:
        self._first = self._second = 0
        self._user: str | None = None

    def add(self, gpu: str, used_slice_ms: int) -> None:
        if used_slice_ms > self._first:
            self._first, self._second, self._user = used_slice_ms, self._first, gpu
        else:
            self._second = max(self._second, used_slice_ms)

    def stranded(self, gpu: str, free_slice_ms: int) -> int:
        """Return for how much of its free time a GPU stood beside another that was in use, at least."""
        used = self._second if gpu == self._user else self._first
        return max(used + free_slice_ms - CELL_SLICE_MS, 0)
