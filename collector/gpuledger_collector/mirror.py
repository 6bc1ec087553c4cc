# SPDX-License-Identifier: Apache-2.0
"""What anybody may mirror of the log: checkpoint, tiles and entries at the paths of C2SP tlog-tiles, below /log/.

Beside them, in the same form, the workloads that came with readings and are not in the tree.
"""

from __future__ import annotations

from gpuledger.merkle import parse_tile_path
from gpuledger_collector.documents import Document
from gpuledger_collector.tiles import CHECKPOINT, ENTRIES, WORKLOADS, LogReader

_TEXT = "text/plain; charset=utf-8"
_BINARY = "application/octet-stream"
_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}


class LogMirror:
    """Reads what a path names; called from threads."""

    def __init__(self, log: LogReader) -> None:
        self._log = log

    def find(self, path: str) -> Document | None:
        """Return what is published at a path below /log/; None where nothing is. Raises StorageError."""
        if path == CHECKPOINT:
            note = self._log.note()
            return None if note is None else Document(body=note, content_type=_TEXT)
        is_beside = path.startswith(f"{WORKLOADS}/")
        tile = parse_tile_path(ENTRIES + path.removeprefix(WORKLOADS) if is_beside else path)
        if tile is None:
            return None
        body = self._log.beside(tile.index, tile.width) if is_beside else self._log.tile(tile)
        return None if body is None else Document(body=body, content_type=_BINARY, headers=_FOR_EVER)
