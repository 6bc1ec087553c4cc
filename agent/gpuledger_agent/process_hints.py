# SPDX-License-Identifier: Apache-2.0
"""Looks at the processes of the workloads that hold GPUs, and keeps what they tell of their kind: ids, no command line.

A thread of its own looks, since reading a command line may wait for the process that it belongs to; who asks never
waits, and is told what was known last. A workload is looked at when it has a new process, then ever more rarely: what
it starts, and whether it listens, comes later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gpuledger.clock import monotonic_ns
from gpuledger.hints import WORLD_SIZE_MAX, Hints
from gpuledger.process_matching import ProcessFact, RuleTable, match, world_size
from gpuledger_agent.processes import ProcessTree
from gpuledger_agent.workloads import identify

_log = logging.getLogger(__name__)

AGAIN_S = (0, 15, 60, 300, 900)
"""How long after the last new process a workload is looked at; after that as often as the last step says."""
ANCESTORS_MAX = 16
PROCESSES_MAX = 64
"""Processes of one workload that are looked at: those that hold a GPU, their ancestors, then what these started."""
WORKLOADS_MAX = 1_024
PORT_MAX = 32_767
"""Ports above this are given out by the kernel: whoever listens there told somebody himself, and serves no public."""
RENDEZVOUS_PORTS = frozenset({29_400, 29_500})
"""Where PyTorch's launchers meet by default: they listen, and serve nobody."""
_S = 1_000_000_000


@dataclass(slots=True)
class _Watch:
    """A workload: its processes that hold a GPU, by pid and start, and when it is to be looked at."""

    members: dict[int, float] = field(default_factory=dict)
    is_alone: bool = False
    steps: int = 0
    changed_ns: int = 0
    asked_ns: int = 0
    hints: Hints | None = None

    @property
    def due_ns(self) -> int:
        beyond = max(0, self.steps - (len(AGAIN_S) - 1))
        return self.changed_ns + (AGAIN_S[min(self.steps, len(AGAIN_S) - 1)] + beyond * AGAIN_S[-1]) * _S


class ProcessHints:
    """Hints by workload; `of` may be called from any thread, `look` from one at a time."""

    def __init__(
        self,
        tree: ProcessTree,
        table: RuleTable,
        now_ns: Callable[[], int] = monotonic_ns,
        *,
        is_inline: bool = False,
    ) -> None:
        """`is_inline` looks when it is asked, for a tree that nothing can wait for (a simulated one)."""
        self._is_inline = is_inline
        self._tree = tree
        self._table = table
        self._now_ns = now_ns
        self._watches: dict[str, _Watch] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()

    def start(self) -> None:
        """Look from now on, in a thread of its own, which ends with the process."""
        if self._is_inline:
            return
        threading.Thread(target=self._run, name="process-hints", daemon=True).start()

    def of(self, workload: str, members: Mapping[int, float], *, is_alone: bool) -> Hints | None:
        """Return what is known of a workload, None where it was not looked at yet.

        `members` are processes of it that hold a GPU, by pid, and their start in seconds since boot. `is_alone` says
        that nothing but the process itself told the workload: what its parent started otherwise is not part of it.
        """
        now_ns = self._now_ns()
        with self._lock:
            watch = self._watches.get(workload)
            if watch is None:
                if len(self._watches) >= WORKLOADS_MAX:
                    del self._watches[min(self._watches, key=lambda name: self._watches[name].asked_ns)]
                watch = self._watches[workload] = _Watch(is_alone=is_alone)
            watch.asked_ns = now_ns
            if any(watch.members.get(pid) != started_s for pid, started_s in members.items()):
                watch.members.update(members)
                watch.steps, watch.changed_ns = 0, now_ns
                self._wake.set()
        if self._is_inline and watch.due_ns <= now_ns:
            self.look()
        return watch.hints

    # ------------------------------------------------------------------------------------------ looking

    def _run(self) -> None:
        while True:
            try:
                wait_s = self.look()
            except Exception:  # noqa: BLE001 - metering knows nothing of this thread: a bug here costs hints, and is told
                _log.exception("process_hints_broke")
                wait_s = AGAIN_S[-1]
            self._wake.wait(wait_s)
            self._wake.clear()

    def look(self) -> float | None:
        """Look at every workload that is due; return after how many seconds the next one is, None where none is."""
        now_ns = self._now_ns()
        with self._lock:
            due = [(name, watch) for name, watch in self._watches.items() if watch.due_ns <= now_ns]
            for _, watch in due:
                watch.steps += 1
        parents = self._tree.parents() if due else {}
        for name, watch in due:
            hints = self._look_at(watch, parents)
            with self._lock:
                if hints is not None:
                    watch.hints = hints
                elif not watch.members:
                    self._watches.pop(name, None)
        with self._lock:
            next_ns = min((watch.due_ns for watch in self._watches.values()), default=None)
        return None if next_ns is None else max(1.0, (next_ns - self._now_ns()) / _S)

    def _look_at(self, watch: _Watch, parents: Mapping[int, int]) -> Hints | None:
        """Return what the workload's processes tell now; None where none of them is there any more."""
        with self._lock:
            members = dict(watch.members)
        gone = {pid for pid, started_s in members.items() if self._tree.started_s(pid) != started_s}
        with self._lock:
            for pid in gone:
                if watch.members.get(pid) == members[pid]:
                    del watch.members[pid]
        holding = [pid for pid in members if pid not in gone]
        if not holding:
            return None
        pids = self._processes(holding, parents, is_alone=watch.is_alone)
        facts = [fact for fact in (self._fact(pid, parents, pid in members) for pid in pids) if fact is not None]
        rules = match(facts, self._table)
        return Hints(
            rules=rules,
            listens=self._listens(pids),
            world_size=_world(facts, self._table, rules),
            table=self._table.version,
        )

    def _fact(self, pid: int, parents: Mapping[int, int], holds_gpu: bool) -> ProcessFact | None:
        argv = self._tree.argv(pid)
        if argv is None:
            return None
        return ProcessFact(
            pid=pid, parent=parents.get(pid, 0), argv=argv, exe=self._tree.executable(pid), holds_gpu=holds_gpu
        )

    def _processes(self, holding: Iterable[int], parents: Mapping[int, int], *, is_alone: bool) -> list[int]:
        """Return the pids of a workload that are looked at: holders first, then ancestors, then what these started."""
        found = dict.fromkeys(sorted(holding)[:PROCESSES_MAX])
        own = self._tree.cgroup(next(iter(found))) or ""
        same = {own: True}
        tops: dict[int, None] = {}
        for pid in list(found):
            top = pid
            for _ in range(ANCESTORS_MAX):
                parent = parents.get(top, 0)
                # Process 1 of the node is nobody's; of a container it is the workload's, by its cgroup.
                if parent <= 1 or not self._belongs(parent, own, same):
                    break
                top = parent
                found.setdefault(top)
            tops.setdefault(pid if is_alone else top)
        children: dict[int, list[int]] = {}
        for pid, parent in parents.items():
            children.setdefault(parent, []).append(pid)
        queue = list(tops)
        for pid in queue:
            if len(found) >= PROCESSES_MAX:
                break
            for child in children.get(pid, ()):
                if child not in queue and (child in found or self._belongs(child, own, same)):
                    queue.append(child)
                    found.setdefault(child)
        return list(found)[:PROCESSES_MAX]

    def _belongs(self, pid: int, own: str, same: dict[str, bool]) -> bool:
        """Return whether a process is in the same cgroup, or in one that tells the same workload."""
        text = self._tree.cgroup(pid)
        if text is None:
            return False
        known = same.get(text)
        if known is None:
            workload = identify(own)
            known = same[text] = workload is not None and workload == identify(text)
        return known

    def _listens(self, pids: list[int]) -> bool | None:
        """Return whether one of these processes waits for connections; None where no socket of any could be seen."""
        is_any_seen = False
        for pid in pids:
            sockets = self._tree.sockets(pid)
            if not sockets:
                is_any_seen |= sockets is not None
                continue
            listening = self._tree.listening(pid)
            if listening is None:
                continue
            is_any_seen = True
            if any(one.inode in sockets and _is_service(one.port) for one in listening):
                return True
        return False if is_any_seen else None


def _is_service(port: int) -> bool:
    return port <= PORT_MAX and port not in RENDEZVOUS_PORTS


def _world(facts: list[ProcessFact], table: RuleTable, rules: tuple[str, ...]) -> int | None:
    """Return how many processes the launcher starts; where it does not say, how many of a training hold a GPU here."""
    told = world_size(facts, table)
    if told is not None:
        return told
    holding = sum(fact.holds_gpu for fact in facts)
    is_training = any(table.rules[rule].kind == "training" for rule in rules)
    return min(holding, WORLD_SIZE_MAX) if is_training and holding > 1 else None
