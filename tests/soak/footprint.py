# SPDX-License-Identifier: Apache-2.0
"""What a running process takes: memory, file descriptors and threads, from /proc, and whether it goes on growing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One look at a process; `time_s` is that of whoever looks, from any beginning."""

    time_s: float
    resident_bytes: int
    descriptors: int
    threads: int


def look(pid: int, time_s: float) -> Footprint | None:
    """Return what the process takes now; None if it is gone."""
    process = Path("/proc") / str(pid)
    try:
        resident_pages = int((process / "statm").read_text().split()[1])
        descriptors = len(list((process / "fd").iterdir()))
        threads = len(list((process / "task").iterdir()))
    except (OSError, IndexError):
        return None
    return Footprint(
        time_s=time_s, resident_bytes=resident_pages * PAGE_BYTES, descriptors=descriptors, threads=threads
    )


def settled(looks: Sequence[Footprint]) -> Sequence[Footprint]:
    """Return the looks after the first quarter of the time: by then everything was there once."""
    begin_s, end_s = looks[0].time_s, looks[-1].time_s
    return [look for look in looks if look.time_s >= begin_s + (end_s - begin_s) / 4]


def slope(looks: Sequence[Footprint], value: Callable[[Footprint], float]) -> float:
    """Return by how much a value grows in a second, by least squares."""
    count = len(looks)
    mean_s = sum(look.time_s for look in looks) / count
    mean = sum(map(value, looks)) / count
    spread = sum((look.time_s - mean_s) ** 2 for look in looks)
    return sum((look.time_s - mean_s) * (value(look) - mean) for look in looks) / spread


def describe(looks: Sequence[Footprint]) -> str:
    """Return one line for a person."""
    later = settled(looks)
    first, last = later[0], later[-1]
    per_hour = slope(later, lambda look: look.resident_bytes) * 3600
    return (
        f"{last.time_s - looks[0].time_s:.0f} s: {first.resident_bytes / 2**20:.2f} MiB resident after a quarter, "
        f"{last.resident_bytes / 2**20:.2f} MiB at the end ({per_hour / 2**20:+.3f} MiB an hour), "
        f"descriptors {min(look.descriptors for look in later)} to {max(look.descriptors for look in later)}, "
        f"threads {min(look.threads for look in later)} to {max(look.threads for look in later)}"
    )
