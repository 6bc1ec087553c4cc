# SPDX-License-Identifier: Apache-2.0
"""Which GPUs are given to somebody, from all sources of allocations together; names leave the node only as digests.

No source is configured unless the site says so, and without one nothing is known. A GPU that no source names is not
allocated only where every source could say all it should; otherwise whether it is allocated is not known.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from gpuledger_agent.allocation_files import AllocationSource, Answer, JobFiles
from gpuledger_agent.allocations import Allocation, Place, assign
from gpuledger_agent.devices import Device
from gpuledger_agent.holders import Holders
from gpuledger_agent.pod_names import PodNames
from gpuledger_agent.pod_poll import PodResources
from gpuledger_agent.snapshot import GpuSnapshot
from gpuledger_agent.sources import TickReads

_log = logging.getLogger(__name__)


class Reservations:
    """Says for each GPU of a tick whether, and to whom, it is allocated."""

    def __init__(
        self, holders: Holders, sources: Sequence[AllocationSource] = (), pod_names: PodNames | None = None
    ) -> None:
        self._holders = holders
        self._sources = tuple(sources)
        self._pod_names = pod_names
        self._answers: tuple[Answer, ...] = ()
        self._places: tuple[Place, ...] = ()
        self._by_uuid: dict[str, tuple[Allocation, ...]] = {}
        self._is_whole = False
        self._is_ambiguous = False

    def poll(self, now_ms: int, devices: Sequence[Device], reads: TickReads) -> None:
        """Read what is due, at a tick's edge."""
        self._count_pod_names(reads)
        if not self._sources:
            return
        is_pod_new = self._holders.take_new_pod()
        for source in self._sources:
            if is_pod_new and isinstance(source, PodResources):
                source.want()
        answers = tuple(source.poll(now_ms, reads) for source in self._sources)
        for source in self._sources:
            if isinstance(source, JobFiles):
                self._holders.job_by_sluid = source.job_by_sluid
        places = tuple(Place(d.identity.uuid, d.identity.index, d.identity.minor_number) for d in devices)
        if answers != self._answers or places != self._places:
            self._answers, self._places = answers, places
            self._assign(reads)

    def _assign(self, reads: TickReads) -> None:
        allocations = [allocation for answer in self._answers for allocation in answer.allocations]
        assignment = assign(self._places, allocations)
        self._by_uuid = dict(assignment.by_uuid)
        self._is_whole = all(answer.is_whole for answer in self._answers) and not assignment.is_ambiguous
        if assignment.is_ambiguous:
            reads.report(JobFiles.NAME).count("order_ambiguous")
            if not self._is_ambiguous:
                _log.warning(
                    "gpu_order_ambiguous",
                    extra={
                        "why": "Slurm's number of a GPU is one GPU by NVML's index and another by its device file; "
                        "say which it is in allocations.slurm_gpu_order"
                    },
                )
        self._is_ambiguous = assignment.is_ambiguous

    def _count_pod_names(self, reads: TickReads) -> None:
        if self._pod_names is None:
            return
        failures = dict(self._pod_names.failures)
        self._pod_names.failures.clear()
        for error, count in failures.items():
            for _ in range(count):
                reads.report("pod_names").count(error)

    def mark(self, uuid: str, seen: GpuSnapshot) -> GpuSnapshot:
        """Return what was seen of a GPU (or GPU instance, by its own UUID) with who was given it."""
        if not self._sources:
            return seen
        allocations = self._by_uuid.get(uuid, ())
        if not allocations:
            return replace(seen, is_allocated=False) if self._is_whole else seen
        holders = {holder.workload: holder for holder in map(self._holders.of_allocation, allocations)}
        allocated_to = tuple(holders[workload] for workload in sorted(holders))
        return replace(seen, is_allocated=True, allocated_to=allocated_to)

    def close(self) -> None:
        """Let go of whatever is under way."""
        for source in self._sources:
            source.close()
