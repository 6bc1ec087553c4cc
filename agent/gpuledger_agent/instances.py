# SPDX-License-Identifier: Apache-2.0
"""The instances of divided GPUs (MIG): which there are, and what each did. They are found anew at every tick.

A GPU that is not divided costs one look at its mode now and then. What is refused is not asked for at every tick: MIG
look-ups that fail are slow.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gpuledger_agent.activity import Activity, ActivitySource
from gpuledger_agent.health import HealthReport
from gpuledger_agent.holders import PROCESS_POLL_MS, HolderList, Holders
from gpuledger_agent.mig import FoundInstance, Mig
from gpuledger_agent.nvml import GpuProcess, Handle, Nvml
from gpuledger_agent.snapshot import GpuSnapshot, Holder, InstanceIdentity, InstanceSnapshot
from gpuledger_agent.sources import GpuReads

_log = logging.getLogger(__name__)

MODE_POLL_MS = 60_000
"""How often a GPU's mode is looked at while GPM tells of the whole of it, or while its instances are found."""
MODE_DOUBT_MS = 10_000
"""How often where GPM does not, or the instances cannot be found."""
FAILURES_MAX = 3
FAILED_POLL_MS = 10_000
"""After so many failures in a row the instances of a GPU are looked for only so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """What a divided GPU is divided into; None where that cannot be told."""

    instances: tuple[FoundInstance, ...] | None


@dataclass(slots=True)
class _Gpu:
    """What is kept of one GPU between ticks."""

    is_divided: bool = False
    mode_read_ms: int | None = None
    is_doubtful: bool = True
    known: tuple[InstanceIdentity, ...] = ()
    failures: int = 0
    failed_ms: int = 0
    refused_ms: int | None = None
    """When the board's own list of processes did not say who is on which instance."""
    rest: HolderList = field(default_factory=HolderList)
    lists: dict[InstanceIdentity, HolderList] = field(default_factory=dict)


class InstanceSource:
    """Finds and reads the instances of each GPU, once per tick."""

    def __init__(self, nvml: Nvml, activity: ActivitySource, holders: Holders) -> None:
        self._nvml = nvml
        self._mig = Mig(nvml)
        self._activity = activity
        self._holders = holders
        self._gpus: dict[str, _Gpu] = {}

    def keep(self, uuids: Collection[str]) -> None:
        """Drop what is kept of GPUs that are no longer there."""
        for uuid in [uuid for uuid in self._gpus if uuid not in uuids]:
            del self._gpus[uuid]

    def forget(self) -> None:
        """Trust nothing that was read before."""
        for uuid in self._gpus:
            self.interrupt(uuid)

    def interrupt(self, uuid: str) -> None:
        """Trust nothing that was read of one GPU before: it was lost."""
        known = self._gpus[uuid].known if uuid in self._gpus else ()
        self._gpus[uuid] = _Gpu(known=known)

    def doubt(self, uuid: str) -> None:
        """Look at a GPU's mode at the next tick: something does not fit what it was."""
        if uuid in self._gpus:
            self._gpus[uuid].mode_read_ms = None

    def hear(self, uuid: str, *, is_whole: bool) -> None:
        """Note whether GPM told of the whole GPU in this tick."""
        if uuid in self._gpus:
            self._gpus[uuid].is_doubtful = not is_whole

    def find(self, uuid: str, board: Handle, edge_ms: int, reads: GpuReads) -> Division | None:
        """Return what the GPU is divided into, None where it is not; raises as every read does."""
        gpu = self._gpus.get(uuid)
        if gpu is None:
            gpu = self._gpus[uuid] = _Gpu()
        poll_ms = MODE_DOUBT_MS if gpu.is_doubtful else MODE_POLL_MS
        if gpu.mode_read_ms is None or edge_ms - gpu.mode_read_ms >= poll_ms:
            self._look(uuid, gpu, board, edge_ms, reads)
        if gpu.is_divided:
            division = self._walk(uuid, gpu, board, edge_ms, reads)
            if division is not None:
                return division
        if gpu.known:
            self._note(uuid, gpu, ())
        return None

    def read_activity(self, uuid: str, board: Handle, division: Division, reads: GpuReads) -> list[Activity]:
        """Return the activity of each instance, relative to it."""
        found = division.instances or ()
        return [self._activity.read_instance(uuid, instance.identity, board, reads) for instance in found]

    def read_rest(
        self,
        uuid: str,
        board: Handle,
        instances: Sequence[FoundInstance],
        activities: Sequence[Activity],
        seen: BoardSeen,
        reads: GpuReads,
    ) -> tuple[tuple[InstanceSnapshot, ...], tuple[Holder, ...] | None]:
        """Return each instance as it was seen, and who holds what no instance has (None: unknown)."""
        gpu = self._gpus[uuid]
        used_bytes = []
        for instance in instances:
            memory = reads.ask("memory", self._nvml.memory_bytes, instance.handles[0])
            used_bytes.append(None if memory is None else memory[0])
        self._read_processes(gpu, board, list(zip(instances, used_bytes, strict=True)), seen, reads)
        snapshots = tuple(
            InstanceSnapshot(
                identity=instance.identity,
                seen=GpuSnapshot(
                    activity_ppm=activity.activity_ppm,
                    activity_source=activity.source,
                    sm_active_ppm=activity.sm_active_ppm,
                    sm_occupancy_ppm=activity.sm_occupancy_ppm,
                    tensor_active_ppm=activity.tensor_active_ppm,
                    dram_active_ppm=activity.dram_active_ppm,
                    holders=gpu.lists[instance.identity].holders(seen.edge_ms),
                    health=seen.health.of_instance(instance.identity.instance),
                    memory_used_bytes=used,
                    memory_total_bytes=instance.identity.memory_total_bytes,
                ),
            )
            for instance, activity, used in zip(instances, activities, used_bytes, strict=True)
        )
        return snapshots, gpu.rest.holders(seen.edge_ms)

    # ------------------------------------------------------------------------------------------ finding

    def _look(self, uuid: str, gpu: _Gpu, board: Handle, edge_ms: int, reads: GpuReads) -> None:
        """Look at the GPU's mode; a look that fails leaves it as it was."""
        failed = reads.failed
        is_enabled = reads.ask("mig", self._mig.is_enabled, board)
        gpu.mode_read_ms = edge_ms
        if reads.failed > failed or gpu.is_divided is (is_enabled is True):
            return
        gpu.is_divided, gpu.rest = is_enabled is True, HolderList()
        # What the whole GPU did not offer while it was divided may be there again, and the other way round.
        self._activity.interrupt(uuid)
        _log.info("mig_mode", extra={"uuid": uuid, "divided": gpu.is_divided})

    def _walk(self, uuid: str, gpu: _Gpu, board: Handle, edge_ms: int, reads: GpuReads) -> Division | None:
        if gpu.failures >= FAILURES_MAX and edge_ms - gpu.failed_ms < FAILED_POLL_MS:
            return Division(instances=None)
        found = reads.ask("mig", self._mig.find, board, gpu.known)
        if found is None:
            gpu.failures, gpu.failed_ms, gpu.is_doubtful = gpu.failures + 1, edge_ms, True
            return Division(instances=None)
        gpu.failures, gpu.is_doubtful = 0, False
        if not found and gpu.mode_read_ms != edge_ms:
            # There is nothing: it may not be divided any more.
            self._look(uuid, gpu, board, edge_ms, reads)
            if not gpu.is_divided:
                return None
        self._note(uuid, gpu, tuple(instance.identity for instance in found))
        return Division(instances=found)

    def _note(self, uuid: str, gpu: _Gpu, identities: tuple[InstanceIdentity, ...]) -> None:
        """Remember which instances there are now, and say which came and went."""
        if identities == gpu.known:
            return
        for identity in gpu.known:
            if identity not in identities:
                _log.info("instance_departed", extra={"uuid": uuid, "instance": identity.uuid})
        for identity in identities:
            if identity not in gpu.known:
                facts = {"uuid": uuid, "instance": identity.uuid, "profile": identity.profile}
                _log.info("instance_found", extra=facts)
        gpu.known = identities
        gpu.lists = {identity: gpu.lists[identity] for identity in identities if identity in gpu.lists}
        self._activity.keep_instances(uuid, identities)

    # ------------------------------------------------------------------------------------------ processes

    def _read_processes(
        self,
        gpu: _Gpu,
        board: Handle,
        instances: Sequence[tuple[FoundInstance, int | None]],
        seen: BoardSeen,
        reads: GpuReads,
    ) -> None:
        """Bring up to date who holds what: from one list of the board, else from each instance's own."""
        edge_ms = seen.edge_ms
        due = []
        for instance, used_bytes in instances:
            if gpu.lists.setdefault(instance.identity, HolderList()).is_due(used_bytes, edge_ms):
                due.append((instance, used_bytes))
        # Where the board does not tell its memory, its instances do.
        board_bytes = 0 if seen.memory_used_bytes is None else seen.memory_used_bytes
        if not due and not gpu.rest.is_due(board_bytes, edge_ms):
            return
        listed = self._read_board_list(gpu, board, edge_ms, reads)
        if listed is None:
            gpu.rest.take(None, board_bytes, edge_ms)
            for instance, used_bytes in due:
                gpu.lists[instance.identity].take(self._read_own_list(instance, reads), used_bytes, edge_ms)
            return
        for instance, used_bytes in instances:
            own = [process for process in listed if process.instance == instance.identity.instance]
            gpu.lists[instance.identity].take(self._holders.resolve(own), used_bytes, edge_ms)
        ids = {instance.identity.instance for instance, _ in instances}
        strays = [process for process in listed if process.instance not in ids]
        gpu.rest.take(self._holders.resolve(strays), board_bytes, edge_ms)

    def _read_board_list(self, gpu: _Gpu, board: Handle, edge_ms: int, reads: GpuReads) -> list[GpuProcess] | None:
        """Return all processes with the instance each is on; None where the driver does not tell us."""
        if gpu.refused_ms is not None and edge_ms - gpu.refused_ms < PROCESS_POLL_MS:
            return None
        listed = reads.ask("processes", self._nvml.processes, board)
        is_told = listed is not None and all(process.instance is not None for process in listed)
        gpu.refused_ms = None if is_told else edge_ms
        return listed if is_told else None

    def _read_own_list(self, instance: FoundInstance, reads: GpuReads) -> tuple[Holder, ...] | None:
        """Return who holds the compute instances of one GPU instance, None where one of them does not tell."""
        processes: list[GpuProcess] = []
        for handle in instance.handles:
            listed = reads.ask("processes", self._nvml.processes, handle)
            if listed is None:
                return None
            processes += listed
        return self._holders.resolve(processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSeen:
    """What a tick saw of the board that its instances share."""

    edge_ms: int
    health: HealthReport
    memory_used_bytes: int | None
