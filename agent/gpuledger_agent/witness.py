# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of collectors' logs that this node was shown: it seals the newest, and shows them again on demand.

So a reading is provably no older than the log was then, and a collector that lost the end of its log, or rewrites it,
is held to what it showed. Kept in memory: what was sealed is in the journal, and the start takes up the last of it.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections import OrderedDict

from gpuledger.checkpoint import Checkpoint, note_of, read_checkpoint, verify_checkpoint
from gpuledger.errors import SealError
from gpuledger.reading import TEXT_CHARACTERS_MAX
from gpuledger.sealing import open_envelope
from gpuledger_agent.journal import Journal

LOGS_MAX = 8
"""Logs remembered, each by origin and key; the one shown longest ago goes first."""


class Witness:
    """Remembers; requests show, the sealer asks."""

    def __init__(self, sealed: str | None = None) -> None:
        """`sealed` is the checkpoint in the newest reading of the journal."""
        self._mutex = threading.Lock()
        self._shown: OrderedDict[tuple[str, bytes | None], tuple[Checkpoint, str]] = OrderedDict()
        """(origin, key) -> newest checkpoint, and its line; in order of showing. The key is None until it is shown."""
        if sealed is not None and (found := _read(sealed)) is not None:
            self._shown[found.origin, None] = found, sealed

    def show(self, line: str, key: str) -> None:
        """Take note of a checkpoint, in one line, if the key, in base64, signed it."""
        try:
            public_key = base64.b64decode(key, validate=True)
            found = verify_checkpoint(note_of(line), public_key)
        except (SealError, ValueError, binascii.Error):
            return
        name = found.origin, public_key
        with self._mutex:
            known = self._shown.pop(name, None)
            if known is None:
                known = self._take_up(found.origin, public_key)
            # A smaller one than before is what this is there to notice: it does not take the place.
            is_newer = known is None or found.size > known[0].size
            self._shown[name] = (found, line) if known is None or is_newer else known
            while len(self._shown) > LOGS_MAX:
                self._shown.popitem(last=False)

    def _take_up(self, origin: str, public_key: bytes) -> tuple[Checkpoint, str] | None:
        """Return the sealed checkpoint of an earlier run, if this key signed it."""
        known = self._shown.get((origin, None))
        try:
            if known is None or verify_checkpoint(note_of(known[1]), public_key) != known[0]:
                return None
        except SealError:
            return None
        del self._shown[origin, None]
        return known

    @property
    def newest(self) -> str | None:
        """Return the checkpoint of the log that was shown last, in one line; None before any was."""
        with self._mutex:
            return next((line for _, line in reversed(self._shown.values())), None)

    def lines(self) -> list[str]:
        """Return the newest checkpoint of each log."""
        with self._mutex:
            return [line for _, line in self._shown.values()]


def last_sealed(journal: Journal) -> str | None:
    """Return the checkpoint in the newest reading of the journal; None where there is none, or it is not legible."""
    for record in journal.read(journal.last.sequence - 1, 1, 1):
        try:
            payload = open_envelope(json.loads(record)["envelope"].encode("ascii")).payload
            line = json.loads(payload).get("checkpoint")
        except (SealError, ValueError, AttributeError):
            return None
        return line if isinstance(line, str) else None
    return None


def _read(line: str) -> Checkpoint | None:
    try:
        return read_checkpoint(note_of(line)) if len(line) <= TEXT_CHARACTERS_MAX else None
    except SealError:
        return None
