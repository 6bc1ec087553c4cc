# SPDX-License-Identifier: Apache-2.0
"""The only door to /proc: who a pid is (psutil)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """A live process: its executable's name, its user's name (None where it has none here) and its start time."""

    name: str
    user: str | None
    started_s: float


class ProcessTable(Protocol):
    """Looks up processes by host pid."""

    def describe(self, pid: int) -> ProcessFacts | None:
        """Return the facts of a live process; None if it is gone or not visible."""
        ...


class SystemProcessTable:
    """The node's own processes."""

    def describe(self, pid: int) -> ProcessFacts | None:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                name = process.name()
                started_s = process.create_time()
                try:
                    user: str | None = process.username()
                except (KeyError, psutil.AccessDenied):
                    user = None
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return ProcessFacts(name=_text(name), user=None if user is None else _text(user), started_s=started_s)


def _text(name: str) -> str:
    # A process may name itself in any bytes; psutil hands on those that are not UTF-8 as lone surrogates.
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
