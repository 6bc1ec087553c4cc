# SPDX-License-Identifier: Apache-2.0
"""From processes to the workloads that hold a GPU; names leave the node only as digests with separate openings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gpuledger import workload_names
from gpuledger.reading import TEXT_CHARACTERS_MAX
from gpuledger.sealing import NameSealer
from gpuledger_agent.allocations import Allocation
from gpuledger_agent.nvml import GpuProcess
from gpuledger_agent.pod_names import PodNames
from gpuledger_agent.process_hints import ProcessHints
from gpuledger_agent.processes import ProcessFacts, ProcessTable
from gpuledger_agent.snapshot import Holder
from gpuledger_agent.workloads import Source, Workload, identify, identify_step, is_within, paths_of

IGNORABLE_VERSION = 2
MPS_SERVERS = frozenset({"nvidia-cuda-mps-server", "nvidia-cuda-mps"})
"""The server's own context does no work: its clients hold the GPU. Where the driver lists no clients of it at all, the
server stands for them."""
IGNORABLE = frozenset({"nvidia-persistenced", "nvidia-persiste"}) | MPS_SERVERS
"""Executables that hold a GPU without working on it; the kernel cuts names to 15 characters. Versioned: a change moves
time between held and free, so it is part of the configuration digest."""

VIRTUAL_MACHINE = "virtual machine "
"""How the name of a workload begins that is one."""
PROCESS_POLL_MS = 30_000
PROCESS_AGE_MAX_MS = 2 * PROCESS_POLL_MS
_NAMES_KEPT_MAX = 4096
_PROCESSES_KEPT_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a process was found to be. `is_settled`: nothing that may come later can tell more."""

    facts: ProcessFacts
    name: str
    source: Source
    user: str | None
    is_operator: bool
    is_settled: bool


@dataclass(slots=True)
class HolderList:
    """The holders of something, as last read, and how much of its memory was in use then.

    A context takes hundreds of MiB, so processes do not come or go without the used memory changing; the list is the
    slowest of the common calls. So it is read only when memory changed, when it is old, or after a failure.
    """

    _holders: tuple[Holder, ...] | None = None
    _read_ms: int | None = None
    _memory_bytes: int | None = None

    def is_due(self, memory_used_bytes: int | None, edge_ms: int) -> bool:
        """Return whether the processes have to be read."""
        return self._is_changed(memory_used_bytes) or self._read_ms is None or self.is_old(edge_ms)

    def is_old(self, edge_ms: int) -> bool:
        """Return whether the last read was so long ago that it is time for another."""
        return self._read_ms is not None and edge_ms - self._read_ms >= PROCESS_POLL_MS

    def take(self, holders: tuple[Holder, ...] | None, memory_used_bytes: int | None, edge_ms: int) -> None:
        """Take in what a read gave; None where it failed."""
        if holders is not None:
            self._holders, self._read_ms, self._memory_bytes = holders, edge_ms, memory_used_bytes
        elif self._is_changed(memory_used_bytes):
            # The old list is known to be out of date.
            self._holders = self._read_ms = None

    def holders(self, edge_ms: int) -> tuple[Holder, ...] | None:
        """Return the holders, None where they are unknown."""
        if self._read_ms is None or edge_ms - self._read_ms > PROCESS_AGE_MAX_MS:
            return None
        return self._holders

    def _is_changed(self, memory_used_bytes: int | None) -> bool:
        return memory_used_bytes is None or memory_used_bytes != self._memory_bytes


class Holders:
    """Names the holders of GPUs; remembers which name a digest opens to."""

    def __init__(
        self,
        table: ProcessTable,
        sealer: NameSealer,
        own_pid: int,
        operator_users: Iterable[str] = (),
        operator_executables: Iterable[str] = (),
        *,
        operator_cgroups: Iterable[str] = (),
        slurm_cluster: str | None = None,
        pod_names: PodNames | None = None,
        hints: ProcessHints | None = None,
    ) -> None:
        self._table = table
        self._sealer = sealer
        self._own_pid = own_pid
        self._operator_users = frozenset(operator_users)
        self._operator_executables = frozenset(operator_executables)
        self._operator_cgroups = tuple(operator_cgroups)
        self._slurm_cluster = slurm_cluster
        self._pod_names = pod_names
        self._hints = hints
        self._known: dict[int, _Known] = {}
        self._names: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._is_pod_new = False
        self.job_by_sluid: Mapping[str, str] = {}
        """Slurm's job id by its other id (SLUID), for cgroups that are named by that."""

    def resolve(self, processes: Iterable[GpuProcess]) -> tuple[Holder, ...]:
        """Return the workloads behind the processes in order of digest; ignorable processes are none.

        A workload is one holder however many of its processes are there; only a systemd unit is one for each user,
        since what users start from it (cron, ssh) is theirs.
        """
        found: dict[tuple[str, str | None], Holder] = {}
        members: dict[tuple[str, str | None], dict[int, float]] = {}
        for process in sorted(processes, key=lambda process: process.pid):
            if process.pid == self._own_pid:
                continue
            known = self._describe(process.pid)
            if known is not None and self._is_ignorable(known.facts.name, process):
                continue
            holder = self._holder(process, known)
            key = (holder.workload, holder.user if holder.source == Source.UNIT.value else None)
            before = found.get(key)
            found[key] = holder if before is None else _merge(before, holder)
            if known is not None:
                members.setdefault(key, {})[process.pid] = known.facts.started_s
        holders = (self._hint(holder, members.get(key)) for key, holder in found.items())
        return tuple(sorted(holders, key=lambda holder: (holder.workload, holder.user or "")))

    def _hint(self, holder: Holder, members: Mapping[int, float] | None) -> Holder:
        """Return the holder with what its processes told of its kind, as far as somebody has looked."""
        if self._hints is None or members is None:
            return holder
        key = f"{holder.workload} {holder.user}"
        hints = self._hints.of(key, members, is_alone=holder.source == Source.PROCESS.value)
        return replace(holder, hints=hints)

    def of_allocation(self, allocation: Allocation) -> Holder:
        """Return the workload that was given a GPU, under the digest that it has as the holder of one."""
        return Holder(
            workload=self._seal(allocation.name),
            user=None if allocation.user is None else self._seal(allocation.user),
            memory_bytes=None,
            source=allocation.source.value,
        )

    def take_new_pod(self) -> bool:
        """Return whether a container of a pod was seen for the first time since this was last asked."""
        is_new, self._is_pod_new = self._is_pod_new, False
        return is_new

    def virtual_machine(self, name: str) -> Holder:
        """Return the workload that a virtual machine is."""
        return Holder(
            workload=self._seal(f"{VIRTUAL_MACHINE}{name}"), user=None, memory_bytes=None, source="virtual_machine"
        )

    def openings(self, digests: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return digest -> (salt in hexadecimal, name) for those digests whose name is known."""
        found = {}
        for digest in digests:
            name = self._names.get(digest)
            if name is not None:
                found[digest] = (self._sealer.salt_of(name).hex(), name)
        return found

    # ------------------------------------------------------------------------------------------ one process

    @staticmethod
    def _is_ignorable(name: str, process: GpuProcess) -> bool:
        if name in MPS_SERVERS:
            return process.is_mps_client is not None
        return name in IGNORABLE

    def _holder(self, process: GpuProcess, known: _Known | None) -> Holder:
        if known is None:
            name, source, user = workload_names.process_not_visible(process.pid), Source.PROCESS, None
        else:
            name, source, user = known.name, known.source, known.user
        return Holder(
            workload=self._seal(name),
            user=None if user is None else self._seal(user),
            memory_bytes=process.memory_bytes,
            is_operator=known is not None and known.is_operator,
            source=source.value,
        )

    def _describe(self, pid: int) -> _Known | None:
        facts = self._table.describe(pid)
        if facts is None:
            self._known.pop(pid, None)
            return None
        known = self._known.get(pid)
        if known is None or known.facts != facts or not known.is_settled:
            if pid not in self._known and len(self._known) >= _PROCESSES_KEPT_MAX:
                self._known.pop(next(iter(self._known)))
            is_new = known is None or known.facts != facts
            known = self._known[pid] = self._identify(pid, facts)
            self._is_pod_new |= is_new and known.source is Source.POD
        return known

    def _identify(self, pid: int, facts: ProcessFacts) -> _Known:
        workload = self._workload(pid, facts)
        user = facts.user
        if workload is None:
            name, source = workload_names.process(facts.name, pid, facts.started_s), Source.PROCESS
        else:
            name, source = workload.name(self._slurm_cluster), workload.source
            if workload.owner_uid is not None:
                user = self._table.user_name(workload.owner_uid)
        is_pod_unnamed = workload is not None and workload.source is Source.POD and workload.pod_name is None
        is_job_unnumbered = source is Source.SLURM_JOB and workload is not None and not workload.is_job_numbered
        return _Known(
            facts=facts,
            name=name,
            source=source,
            user=user,
            is_operator=self._is_operator(facts, user),
            is_settled=not is_pod_unnamed and not is_job_unnumbered,
        )

    def _is_operator(self, facts: ProcessFacts, user: str | None) -> bool:
        return (
            facts.user in self._operator_users
            or user in self._operator_users
            or facts.name in self._operator_executables
            or (bool(self._operator_cgroups) and is_within(paths_of(facts.cgroup), self._operator_cgroups))
        )

    def _workload(self, pid: int, facts: ProcessFacts) -> Workload | None:
        """Return what the cgroup tells, with what it leaves out: the job without a cgroup, and names of pods."""
        workload = identify(facts.cgroup)
        if workload is None or workload.source is Source.UNIT or workload.source is Source.SLURM_JOB:
            return self._slurm_job(pid, workload)
        if workload.source is Source.POD and workload.container_id is not None and self._pod_names is not None:
            return replace(workload, pod_name=self._pod_names.of(workload.container_id))
        return workload

    def _slurm_job(self, pid: int, workload: Workload | None) -> Workload | None:
        """Return the job by its number where only its SLUID is told, or nothing is (proctrack without cgroups)."""
        if workload is not None and workload.is_job_numbered:
            return workload
        title = self._table.step_title(pid)
        job = None if title is None else identify_step(title)
        if job is not None:
            return job if workload is None else replace(job, owner_uid=workload.owner_uid)
        if workload is not None and workload.job is not None:
            return replace(workload, job=self.job_by_sluid.get(workload.job, workload.job))
        return workload

    def _seal(self, name: str) -> str:
        name = "".join(character if character.isprintable() else "?" for character in name[:TEXT_CHARACTERS_MAX])
        digest = self._digests.get(name)
        if digest is None:
            if len(self._names) >= _NAMES_KEPT_MAX:
                self._digests.pop(self._names.pop(next(iter(self._names))))
            digest = self._digests[name] = self._sealer.digest_of(name)
            self._names[digest] = name
        return digest


def _merge(first: Holder, second: Holder) -> Holder:
    """Return one holder for two processes of a workload on a GPU; its user is that of the lower pid, where known."""
    is_known = first.memory_bytes is not None and second.memory_bytes is not None
    return replace(
        first,
        user=second.user if first.user is None else first.user,
        memory_bytes=(first.memory_bytes or 0) + (second.memory_bytes or 0) if is_known else None,
        # Time is out of the figures only where all of it is the operator's.
        is_operator=first.is_operator and second.is_operator,
    )
