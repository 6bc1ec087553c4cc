# SPDX-License-Identifier: Apache-2.0
"""What leases and schedulers make of the cells of a span: what they move, whose they are, what could be sold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuledger.accounting import Account
from gpuledger.cells import HOUR_MS, floor_to
from gpuledger.gpu_time import GpuTime
from gpuledger.states import State
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.allotment import Allotments
from gpuledger_collector.commerce import Commerce
from gpuledger_collector.leases import LeaseBook
from gpuledger_collector.roster import Entry
from gpuledger_collector.scheduling import Scheduling
from gpuledger_collector.spare import NO_TAGS, USED, FreeTags, NodeUse, add_tags, stranded_in


class Given:
    """Takes in every installed cell of a span once; tags are complete when all were added."""

    def __init__(self, leases: LeaseBook | None, scheduling: Scheduling) -> None:
        self.commerce = Commerce(leases)
        self.allotments = Allotments(scheduling)
        self._use: dict[tuple[str, int], NodeUse] = {}
        self._tags: dict[tuple[int, Entry], list[tuple[int, int, FreeTags]]] = {}
        """By hour and entry: cell, free time that a neighbour in use may strand, and tags without that."""

    def is_given(self, cell_ms: int, entry: Entry, index: int | None) -> bool:
        """Return whether somebody had the GPU for the whole cell: by a lease that names it, or from a scheduler."""
        return self.commerce.is_leased(entry, cell_ms) or self.allotments.holds(entry, index, cell_ms)

    def add(
        self,
        cell_ms: int,
        entry: Entry,
        account: Account,
        index: int | None,
        parts: Sequence[tuple[int, GpuTime]],
        workloads: Sequence[WorkloadTime],
    ) -> None:
        """Take in one GPU's cell; `parts` are what readings said of it, each with its reading's length in ms."""
        states = account.state_slice_ms
        self.commerce.add(cell_ms, entry, states)
        closed = self.allotments.add(cell_ms, entry, states, index, workloads)
        used = account.slice_ms(*USED)
        if used > 0:
            self._use.setdefault((entry.node, cell_ms), NodeUse()).add(entry.gpu, used)
        free = states.get(State.FREE, 0)
        if free == 0:
            return
        mig = min(sum(stranded_in(gpu, length_ms) for length_ms, gpu in parts), free - closed)
        beside = 0 if any(gpu.instances for _, gpu in parts) else free - closed
        tags = FreeTags(not_schedulable_slice_ms=closed, stranded_mig_slice_ms=mig) if closed or mig else NO_TAGS
        self._tags.setdefault((floor_to(cell_ms, HOUR_MS), entry), []).append((cell_ms, beside, tags))

    def tags(self, hour_ms: int, entry: Entry) -> FreeTags:
        """Return the tags of a GPU's free time in one hour, as far as the entry has it."""
        found = []
        for cell_ms, beside, tags in self._tags.get((hour_ms, entry), ()):
            use = self._use.get((entry.node, cell_ms))
            stranded = 0 if use is None else use.stranded(entry.gpu, beside)
            found.append(replace(tags, stranded_node_slice_ms=stranded) if stranded > 0 else tags)
        return add_tags(found) if found else NO_TAGS
