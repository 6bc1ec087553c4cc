# SPDX-License-Identifier: Apache-2.0
"""A table of processes that a test fills."""

from __future__ import annotations

import shlex

from gpuledger_agent.processes import Listening, ProcessFacts


class FakeProcessTable:
    """Knows the processes it was given; every other pid is not visible."""

    def __init__(self, **names: str) -> None:
        """`p4100="python3"` is a process 4100 of user mei."""
        self.facts: dict[int, ProcessFacts] = {}
        self.step_titles: dict[int, str] = {}
        """Pid -> the title of the slurmstepd that it descends from."""
        self.users: dict[int, str] = {}
        for pid, name in names.items():
            self.add(int(pid[1:]), name)

    def add(
        self, pid: int, name: str, user: str | None = "mei", started_s: float = 7.5, cgroup: str = "0::/\n"
    ) -> None:
        self.facts[pid] = ProcessFacts(name=name, user=user, started_s=started_s, cgroup=cgroup)

    def describe(self, pid: int) -> ProcessFacts | None:
        return self.facts.get(pid)

    def step_title(self, pid: int) -> str | None:
        return self.step_titles.get(pid)

    def user_name(self, uid: int) -> str:
        return self.users.get(uid, str(uid))


class FakeProcessTree:
    """Processes beside each other; `add` says what each is."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}
        self.cgroups: dict[int, str] = {}
        self.lines: dict[int, tuple[str, ...]] = {}
        self.executables: dict[int, str] = {}
        self.starts: dict[int, float] = {}
        self.ports: dict[int, int] = {}
        """Pid -> the port that it listens on."""
        self.hidden: set[int] = set()
        """Processes of which only root may know more than that they are there."""
        self.looks = 0

    def add(self, pid: int, parent: int, line: str, cgroup: str = "0::/\n", started_s: float = 7.5) -> None:
        self.parent[pid] = parent
        self.cgroups[pid] = cgroup
        self.lines[pid] = tuple(shlex.split(line))
        self.starts[pid] = started_s

    def drop(self, pid: int) -> None:
        del self.parent[pid], self.cgroups[pid], self.lines[pid], self.starts[pid]

    def parents(self) -> dict[int, int]:
        self.looks += 1
        return dict(self.parent)

    def cgroup(self, pid: int) -> str | None:
        return self.cgroups.get(pid)

    def started_s(self, pid: int) -> float | None:
        return self.starts.get(pid)

    def argv(self, pid: int) -> tuple[str, ...] | None:
        return self.lines.get(pid)

    def executable(self, pid: int) -> str | None:
        return None if pid in self.hidden else self.executables.get(pid)

    def listening(self, pid: int) -> tuple[Listening, ...] | None:
        return tuple(Listening(inode=pid, port=port) for pid, port in self.ports.items())

    def sockets(self, pid: int) -> frozenset[int] | None:
        return None if pid in self.hidden else frozenset({pid} if pid in self.ports else {})
