# SPDX-License-Identifier: Apache-2.0
"""Agents as witnesses: a checkpoint that they were shown, and the log does not continue, ends its signing.

It happens when an older copy of the state directory was put back, and would fork the log: what was published is gone,
and other entries would take its place. Agents keep their readings meanwhile, so nothing is lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from gpuledger.checkpoint import Checkpoint, note_of, read_checkpoint, verify_checkpoint
from gpuledger.errors import SealError, StorageError
from gpuledger_collector.log import LogWriter

logger = logging.getLogger(__name__)

AHEAD = "ahead"
"""The file with a checkpoint of ours that the log does not continue."""
_KNOWN_MAX = 4_096


class Witness:
    """Compares checkpoints with the log; called from one thread at a time."""

    def __init__(self, log: LogWriter) -> None:
        """Raise StorageError where an earlier run has met one that the log still does not continue."""
        self._log = log
        self._path = log.path / AHEAD
        self._fine: dict[str, None] = {}
        self._take_up()

    def _take_up(self) -> None:
        line = read_ahead(self._log.path)
        if line is None:
            return
        found = read_checkpoint(note_of(line))
        if found.origin == self._log.identity.origin and not self._is_continued(found):
            raise StorageError(self._sentence(found))
        # The right files were put back, or another origin was begun.
        self._path.unlink(missing_ok=True)

    def examine(self, lines: Iterable[str]) -> list[str]:
        """Return the lines that name this log and that it never signed.

        Raises StorageError, now and whenever the log is to be written, where it signed one that it does not continue.
        """
        return [line for line in lines if line not in self._fine and not self._is_fine(line)]

    def _is_fine(self, line: str) -> bool:
        try:
            note = note_of(line)
            found = read_checkpoint(note)
        except SealError:
            return True  # Whatever it is, it names no log.
        if found.origin == self._log.identity.origin and not self._is_continued(found):
            try:
                verify_checkpoint(note, self._log.identity.key.public_bytes)
            except SealError:
                return False
            self._refuse(found, line)
        if len(self._fine) >= _KNOWN_MAX:
            self._fine.clear()
        self._fine[line] = None
        return True

    def _is_continued(self, found: Checkpoint) -> bool:
        return found.size <= self._log.size and self._log.root_at(found.size) == found.root

    def _refuse(self, found: Checkpoint, line: str) -> None:
        text = self._sentence(found)
        if self._log.refusal is None:
            logger.error("log_refused", extra={"why": text})
        self._log.refuse(text)
        beside = self._path.with_suffix(".new")
        try:
            with beside.open("w", encoding="ascii") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self._path)
        except OSError as exc:
            raise StorageError(f"{text} ({self._path}: cannot be written: {exc.strerror})") from exc
        raise StorageError(text)

    def _sentence(self, found: Checkpoint) -> str:
        return (
            f"{self._log.path}: agents were shown {found.size} entries of {found.origin}, and the log has "
            f"{self._log.size}, which those do not continue: an older copy was put back; put the right files back, or "
            "begin a new origin (gpuledger log new-origin)"
            if found.size > self._log.size
            else f"{self._log.path}: agents were shown other entries of {found.origin} than the first {found.size} of "
            "the log: put the right files back, or begin a new origin (gpuledger log new-origin)"
        )


def read_ahead(directory: Path) -> str | None:
    """Return the checkpoint, in one line, that a log was found not to continue; None where there is none."""
    path = directory / AHEAD
    try:
        line = path.read_text(encoding="ascii").strip()
        read_checkpoint(note_of(line))
    except FileNotFoundError:
        return None
    except (OSError, SealError, ValueError) as exc:
        raise StorageError(f"{path}: not a checkpoint in one line: {exc}") from exc
    return line
