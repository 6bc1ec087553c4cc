# SPDX-License-Identifier: Apache-2.0
"""What the log does to its files, one call of the system each: a test can end the program before any of them."""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """The machine's; each method raises OSError where the system refuses."""

    def create_directory(self, path: Path) -> None:
        path.mkdir(mode=0o750)

    def open(self, path: Path) -> int:
        """Open for reading and writing, creating it where it is not there."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def write(self, file: int, data: bytes, offset: int) -> int:
        return os.pwrite(file, data, offset)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def sync(self, file: int) -> None:
        os.fsync(file)

    def sync_directory(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)
