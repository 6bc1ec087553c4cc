# SPDX-License-Identifier: Apache-2.0
"""From processes to the workloads that hold a GPU; names leave the node only as digests with separate openings."""

from __future__ import annotations

from collections.abc import Iterable

from gpuledger.reading import TEXT_CHARACTERS_MAX
from gpuledger.sealing import NameSealer
from gpuledger_agent.nvml import GpuProcess
from gpuledger_agent.processes import ProcessFacts, ProcessTable
from gpuledger_agent.snapshot import Holder

IGNORABLE_VERSION = 1
IGNORABLE = frozenset({"nvidia-persistenced", "nvidia-persiste", "nvidia-cuda-mps-server", "nvidia-cuda-mps"})
"""Executables that hold a GPU without working on it; the kernel cuts names to 15 characters. Versioned: a change moves
time between held and free, so it is part of the configuration digest."""

_NAMES_KEPT_MAX = 4096
_PROCESS_NAME_CHARACTERS_MAX = 200


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

    def virtual_machine(self, name: str) -> Holder:
        """Return the workload that a virtual machine is."""
        return Holder(
            workload=self._seal(f"virtual machine {name}"), user=None, memory_bytes=None, source="virtual_machine"
        )

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
