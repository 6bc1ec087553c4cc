# SPDX-License-Identifier: Apache-2.0
"""Programs run as a user without any rights, from a checkout and an interpreter that this user may not even reach."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
_SITE = Path(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")


class NotPossibleError(Exception):
    """This machine does not let that be done; the text is one sentence without a full stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A user with no rights beyond its own: `nobody` where the tests run as root, else whoever runs them."""

    user: str
    uid: int
    gid: int
    python: Path
    environment: Mapping[str, str]
    """What lets `python` find this checkout and the packages of its environment."""
    libraries: tuple[str, ...]
    """Where the interpreter's own libraries are, if it was moved."""

    def start(
        self,
        command: Sequence[str | Path],
        stream: IO[bytes],
        environment: Mapping[str, str],
        before: Sequence[str | Path] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program as this user; with `before`, a command of root's that runs `setpriv` and then the program."""
        whole = {**os.environ, **self.environment, **environment}
        libraries = [*filter(None, [environment.get("LD_LIBRARY_PATH")]), *self.libraries]
        whole["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        if os.geteuid() != 0:
            return subprocess.Popen(command, env=whole, stdout=stream, stderr=stream)
        if before:
            drop = ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--bounding-set=-all")
            return subprocess.Popen([*before, *drop, *command], env=whole, stdout=stream, stderr=stream)
        return subprocess.Popen(
            command, env=whole, stdout=stream, stderr=stream, user=self.uid, group=self.gid, extra_groups=[]
        )


@contextmanager
def stranger(folder: Path) -> Iterator[Stranger]:
    """Yield the user; `folder` (which others can reach) is where that is mounted which it could not reach otherwise.

    Raises NotPossibleError.
    """
    found = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    with ExitStack() as stack:
        base = Path(sys.base_prefix)
        interpreter = Path(sys.executable).resolve().relative_to(base)
        home = _reachable(base, folder / "python", stack)
        checkout = _reachable(ROOT, folder / "checkout", stack)
        site = Path(sys.prefix) / _SITE
        if site.is_relative_to(ROOT):
            site = checkout / site.relative_to(ROOT)
        paths = [checkout, *(checkout / name for name in ("common", "agent", "collector")), site]
        yield Stranger(
            user=found.pw_name,
            uid=found.pw_uid,
            gid=found.pw_gid,
            python=home / interpreter,
            environment={"PYTHONPATH": os.pathsep.join(map(str, paths)), "HOME": "/nonexistent"},
            libraries=() if home == base else (str(home / "lib"),),
        )


def _reachable(path: Path, place: Path, stack: ExitStack) -> Path:
    """Return where others can read `path`: where it is, or else mounted at `place` until the stack unwinds."""
    if os.geteuid() != 0 or all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents)):
        return path
    place.mkdir()
    done = subprocess.run(["mount", "--bind", path, place], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPossibleError(f"others cannot reach {path}, and it cannot be mounted elsewhere: {done.stderr.strip()}")
    stack.callback(subprocess.run, ["umount", str(place)], check=True)
    return place
