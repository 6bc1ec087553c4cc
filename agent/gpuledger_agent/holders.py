# SPDX-License-Identifier: Apache-2.0
"""From processes to the workloads that hold a GPU; names leave the node only as digests with separate openings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuledger.reading import TEXT_CHARACTERS_MAX
from gpuledger.sealing import NameSealer
from gpuledger_agent.nvml import GpuProcess
from gpuledger_agent.processes import ProcessFacts, ProcessTable
from gpuledger_agent.snapshot import Holder

IGNORABLE_VERSION = 1
IGNORABLE = frozenset({"nvidia-persistenced", "nvidia-persiste", "nvidia-cuda-mps-server", "nvidia-cuda-mps"})
"""Executables that hold a GPU without working on it; the kernel cuts names to 15 characters. Versioned: a change moves
time between held and free, so it is part of the configuration digest."""

PROCESS_POLL_MS = 30_000
PROCESS_AGE_MAX_MS = 2 * PROCESS_POLL_MS
_NAMES_KEPT_MAX = 4096
_PROCESS_NAME_CHARACTERS_MAX = 200


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
    ) -> None:
        self._table = table
        self._sealer = sealer
        self._own_pid = own_pid
        self._operator_users = frozenset(operator_users)
        self._operator_executables = frozenset(operator_executables)
        self._names: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def resolve(self, processes: Iterable[GpuProcess]) -> tuple[Holder, ...]:
        """Return the workloads behind the processes in order of digest; ignorable processes are none."""
        found: dict[str, Holder] = {}
        for process in processes:
            if process.pid == self._own_pid:
                continue
            facts = self._table.describe(process.pid)
            if facts is not None and facts.name in IGNORABLE:
                continue
            holder = self._holder(process, facts)
            found[holder.workload] = holder
        return tuple(found[workload] for workload in sorted(found))

    def openings(self, digests: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return digest -> (salt in hexadecimal, name) for those digests whose name is known."""
        found = {}
        for digest in digests:
            name = self._names.get(digest)
            if name is not None:
                found[digest] = (self._sealer.salt_of(name).hex(), name)
        return found

    def _holder(self, process: GpuProcess, facts: ProcessFacts | None) -> Holder:
        if facts is None:
            workload, user = f"process {process.pid} (not visible)", None
        else:
            # A long name must not push out what tells its processes apart.
            name = facts.name[:_PROCESS_NAME_CHARACTERS_MAX]
            workload = f"{name} (pid {process.pid}, started {int(facts.started_s)})"
            user = facts.user
        is_operator = facts is not None and (
            facts.user in self._operator_users or facts.name in self._operator_executables
        )
        return Holder(
            workload=self._seal(workload),
            user=None if user is None else self._seal(user),
            memory_bytes=process.memory_bytes,
            is_operator=is_operator,
        )

    def _seal(self, name: str) -> str:
        name = "".join(character if character.isprintable() else "?" for character in name[:TEXT_CHARACTERS_MAX])
        digest = self._digests.get(name)
        if digest is None:
            if len(self._names) >= _NAMES_KEPT_MAX:
                self._digests.pop(self._names.pop(next(iter(self._names))))
            digest = self._digests[name] = self._sealer.digest_of(name)
            self._names[digest] = name
        return digest
