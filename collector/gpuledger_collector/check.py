# SPDX-License-Identifier: Apache-2.0
"""`gpuledger log check`: everything in the log proved again, from its first byte, trusting no index.

Frames by their checksums, readings by their signature, their laws and their workloads' digest, each node's readings by
the hash of the one before. A failure means that the log is not what was taken in; a finding is worth a look.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gpuledger.errors import GpuledgerError, StorageError
from gpuledger.reading import GENESIS, PAYLOAD_TYPE, Reading, decode, decode_workloads, digest
from gpuledger.sealing import node_id_of, open_envelope, verify_envelope
from gpuledger_collector.entries import ClockEntry, EnrolmentEntry, decode_entry, split_reading
from gpuledger_collector.log import Frame, Kind, LogReader

SHOWN_MAX = 100
"""Failures and findings kept word by word; beyond that they are only counted."""


@dataclass(slots=True)
class Checked:
    """What a check found. `entries` counts by kind; the log holds if there is no failure."""

    entries: Counter[str] = field(default_factory=Counter)
    signatures: int = 0
    repeated: int = 0
    failure_count: int = 0
    failures: list[str] = field(default_factory=list)
    finding_count: int = 0
    findings: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        self.failure_count += 1
        if len(self.failures) < SHOWN_MAX:
            self.failures.append(text)

    def find(self, text: str) -> None:
        self.finding_count += 1
        if len(self.findings) < SHOWN_MAX:
            self.findings.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """What the check of the chains needs of one reading."""

    node: str
    node_id: str
    sequence: int
    digest: str
    previous: str
    offset: int


def check_log(log: LogReader) -> Checked:
    """Return what a full pass over the log shows; a damaged file is a failure, not an exception."""
    checked = Checked()
    keys: dict[str, bytes] = {}
    links: dict[str, _Link] = {}
    last = log.first_offset
    kind = Kind.CLOCK
    try:
        for frame in log.iterate():
            checked.entries[frame.kind.name.lower()] += 1
            last, kind = frame.end, frame.kind
            if frame.kind is Kind.READING:
                _check_reading(frame, keys, links, checked)
            else:
                _check_document(frame, keys, checked)
    except StorageError as exc:
        checked.fail(str(exc))
    else:
        if kind is not Kind.CLOCK or last < log.size():
            checked.find(f"the last batch, to offset {last}, is not closed: a collector is at work or crashed")
    _check_chains(links, checked)
    return checked


def _check_document(frame: Frame, keys: dict[str, bytes], checked: Checked) -> None:
    try:
        entry = decode_entry(frame)
    except StorageError as exc:
        checked.fail(str(exc))
        return
    if isinstance(entry, EnrolmentEntry):
        if node_id_of(entry.public_key) != entry.node_id:
            checked.fail(f"offset {frame.offset}: the enrolled key of {entry.node} does not have the node id given")
        keys[entry.node_id] = entry.public_key
    elif isinstance(entry, ClockEntry):
        for found in entry.findings:
            checked.find(f"at intake, {found.kind}: {found.text}")


def _check_reading(frame: Frame, keys: dict[str, bytes], links: dict[str, _Link], checked: Checked) -> None:
    where = f"offset {frame.offset}"
    try:
        envelope, blob = split_reading(frame.payload)
        reading = decode(open_envelope(envelope).payload)
        where = f"offset {frame.offset}, reading {reading.sequence} of {reading.node_name}"
        key = keys.get(reading.node_id)
        if key is None:
            checked.fail(f"{where}: its key was not enrolled before")
            return
        verify_envelope(envelope, key, PAYLOAD_TYPE)
        checked.signatures += 1
        if blob is not None:
            decode_workloads(blob, reading)
    except (GpuledgerError, ValueError) as exc:
        checked.fail(f"{where}: {exc}")
        return
    link = _link_of(reading, digest(envelope), frame.offset)
    if link.digest in links:
        checked.repeated += 1
    links[link.digest] = link


def _link_of(reading: Reading, known: str, offset: int) -> _Link:
    return _Link(
        node=reading.node_name,
        node_id=reading.node_id,
        sequence=reading.sequence,
        digest=known,
        previous=reading.previous,
        offset=offset,
    )


def _check_chains(links: dict[str, _Link], checked: Checked) -> None:
    """Check each reading's hash of its predecessor; order in the log does not matter."""
    held: dict[tuple[str, int], set[str]] = {}
    for link in links.values():
        held.setdefault((link.node_id, link.sequence), set()).add(link.digest)
    begun: Counter[str] = Counter()
    for link in links.values():
        where = f"offset {link.offset}, reading {link.sequence} of {link.node}"
        before = held.get((link.node_id, link.sequence - 1))
        if link.previous == GENESIS:
            begun[link.node_id] += 1
            if begun[link.node_id] > 1:
                checked.find(f"{where}: its journal starts anew")
        elif before is None:
            checked.find(f"{where}: the reading before it is not in the log")
        elif link.previous not in before:
            checked.fail(f"{where}: does not continue the reading {link.sequence - 1} in the log")
    for (_, sequence), digests in held.items():
        if len(digests) > 1:
            names = sorted({links[one].node for one in digests})
            checked.find(f"{len(digests)} readings {sequence} of {', '.join(names)} under one key")
