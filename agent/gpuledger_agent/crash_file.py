# SPDX-License-Identifier: Apache-2.0
"""The open cell on disk: written at every tick without fsync, so that kill -9 costs at most one tick.

Two slots in one file, written in turn, each with a counter, a length and a CRC-32: a write that was cut short leaves
the other slot whole, and no rename is needed once a second. A power loss may take both; then one cell is uncovered.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from gpuledger.errors import StorageError

_HEADER = struct.Struct(">8sQII")
_MAGIC = b"GLOPEN1\n"
SLOT_BYTES = 1 << 20


class CrashFile:
    """One small document that survives the death of its writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._counter = 0
        self._is_empty = False

    def read(self) -> bytes | None:
        """Return the newest whole document, or None; raises StorageError."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"{self._path}: cannot be read: {exc.strerror}") from exc
        found: list[tuple[int, bytes]] = []
        for offset in (0, SLOT_BYTES):
            head = data[offset : offset + _HEADER.size]
            if len(head) < _HEADER.size:
                continue
            magic, counter, length, checksum = _HEADER.unpack(head)
            body = data[offset + _HEADER.size : offset + _HEADER.size + length]
            if magic == _MAGIC and len(body) == length and _checksum(counter, body) == checksum:
                found.append((counter, body))
        if not found:
            return None
        self._counter, body = max(found)
        return body or None

    def write(self, document: bytes | None) -> None:
        """Replace the document (None: there is none); raises StorageError and leaves the one before."""
        if document is None and self._is_empty:
            return
        body = b"" if document is None else document
        if _HEADER.size + len(body) > SLOT_BYTES:
            raise StorageError(f"{self._path}: {len(body)} bytes do not fit into a slot of {SLOT_BYTES}")
        counter = self._counter + 1
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            data = _HEADER.pack(_MAGIC, counter, len(body), _checksum(counter, body)) + body
            written = os.pwrite(self._descriptor, data, counter % 2 * SLOT_BYTES)
            if written < len(data):
                raise StorageError(f"{self._path}: only {written} of {len(data)} bytes could be written")
        except OSError as exc:
            raise StorageError(f"{self._path}: cannot be written: {exc.strerror}") from exc
        self._counter = counter
        self._is_empty = document is None

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _checksum(counter: int, body: bytes) -> int:
    # Over the counter too: a new counter in front of the slot's old document would make it the newest.
    return zlib.crc32(body, zlib.crc32(counter.to_bytes(8, "big")))
