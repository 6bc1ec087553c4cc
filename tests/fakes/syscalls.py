# SPDX-License-Identifier: Apache-2.0
"""System calls of a program as strace wrote them (`-ff -y`), and which of them change something where they must not.

Calls are divided into those that read, those that change what a path or descriptor names, and those about processes. A
call that is in none of them is reported too: it has to be looked at once, by a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLASSES = "%file,%desc,%process,%network"
"""What to trace: every call that takes a path or a descriptor, makes or ends a process, or uses a socket."""

_READING = """
    access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs readlink readlinkat getcwd getdents64
    open openat openat2 read pread64 readv lseek close dup dup2 dup3 fcntl ioctl mmap fadvise64 flock fsync fdatasync
    poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 pipe2
    pidfd_open waitid wait4 exit exit_group rt_sigreturn name_to_handle_at chdir
    socket socketpair bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt shutdown
    recvfrom recvmsg sendto sendmsg sendmmsg
"""
_CHANGING_PATHS = """
    creat mkdir mkdirat mknod mknodat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
    truncate chmod fchmodat fchmodat2 chown lchown fchownat utime utimes futimesat utimensat setxattr lsetxattr
    removexattr lremovexattr
"""
_CHANGING_DESCRIPTORS = """
    write pwrite64 writev pwritev pwritev2 ftruncate fallocate fchmod fchown fsetxattr fremovexattr copy_file_range
    sendfile splice sync_file_range
"""
_PROCESSES = "fork vfork clone clone3 execve execveat"
_KINDS = {
    name: kind
    for kind, names in (
        ("reading", _READING),
        ("path", _CHANGING_PATHS),
        ("descriptor", _CHANGING_DESCRIPTORS),
        ("process", _PROCESSES),
    )
    for name in names.split()
}
_CALL = re.compile(r"([a-z0-9_]+)\((.*)", re.DOTALL)
_DESCRIPTOR = re.compile(r"(?:AT_FDCWD|-?\d+)<(.*?)>(?=[,) ])")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NO_FILES = ("socket:", "pipe:", "anon_inode:", "UNIX", "TCP", "UDP", "NETLINK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call: its name, and all from its first argument to its result."""

    name: str
    rest: str

    def paths(self) -> list[str]:
        """Return the paths that it names, those relative to a descriptor's joined to that one's."""
        folders = _DESCRIPTOR.findall(self.rest)
        names = _QUOTED.findall(self.rest)
        base = folders[0] if folders else "."
        return [name if name.startswith("/") else f"{base}/{name}" for name in names]

    def descriptor(self) -> str:
        """Return what its first descriptor is open on."""
        found = _DESCRIPTOR.match(self.rest)
        return "?" if found is None else found[1]


def read_traces(folder: Path, prefix: str) -> list[Call]:
    """Return the calls of all threads in `folder/prefix.TID`, thread by thread."""
    calls = []
    for path in sorted(folder.glob(f"{prefix}.*")):
        for line in path.read_text(encoding="utf-8", errors="backslashreplace").splitlines():
            match = _CALL.match(line)
            if match is not None:
                calls.append(Call(name=match[1], rest=match[2]))
            else:
                assert line.startswith(("+++", "---")), f"not a line of strace: {line}"
    return calls


def trespasses(calls: list[Call], allowed: Path, streams: frozenset[str]) -> Iterator[str]:
    """Yield each call that changes something outside of `allowed` and of `streams`, starts a program, or is unknown.

    An attempt counts even if it failed. The first execve is the program's own start.
    """
    is_started = False
    for call in calls:
        if call.name == "execve" and not is_started:
            is_started = True
        elif reason := _trespass(call, allowed, streams):
            yield f"{reason}: {call.name}({call.rest}"


def _trespass(call: Call, allowed: Path, streams: frozenset[str]) -> str | None:
    if call.name in {"open", "openat", "openat2"}:
        is_reading = re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)", call.rest) is None
        return None if is_reading or _is_inside(call.paths(), allowed) else "opened to write"
    if call.name == "mmap":
        is_private = "MAP_SHARED" not in call.rest or "PROT_WRITE" not in call.rest
        return None if is_private or "MAP_ANONYMOUS" in call.rest else "mapped to write"
    match _KINDS.get(call.name):
        case "reading":
            return None
        case "process":
            return None if "CLONE_THREAD" in call.rest else "a process"
        case "path":
            return None if _is_inside(call.paths(), allowed) else "a path changed"
        case "descriptor":
            target = call.descriptor()
            is_fine = target in streams or target.startswith(_NO_FILES) or _is_inside([target], allowed)
            return None if is_fine else "a file changed"
        case _:
            return "a call that this list does not know"


def _is_inside(paths: list[str], allowed: Path) -> bool:
    return bool(paths) and all(Path(path).is_relative_to(allowed) and ".." not in path for path in paths)
