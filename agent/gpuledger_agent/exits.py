# SPDX-License-Identifier: Apache-2.0
"""The only ways out of the agent's process but its own end: into a new program, or at once."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

_LOCK_VARIABLE = "_GPULEDGER_LOCK"


def begin_anew(lock: int) -> None:
    """Run this process's command again, in its place, with the lock of the state directory in hand.

    Raises OSError where the command cannot be run again. The lock stays with the open file, so nobody can come between.
    """
    os.set_inheritable(lock, True)
    _flush()
    try:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _LOCK_VARIABLE: str(lock)})  # noqa: S606
    finally:
        os.set_inheritable(lock, False)


def inherited_lock(path: Path) -> int | None:
    """Return the lock that was handed over, if it is that of the file at `path`; None where there is none."""
    text = os.environ.pop(_LOCK_VARIABLE, None)
    if text is None or not text.isdecimal():
        return None
    lock = int(text)
    try:
        held, wanted = os.fstat(lock), path.stat()
        if (held.st_dev, held.st_ino) != (wanted.st_dev, wanted.st_ino):
            return None
        os.set_inheritable(lock, False)
    except OSError:
        return None
    return lock


def leave_at_once(code: int) -> None:
    """End the process without waiting for anything: a call into the driver that hangs would hold its end up."""
    _flush()
    os._exit(code)  # noqa: TID251 - its one home


def _flush() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
