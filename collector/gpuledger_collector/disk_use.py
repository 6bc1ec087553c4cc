# SPDX-License-Identifier: Apache-2.0
"""How much of the disk each part of a state directory takes, and what a day adds to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuledger.cells import DAY_MS
from gpuledger.errors import StorageError

LOOK_BACK_DAYS = 7
_BLOCK_BYTES = 512
_PARTS = (
    ("log/tile/entries", "entries"),
    ("log/tile", "tiles"),
    ("log/workloads", "workloads"),
    ("log/pruned", "pruned"),
    ("ledger", "ledger"),
    ("collector.sqlite", "index"),
)
"""(how a path below the directory begins, what it belongs to); the first that fits counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """Bytes on the disk by part; what a day adds, as the mean of the last seven; what is free on the file system."""

    part_bytes: Mapping[str, int]
    day_bytes: Mapping[str, float]
    """Without the parts of which it is not known, and empty in the first day."""
    free_bytes: int


def disk_use(state_dir: Path, now_ms: int) -> DiskUse:
    """Return what a state directory takes; raises StorageError where it cannot be read."""
    parts, recent = dict[str, int](), dict[str, int]()
    since_ms, oldest_ms = now_ms - LOOK_BACK_DAYS * DAY_MS, now_ms
    try:
        for path, found in _files(state_dir):
            part = _part_of(path.relative_to(state_dir).as_posix())
            size_bytes, written_ms = found.st_blocks * _BLOCK_BYTES, found.st_mtime_ns // 1_000_000
            parts[part] = parts.get(part, 0) + size_bytes
            oldest_ms = min(oldest_ms, written_ms)
            if written_ms >= since_ms:
                recent[part] = recent.get(part, 0) + size_bytes
        free_bytes = shutil.disk_usage(state_dir).free
    except OSError as exc:
        raise StorageError(f"{state_dir}: cannot be looked through: {exc.strerror}") from exc
    days = min(LOOK_BACK_DAYS, (now_ms - oldest_ms) / DAY_MS)
    day_bytes: dict[str, float] = {}
    if days >= 1:
        # Files that only grow at their end; those of the ledger's days are few beside them.
        day_bytes = {part: recent.get(part, 0) / days for part in ("entries", "tiles", "workloads", "ledger")}
        if parts.get("entries"):
            day_bytes["index"] = parts.get("index", 0) * day_bytes["entries"] / parts["entries"]
    return DiskUse(part_bytes=parts, day_bytes=day_bytes, free_bytes=free_bytes)


def _files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every file below a directory; those that vanish meanwhile are left out."""
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue


def _part_of(name: str) -> str:
    return next((part for start, part in _PARTS if name.startswith(start)), "other")
