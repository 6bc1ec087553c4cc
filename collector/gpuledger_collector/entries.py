# SPDX-License-Identifier: Apache-2.0
"""What the log's entries say: their bytes and their meaning. A batch is entries and the clock entry that closes it.

Every entry is a DSSE envelope: readings under their node's key as received, all others under the log's own. The type of
the payload says what it is. Names in the clear never go to the log, which cannot forget: openings stay in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from gpuledger import wire
from gpuledger.errors import ReadingError, SealError, StorageError
from gpuledger.reading import PAYLOAD_TYPE, Reading, decode_known, decode_known_workloads, digest
from gpuledger.sealing import Envelope, SigningKey, open_envelope
from gpuledger.workload_time import WorkloadTime
from gpuledger_collector.closing import ClockEntry, decode_clock
from gpuledger_collector.given_entries import (
    ConfigurationEntry,
    LeasesEntry,
    ScheduleEntry,
    decode_configuration,
    decode_leases,
    decode_schedule,
)
from gpuledger_collector.ledger import Accepted, Finding
from gpuledger_collector.parts import cut
from gpuledger_collector.roster import Claim, Entry, Window, WindowKind
from gpuledger_collector.tiles import Leaf

FIRST_SIGHT = "first sight"
"""How a node's key came to count when nobody listed it beforehand."""
DECLARED = "declared"
"""How it came to count when the operator's list has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginEntry:
    """From here on the log is signed by this key in this name; the first entry, and one for each that came after.

    `previous` is the log that this one continues, `seen` the newest checkpoint of that log that anybody was shown, in
    one line, where that is not one of its beginnings: then it was forked or cut.
    """

    origin: str
    public_key: bytes
    at_ms: int
    previous: str | None = None
    seen: str | None = None


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
    """From here on readings under this key count for the node, where they lie in [from_ms, to_ms) if these are given.

    A later entry about the same key takes the place of an earlier one.
    """

    node_id: str
    public_key: bytes
    node: str
    how: str
    at_ms: int
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationEntry:
    """What a key sealed after `from_ms` does not count, logged before or not."""

    node_id: str
    node: str
    from_ms: int
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

    @property
    def effective(self) -> Window | None:
        """The window as far as it stands; None where it was withdrawn before it began."""
        if self.withdrawn_ms is None or self.withdrawn_ms >= self.window.end_ms:
            return self.window
        return replace(self.window, end_ms=self.withdrawn_ms) if self.withdrawn_ms > self.window.start_ms else None


class Pruned(str, Enum):
    """What is taken out of the first entries of a log."""

    READINGS = "readings"
    """Readings, what lies beside them, and the clock entries that closed batches of nothing else."""
    WORKLOADS = "workloads"
    """What lies beside readings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningEntry:
    """Said before it is done: `what` is taken out of the first `entries` entries, on the operator's policy.

    Every reading among them ends by `before_ms`, and the ledger's hours before it are final. `ledger` is the digest of
    the hours that become final by this entry, [from_ms, before_ms), None where none do; `kept` is SHA-256 over what is
    left of the bundles that are pruned by this entry, and `readings` how many readings they had.
    """

    what: Pruned
    entries: int
    readings: int
    kept: str
    from_ms: int
    before_ms: int
    ledger: str | None
    columns: int
    """The version of the ledger's columns that the digest is of."""
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsEntry:
    """Which node claimed which GPU, as the readings said that the next pruning takes out."""

    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingsEntry:
    """What was found in the batch."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEntry:
    """What the operator says that a workload is for, by its id; a later entry takes its place, None takes it away."""

    workload: str
    kind: str | None
    at_ms: int


LogEntry = (
    OriginEntry
    | ReadingEntry
    | EnrolmentEntry
    | RevocationEntry
    | RosterEntry
    | DeclarationEntry
    | LeasesEntry
    | ScheduleEntry
    | ConfigurationEntry
    | FindingsEntry
    | LabelEntry
    | ClaimsEntry
    | PruningEntry
    | ClockEntry
)
OwnEntry = (
    OriginEntry
    | EnrolmentEntry
    | RevocationEntry
    | RosterEntry
    | DeclarationEntry
    | LeasesEntry
    | ScheduleEntry
    | ConfigurationEntry
    | FindingsEntry
    | LabelEntry
    | ClaimsEntry
    | PruningEntry
)

READING, CLOCK = "reading", "clock"
_KINDS: dict[type[OwnEntry], str] = {
    OriginEntry: "origin",
    EnrolmentEntry: "enrolment",
    RevocationEntry: "revocation",
    RosterEntry: "roster",
    DeclarationEntry: "declaration",
    LeasesEntry: "leases",
    ScheduleEntry: "schedule",
    ConfigurationEntry: "configuration",
    FindingsEntry: "findings",
    LabelEntry: "label",
    ClaimsEntry: "claims",
    PruningEntry: "pruning",
}
_TYPE_START, _TYPE_END = "application/vnd.gpuledger.", ".v1+json"


def encode(entry: ReadingEntry | OwnEntry, key: SigningKey) -> tuple[bytes, bytes | None]:
    """Return the entry and what lies beside it, as LogWriter.append takes them; ours is sealed with the log's key."""
    if isinstance(entry, ReadingEntry):
        return entry.envelope, entry.workloads
    return key.seal(_TYPE_START + _KINDS[type(entry)] + _TYPE_END, wire.dump(_plain(entry))), None


def _plain(entry: OwnEntry) -> dict[str, Any]:
    value = asdict(entry)
    if isinstance(entry, OriginEntry | EnrolmentEntry):
        value["public_key"] = entry.public_key.hex()
    return value


def pack_roster(*, is_declared: bool, removed: Sequence[Entry], added: Sequence[Entry]) -> Iterator[RosterEntry]:
    """Yield entries of the log that change the roster, each with as much as fits."""
    for part in cut(removed):
        yield RosterEntry(is_declared=is_declared, removed=part)
    for part in cut(added):
        yield RosterEntry(is_declared=is_declared, added=part)


def pack_findings(findings: Sequence[Finding]) -> Iterator[FindingsEntry]:
    """Yield entries of the log that hold the findings, each with as many as fit."""
    for part in cut(findings):
        yield FindingsEntry(findings=part)


def pack_claims(claims: Sequence[Claim]) -> Iterator[ClaimsEntry]:
    """Yield entries of the log that hold the claims, each with as many as fit."""
    for part in cut(claims):
        yield ClaimsEntry(claims=part)


# ---------------------------------------------------------------------------------------------- decoding


def kind_of(payload_type: str) -> str:
    """Return the kind of an entry, as the type of its payload names it."""
    return payload_type.removeprefix(_TYPE_START).removesuffix(_TYPE_END)


def decode_entry(leaf: Leaf) -> LogEntry:
    """Return what an entry says, without verifying signatures; raises StorageError naming the entry if it cannot."""
    try:
        envelope = open_envelope(leaf.data)
        if envelope.payload_type == PAYLOAD_TYPE:
            # The log holds what intake has checked; `gpuledger log check` checks it again, signatures and form and all.
            reading = decode_known(envelope.payload)
            return ReadingEntry(envelope=leaf.data, workloads=leaf.beside, digest=digest(leaf.data), reading=reading)
        return decode_own(envelope)
    except (ReadingError, SealError, ValueError, KeyError, TypeError) as exc:
        raise StorageError(f"log: entry {leaf.index} is not legible: {exc}") from exc


def decode_own(envelope: Envelope) -> OwnEntry | ClockEntry:
    """Return what an entry of the log's own says; raises ValueError and its like where it is not one."""
    kind = kind_of(envelope.payload_type)
    if kind == CLOCK:
        return decode_clock(envelope.payload)
    value: dict[str, Any] = wire.parse(envelope.payload, kind, len(envelope.payload))
    if wire.dump(value) != envelope.payload:
        raise ValueError("not in its one form")
    match kind:
        case "origin":
            return OriginEntry(**(value | {"public_key": bytes.fromhex(value["public_key"])}))
        case "enrolment":
            return EnrolmentEntry(**(value | {"public_key": bytes.fromhex(value["public_key"])}))
        case "revocation":
            return RevocationEntry(**value)
        case "roster":
            return RosterEntry(
                is_declared=value["is_declared"], removed=_entries(value["removed"]), added=_entries(value["added"])
            )
        case "declaration":
            window = value["window"]
            return DeclarationEntry(
                window=Window(**(window | {"kind": WindowKind(window["kind"])})), withdrawn_ms=value["withdrawn_ms"]
            )
        case "leases":
            return decode_leases(value)
        case "schedule":
            return decode_schedule(value)
        case "configuration":
            return decode_configuration(value)
        case "claims" | "pruning":
            return _pruning(kind, value)
        case "findings":
            return FindingsEntry(findings=tuple(Finding(**item) for item in value["findings"]))
        case "label":
            return LabelEntry(**value)
        case _:
            raise ValueError(f"a payload of type {wire.quote(envelope.payload_type)} is not known to this version")


def _pruning(kind: str, value: dict[str, Any]) -> ClaimsEntry | PruningEntry:
    if kind == "claims":
        return ClaimsEntry(claims=tuple(Claim(**item) for item in value["claims"]))
    return PruningEntry(**(value | {"what": Pruned(value["what"])}))


def _entries(values: Sequence[dict[str, Any]]) -> tuple[Entry, ...]:
    return tuple(Entry(**value) for value in values)


def accepted_of(leaf: Leaf, envelope_digest: str) -> Accepted:
    """Return the logged reading as the ledger takes it; `envelope_digest` comes from the index."""
    try:
        envelope = open_envelope(leaf.data)
        if envelope.payload_type != PAYLOAD_TYPE:
            raise StorageError(f"log: entry {leaf.index} is not a reading, and the index says so: rebuild the ledger")
        # The log holds what intake has checked; `gpuledger log check` checks it again, signatures and form and all.
        reading = decode_known(envelope.payload)
        return Accepted(digest=envelope_digest, reading=reading, workloads=workloads_of(leaf.beside, reading))
    except (ReadingError, SealError) as exc:
        raise StorageError(f"log: entry {leaf.index} is not legible: {exc}") from exc


def workloads_of(blob: bytes | None, reading: Reading) -> tuple[WorkloadTime, ...]:
    """Return the workloads of a reading; none where it came without the blob. Raises ReadingError on a mismatch."""
    return () if blob is None else decode_known_workloads(blob, reading)
