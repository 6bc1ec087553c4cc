# SPDX-License-Identifier: Apache-2.0
"""The clock entry that closes a batch: when it was accepted, and the tree that it completes, under the log's key.

With it a batch that is whole on disk proves itself: a crash before its checkpoint loses nothing and forges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

from gpuledger import wire
from gpuledger.errors import ReadingError, SealError
from gpuledger.sealing import SigningKey, verify_envelope

PAYLOAD_TYPE = "application/vnd.gpuledger.clock.v1+json"
LENGTH_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockEntry:
    """Closes a batch. `size` and `root` are of the tree before this entry; `root` and `beside` are hexadecimal.

    `beside` is SHA-256 of the records that lie beside the batch's entries, outside the tree.
    """

    at_ms: int
    size: int
    root: str
    beside: str


def seal_clock(entry: ClockEntry, key: SigningKey) -> bytes:
    """Return the entry as it stands in the log."""
    return key.seal(PAYLOAD_TYPE, wire.dump(asdict(entry)))


def decode_clock(payload: bytes) -> ClockEntry:
    """Return what a clock entry's payload says; raises ReadingError."""
    fields = wire.Fields(wire.parse(payload, "clock", len(payload)), "clock")
    entry = ClockEntry(
        at_ms=fields.integer("at_ms"),
        size=fields.integer("size"),
        root=fields.name("root"),
        beside=fields.name("beside"),
    )
    fields.end()
    return entry


def closing_of(data: bytes, public_key: bytes) -> ClockEntry | None:
    """Return the clock entry in `data` if the log's key signed it, else None."""
    try:
        return decode_clock(verify_envelope(data, public_key, PAYLOAD_TYPE))
    except (SealError, ReadingError):
        return None


def frame(record: bytes) -> bytes:
    """Return a record as bundles hold it: its length in two bytes, big endian, and itself."""
    return len(record).to_bytes(LENGTH_BYTES, "big") + record


def digest_beside(records: Sequence[bytes]) -> str:
    """Return SHA-256 of the framed records beside a batch."""
    found = sha256()
    for record in records:
        found.update(frame(record))
    return found.hexdigest()
