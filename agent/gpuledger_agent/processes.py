# SPDX-License-Identifier: Apache-2.0
"""The only door to /proc: who a pid is, where it belongs, and who a user is (psutil, and files of /proc itself).

No environment is ever read. A command line is where it completes a program's name, which the kernel cuts to 15
characters (psutil), where it is the process title of a slurmstepd of root's, and where it is held against the rules
that tell programs (gpuledger_agent.process_hints); none is kept.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

_CGROUP_BYTES_MAX = 16_384
_STAT_BYTES_MAX = 4_096
_TITLE_BYTES_MAX = 256
_ANCESTORS_MAX = 64
_KNOWN_MAX = 4_096
_ARGV_BYTES_MAX = 16_384
_SOCKETS_BYTES_MAX = 262_144
"""Of a table of sockets; those that listen stand first in it."""
_FILES_MAX = 4_096
_PIDS_MAX = 65_536
_LISTEN = "0A"
_STEP_DAEMON = "slurmstepd"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """A live process.

    Its executable's name, its user's name (None where it has none here), its start in seconds since boot, and the text
    of its cgroup file ("" where it cannot be read). A process is the same for as long as pid and start are.
    """

    name: str
    user: str | None
    started_s: float
    cgroup: str = ""


class ProcessTable(Protocol):
    """Looks up processes by host pid, and users by uid."""

    def describe(self, pid: int) -> ProcessFacts | None:
        """Return the facts of a live process, as of when it was first asked for; None if it is gone or not visible."""
        ...

    def step_title(self, pid: int) -> str | None:
        """Return the process title of the slurmstepd that the process descends from; None where there is none."""
        ...

    def user_name(self, uid: int) -> str:
        """Return the name of a user, or the number where it has none here."""
        ...


class SystemProcessTable:
    """The node's own processes; what was read of one stands for as long as it lives."""

    def __init__(self) -> None:
        self._known: dict[int, ProcessFacts] = {}

    def describe(self, pid: int) -> ProcessFacts | None:
        stat = _stat(pid)
        if stat is None:
            self._known.pop(pid, None)
            return None
        known = self._known.get(pid)
        if known is not None and known.started_s == stat.started_s:
            return known
        facts = self._read(pid, stat.started_s)
        if facts is not None:
            if pid not in self._known and len(self._known) >= _KNOWN_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[pid] = facts
        return facts

    def _read(self, pid: int, started_s: float) -> ProcessFacts | None:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                name = process.name()
                try:
                    user: str | None = process.username()
                except (KeyError, psutil.AccessDenied):
                    user = None
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        cgroup = _text_of(f"/proc/{pid}/cgroup", _CGROUP_BYTES_MAX)
        again = _stat(pid)
        if again is None or again.started_s != started_s:
            return None  # the pid went to another process while it was being read
        return ProcessFacts(
            name=_text(name),
            user=None if user is None else _text(user),
            started_s=started_s,
            cgroup="" if cgroup is None else cgroup,
        )

    def step_title(self, pid: int) -> str | None:
        for _ in range(_ANCESTORS_MAX):
            stat = _stat(pid)
            if stat is None or stat.parent <= 1:
                return None
            pid = stat.parent
            parent = _stat(pid)
            if parent is not None and parent.name == _STEP_DAEMON and _owner(pid) == 0:
                # Anybody may call his own process so; only root's says whose job it is.
                return _text_of(f"/proc/{pid}/cmdline", _TITLE_BYTES_MAX)
        return None

    def user_name(self, uid: int) -> str:
        try:
            return _text(pwd.getpwuid(uid).pw_name)
        except (KeyError, OverflowError):
            return str(uid)


@dataclass(frozen=True, slots=True)
class _Stat:
    """What is used of /proc/PID/stat."""

    name: str
    parent: int
    started_s: float


def _stat(pid: int) -> _Stat | None:
    text = _text_of(f"/proc/{pid}/stat", _STAT_BYTES_MAX)
    if text is None:
        return None
    # The name stands in parentheses and may hold some itself; no field after it does.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    return _Stat(head.partition("(")[2], int(fields[1]), int(fields[19]) / _TICKS_PER_SECOND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A socket that waits for TCP connections: its inode and its port."""

    inode: int
    port: int


class ProcessTree(Protocol):
    """Looks at processes beside each other; every answer is of this moment, and None or nothing where there is none."""

    def parents(self) -> dict[int, int]:
        """Return the parent of every process that is visible, by pid."""
        ...

    def cgroup(self, pid: int) -> str | None:
        """Return the text of a process' cgroup file."""
        ...

    def started_s(self, pid: int) -> float | None:
        """Return when a process started, in seconds since boot."""
        ...

    def argv(self, pid: int) -> tuple[str, ...] | None:
        """Return a process' command line; one that named itself anew has that as its only part."""
        ...

    def executable(self, pid: int) -> str | None:
        """Return the path of a process' executable; None where it may not be read."""
        ...

    def listening(self, pid: int) -> tuple[Listening, ...] | None:
        """Return what waits for TCP connections in the network namespace of a process."""
        ...

    def sockets(self, pid: int) -> frozenset[int] | None:
        """Return the inodes of the sockets that a process has open; None where they may not be read."""
        ...


class SystemProcessTree:
    """The node's own processes; every file that is read has a bound."""

    def parents(self) -> dict[int, int]:
        parents: dict[int, int] = {}
        for name in _names_in("/proc", _PIDS_MAX):
            if name.isdigit():
                stat = _stat(int(name))
                if stat is not None:
                    parents[int(name)] = stat.parent
        return parents

    def cgroup(self, pid: int) -> str | None:
        return _text_of(f"/proc/{pid}/cgroup", _CGROUP_BYTES_MAX)

    def started_s(self, pid: int) -> float | None:
        stat = _stat(pid)
        return None if stat is None else stat.started_s

    def argv(self, pid: int) -> tuple[str, ...] | None:
        text = _text_of(f"/proc/{pid}/cmdline", _ARGV_BYTES_MAX)
        # A process that named itself anew leaves zeros, or the rest of what was there, behind its title.
        return None if text is None else tuple(text.rstrip("\0").split("\0"))

    def executable(self, pid: int) -> str | None:
        return _link_of(f"/proc/{pid}/exe")

    def listening(self, pid: int) -> tuple[Listening, ...] | None:
        found: list[Listening] = []
        tables = [_text_of(f"/proc/{pid}/net/{name}", _SOCKETS_BYTES_MAX) for name in ("tcp", "tcp6")]
        if tables == [None, None]:
            return None
        for table in tables:
            for line in (table or "").splitlines()[1:]:
                fields = line.split()
                if len(fields) < 10 or fields[3] != _LISTEN:
                    break  # those that listen come first, and the last line may be cut
                found.append(Listening(inode=int(fields[9]), port=int(fields[1].rpartition(":")[2], 16)))
        return tuple(found)

    def sockets(self, pid: int) -> frozenset[int] | None:
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                links = [_link_of(entry.path) for entry, _ in zip(entries, range(_FILES_MAX), strict=False)]
        except OSError:
            return None
        inodes = [link[8:-1] for link in links if link is not None and link.startswith("socket:[")]
        return frozenset(int(inode) for inode in inodes if inode.isdigit())


def _names_in(directory: str, most: int) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry, _ in zip(entries, range(most), strict=False)]
    except OSError:
        return []


def _link_of(path: str) -> str | None:
    try:
        return _text(str(Path(path).readlink()))
    except OSError:
        return None


def read_boot_id() -> str:
    """Return the kernel's name for this boot, "unknown" where it cannot be read."""
    text = _text_of("/proc/sys/kernel/random/boot_id", _STAT_BYTES_MAX)
    return "unknown" if text is None else text.strip()


def _owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def _text_of(path: str, bytes_max: int) -> str | None:
    try:
        with Path(path).open("rb") as file:
            return file.read(bytes_max).decode("utf-8", "backslashreplace")
    except OSError:
        return None


def _text(name: str) -> str:
    # A process may name itself in any bytes; psutil hands on those that are not UTF-8 as lone surrogates.
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
