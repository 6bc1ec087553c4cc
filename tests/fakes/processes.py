# SPDX-License-Identifier: Apache-2.0
"""A table of processes that a test fills."""

from __future__ import annotations

from gpuledger_agent.processes import ProcessFacts


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
