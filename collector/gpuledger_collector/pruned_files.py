# SPDX-License-Identifier: Apache-2.0
"""What is left of a file of entries once its readings were taken out: the same records, empty where they are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from gpuledger.errors import SealError, StorageError
from gpuledger.reading import PAYLOAD_TYPE as READING_TYPE
from gpuledger.sealing import open_envelope
from gpuledger_collector.closing import PAYLOAD_TYPE as CLOCK_TYPE
from gpuledger_collector.tiles import ENTRIES, LogReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Remainder:
    """What is left of a bundle: its records, empty where they go; whether the last batch in it has any that stay."""

    records: tuple[bytes, ...]
    readings: int
    is_open: bool


def remainder(records: Sequence[bytes], *, is_open: bool) -> Remainder:
    """Return what stays of a bundle's records; `is_open` says whether a record before, of the same batch, stays."""
    kept, readings = [], 0
    for data in records:
        stays = True
        try:
            kind = open_envelope(data).payload_type
        except SealError as exc:
            raise StorageError(f"an entry of the log that is to be pruned is not legible: {exc}") from exc
        if kind == READING_TYPE:
            stays, readings = False, readings + 1
        elif kind == CLOCK_TYPE:
            stays, is_open = is_open, False
        else:
            is_open = True
        kept.append(data if stays else b"")
    return Remainder(records=tuple(kept), readings=readings, is_open=is_open)


def digest_pruned(log: LogReader, first: int, end: int) -> str:
    """Return SHA-256 over what is left of the entries of bundles first to end - 1, as it lies in the files."""
    found = sha256()
    for number in range(first, end):
        try:
            found.update(log.pruned_file(ENTRIES, number).read_bytes())
        except OSError as exc:
            raise StorageError(f"{log.pruned_file(ENTRIES, number)}: cannot be read: {exc.strerror}") from exc
    return found.hexdigest()
