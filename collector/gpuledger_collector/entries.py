# SPDX-License-Identifier: Apache-2.0
"""What the log's entries say: their bytes and their meaning. A batch is entries and the clock entry that closes it.

Names in the clear never go to the log, which cannot forget: openings stay in the store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpuledger.errors import ReadingError, SealError, StorageError
from gpuledger.reading import Reading, decode_known, decode_known_workloads, digest
from gpuledger.sealing import open_envelope
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.log import Frame, Kind
from gpuledger_collector.roster import Entry, Window, WindowKind

FIRST_SIGHT = "first sight"
"""How a node's key came to count when nobody listed it beforehand."""

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingEntry:
    """A reading as received: its DSSE envelope and, where it came with one, its workloads blob.

    `digest` is SHA-256 of the envelope's bytes; `reading` is what they hold, already verified when they were logged.
    """

    envelope: bytes
    workloads: bytes | None
    digest: str
    reading: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentEntry:
    """From here on readings under this key count for the node."""

    node_id: str
    public_key: bytes
    node: str
    how: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterEntry:
    """A change of the roster: entries that left it and entries that came; replayed in order they give the roster."""

    is_declared: bool
    removed: tuple[Entry, ...] = ()
    added: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclarationEntry:
    """A window first seen at `window.declared_ms`; with `withdrawn_ms` it ends there, or never was if not yet begun."""

    window: Window
    withdrawn_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockEntry:
    """Closes a batch: when it was accepted, and what was found in it."""

    at_ms: int
    findings: tuple[Finding, ...] = ()


LogEntry = ReadingEntry | EnrolmentEntry | RosterEntry | DeclarationEntry | ClockEntry


def encode(entry: LogEntry) -> tuple[Kind, bytes]:
    """Return the entry's kind and payload, as LogWriter.append takes them."""
    match entry:
        case ReadingEntry():
            blob = b"" if entry.workloads is None else entry.workloads
            return Kind.READING, len(entry.envelope).to_bytes(_LENGTH_BYTES, "big") + entry.envelope + blob
        case EnrolmentEntry():
            return Kind.ENROLMENT, _dump(asdict(entry) | {"public_key": entry.public_key.hex()})
        case RosterEntry():
            return Kind.ROSTER, _dump(asdict(entry))
        case DeclarationEntry():
            return Kind.DECLARATION, _dump(asdict(entry))
        case ClockEntry():
            return Kind.CLOCK, _dump(asdict(entry))


def decode_entry(frame: Frame) -> LogEntry:
    """Return what a frame says, without verifying signatures; raises StorageError naming the offset where it cannot."""
    try:
        if frame.kind is Kind.READING:
            return _decode_reading(frame.payload)
        return _decode_document(frame.kind, json.loads(frame.payload))
    except (ReadingError, SealError, ValueError, KeyError, TypeError) as exc:
        raise StorageError(f"log: the {frame.kind.name.lower()} entry at {frame.offset} is not legible: {exc}") from exc


def split_reading(payload: bytes) -> tuple[bytes, bytes | None]:
    """Return (envelope, workloads blob or None) of a reading entry's payload; raises ValueError where it is short."""
    length = int.from_bytes(payload[:_LENGTH_BYTES], "big")
    envelope = payload[_LENGTH_BYTES : _LENGTH_BYTES + length]
    if len(envelope) != length or length == 0:
        raise ValueError(f"an envelope of {len(envelope)} bytes, and {length} are announced")
    blob = payload[_LENGTH_BYTES + length :]
    return envelope, blob or None


def accepted_of(frame: Frame, envelope_digest: str) -> Accepted:
    """Return the logged reading as the ledger takes it; `envelope_digest` comes from the index."""
    if frame.kind is not Kind.READING:
        raise StorageError(
            f"log: the entry at {frame.offset} is not a reading, and the index says so: rebuild the ledger"
        )
    envelope, blob = split_reading(frame.payload)
    # The log holds what intake has checked; `gpuledger log check` checks it again, signatures and form and all.
    reading = decode_known(open_envelope(envelope).payload)
    return Accepted(digest=envelope_digest, reading=reading, workloads=workloads_of(blob, reading))


def workloads_of(blob: bytes | None, reading: Reading) -> tuple[WorkloadTime, ...]:
    """Return the workloads of a reading; none where it came without the blob. Raises ReadingError on a mismatch."""
    return () if blob is None else decode_known_workloads(blob, reading)


def _decode_reading(payload: bytes) -> ReadingEntry:
    envelope, blob = split_reading(payload)
    # The log holds what intake has checked; `gpuledger log check` checks it again, signatures and form and all.
    reading = decode_known(open_envelope(envelope).payload)
    return ReadingEntry(envelope=envelope, workloads=blob, digest=digest(envelope), reading=reading)


def _decode_document(kind: Kind, value: dict[str, Any]) -> LogEntry:
    if kind is Kind.ENROLMENT:
        return EnrolmentEntry(**(value | {"public_key": bytes.fromhex(value["public_key"])}))
    if kind is Kind.ROSTER:
        return RosterEntry(
            is_declared=value["is_declared"], removed=_entries(value["removed"]), added=_entries(value["added"])
        )
    if kind is Kind.DECLARATION:
        window = value["window"]
        return DeclarationEntry(
            window=Window(**(window | {"kind": WindowKind(window["kind"])})), withdrawn_ms=value["withdrawn_ms"]
        )
    return ClockEntry(at_ms=value["at_ms"], findings=tuple(Finding(**item) for item in value["findings"]))


def _entries(values: Sequence[dict[str, Any]]) -> tuple[Entry, ...]:
    return tuple(Entry(**value) for value in values)


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
