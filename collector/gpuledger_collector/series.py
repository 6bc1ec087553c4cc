# SPDX-License-Identifier: Apache-2.0
"""One kind of the log's files, written: records one after the other, so many to a file, the last file still growing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger.merkle import TILE_WIDTH, number_path
from gpuledger_collector.disk import Disk


class Series:
    """Appends records, 256 to a file, in two steps: `write` and `sync`, then `settle` once all of it counts.

    Whatever lies behind the settled end is left of a batch that failed or crashed, and is cut before anything is
    written there.
    """

    def __init__(self, folder: Path, disk: Disk, *, count: int = 0, end: int = 0) -> None:
        """`count` records are settled, and the last file ends with them at `end`."""
        self._folder = folder
        self._disk = disk
        self._count = self._new_count = count
        self._end = self._new_end = end
        self._files: dict[int, int] = {}
        """Number of a file -> its descriptor; between batches only the last one is open."""
        self._directories = {folder, *folder.parents[:2]}
        """Directories with names in them that may not be flushed: of new files, and what a killed run left behind."""

    def write(self, records: Sequence[bytes]) -> None:
        """Write records behind the settled end; raises OSError, or StorageError where the file lost its end."""
        count, end = self._count, self._end
        first = 0
        while first < len(records):
            number, position = divmod(count, TILE_WIDTH)
            part = records[first : first + TILE_WIDTH - position]
            data = b"".join(part)
            self._put(self._open(number, end), data, end)
            first, count, end = first + len(part), count + len(part), end + len(data)
            if count % TILE_WIDTH == 0:
                end = 0
        self._new_count, self._new_end = count, end

    def adopt(self, lengths: Sequence[int]) -> None:
        """Take in records that lie behind the settled end already, as if written; `sync` flushes them too."""
        count, end = self._count, self._end
        for length in lengths:
            self._open(count // TILE_WIDTH, None)
            count, end = count + 1, end + length
            if count % TILE_WIDTH == 0:
                end = 0
        self._new_count, self._new_end = count, end

    def sync(self) -> None:
        """Flush what was written, and the names of new files."""
        for file in self._files.values():
            self._disk.sync(file)
        for path in sorted(self._directories):
            self._disk.sync_directory(path)
        self._directories.clear()

    def settle(self) -> None:
        """Count what was written; files that are full are closed."""
        self._count, self._end = self._new_count, self._new_end
        self._close_all_but(self._count // TILE_WIDTH)

    def take_back(self) -> None:
        """Forget what was written since the last `settle`."""
        number = self._count // TILE_WIDTH
        self._close_all_but(number)
        if number in self._files:
            # For tidiness: the next write cuts it again.
            with contextlib.suppress(OSError):
                self._disk.truncate(self._files[number], self._end)
        self._new_count, self._new_end = self._count, self._end

    def close(self) -> None:
        self._close_all_but(-1)

    def _close_all_but(self, number: int) -> None:
        for other in [known for known in self._files if known != number]:
            # Everything in it is flushed, or is to be forgotten.
            with contextlib.suppress(OSError):
                os.close(self._files.pop(other))

    def _put(self, file: int, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = self._disk.write(file, bytes(view), offset)
            view, offset = view[written:], offset + written

    def _open(self, number: int, end: int | None) -> int:
        """Return the descriptor of a file, which then ends at `end` if given."""
        path = self._folder / number_path(number)
        if number not in self._files:
            self._create_directories(path.parent)
            # Whether the file is new or not: a run that was killed may have made it, and not flushed its name.
            self._directories.add(path.parent)
            self._files[number] = self._disk.open(path)
        file = self._files[number]
        if end is not None:
            size = os.fstat(file).st_size
            if size < end:
                raise StorageError(f"{path}: ends at {size}, and {end} were written: restore it from a copy")
            if size > end:
                self._disk.truncate(file, end)
        return file

    def _create_directories(self, path: Path) -> None:
        missing = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            self._disk.create_directory(directory)
            self._directories.add(directory.parent)
