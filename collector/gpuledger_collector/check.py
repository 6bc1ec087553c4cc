# SPDX-License-Identifier: Apache-2.0
"""`gpuledger log check`: everything in the log proved again, from its first byte, trusting no index.

What was pruned by policy is said, and is a failure where no entry of the log says that it was.

The tree by its hashes, the checkpoint and the log's own entries by its key, readings by their signature, their laws,
their workloads' digest and the checkpoint they carry, each node's readings by the hash of the one before. A failure
means that the log is not what was taken in; a finding is worth a look.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from gpuledger.checkpoint import note_of, read_checkpoint, verify_checkpoint
from gpuledger.errors import GpuledgerError, ReadingError, SealError, StorageError
from gpuledger.merkle import TILE_WIDTH
from gpuledger.reading import GENESIS, PAYLOAD_TYPE, Reading, decode, decode_workloads, digest
from gpuledger.sealing import Envelope, node_id_of, open_envelope, verify_envelope
from gpuledger_collector.check_pruning import PruningCheck
from gpuledger_collector.check_tree import TreeCheck, check_checkpoint, check_kept
from gpuledger_collector.closing import ClockEntry, digest_beside
from gpuledger_collector.enrolments import Enrolled
from gpuledger_collector.entries import (
    ClaimsEntry,
    DeclarationEntry,
    EnrolmentEntry,
    FindingsEntry,
    LabelEntry,
    OriginEntry,
    OwnEntry,
    PruningEntry,
    RevocationEntry,
    RosterEntry,
    decode_own,
    kind_of,
)
from gpuledger_collector.given_entries import ConfigurationEntry, LeasesEntry, ScheduleEntry
from gpuledger_collector.tiles import ENTRIES, Leaf, LogReader

SHOWN_MAX = 100
"""Failures and findings kept word by word; beyond that they are only counted."""


@dataclass(slots=True)
class Checked:
    """What a check found. `entries` counts by kind; the log holds if there is no failure."""

    size: int = 0
    root: bytes = b""
    keys: dict[str, bytes] = field(default_factory=dict)
    """The log's own keys by origin, in order; the last one signs."""
    entries: Counter[str] = field(default_factory=Counter)
    signatures: int = 0
    repeated: int = 0
    pruned: list[str] = field(default_factory=list)
    """What was taken out of the log by policy, and what is left of the proof of it."""
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
    index: int


def check_log(log: LogReader, kept: bytes | None = None) -> Checked:
    """Return what a full pass over the log shows; damage is a failure, not an exception.

    `kept` is a checkpoint that somebody kept, as a note: the log must continue it.
    """
    checked = Checked()
    try:
        checked.size = log.size
    except StorageError as exc:
        checked.fail(str(exc))
        return checked
    tree = TreeCheck(log, checked.fail)
    entries = _EntryCheck(log, tree, checked)
    for leaf in tree.entries(checked.size):
        entries.take(leaf)
    entries.finish()
    checked.root = tree.frontier.root()
    check_checkpoint(log, tree.frontier, checked.keys, checked.fail)
    if kept is not None and (why := check_kept(log, kept, checked.keys, checked.size)) is not None:
        checked.fail(why)
    return checked


class _EntryCheck:
    """Goes through the entries in order."""

    def __init__(self, log: LogReader, tree: TreeCheck, checked: Checked) -> None:
        self._log = log
        self._tree = tree
        self._checked = checked
        self._key = b""
        """The log's own, as the last origin entry names it."""
        self._ends: dict[str, int] = {}
        """Origin -> how many entries it signed, of those that were succeeded."""
        self._nodes: dict[str, Enrolled] = {}
        self._links: dict[str, _Link] = {}
        self._carried: dict[str, int] = {}
        """Checkpoint in one line -> index of the entry that carries it first."""
        self._beside: list[bytes] = []
        self._is_open = False
        self._next = 0
        """The entry that comes next where nothing is missing in between."""
        self._is_torn = False
        """Whether anything of the batch, or beside it, was pruned."""
        self._prunings = PruningCheck(log, checked)

    def take(self, leaf: Leaf) -> None:
        where = _where(self._log, leaf.index)
        self._is_open = True
        self._is_torn |= leaf.index != self._next or leaf.index // TILE_WIDTH in self._tree.pruned_workloads
        self._next = leaf.index + 1
        self._beside.append(leaf.beside or b"")
        try:
            envelope = open_envelope(leaf.data)
        except SealError as exc:
            self._checked.entries["illegible"] += 1
            self._checked.fail(f"{where}: {exc}")
            return
        self._checked.entries[kind_of(envelope.payload_type)] += 1
        if envelope.payload_type == PAYLOAD_TYPE:
            self._take_reading(leaf, envelope, where)
        else:
            self._take_own(leaf, envelope, where)

    def finish(self) -> None:
        if self._checked.size == 0:
            self._checked.find("the log is empty")
        elif self._is_open:
            self._checked.fail(f"{self._log.path}: the last entry, {self._checked.size - 1}, closes no batch")
        self._check_carried()
        self._prunings.finish(self._tree.pruned_entries, self._tree.pruned_workloads)
        _check_chains(self._links, self._log, self._checked, is_pruned=bool(self._tree.pruned_entries))

    # ------------------------------------------------------------------------------------------ the log's own

    def _take_own(self, leaf: Leaf, envelope: Envelope, where: str) -> None:
        try:
            entry = decode_own(envelope)
            # Before the entry that says whose log this is, no key verifies anything.
            key = entry.public_key if isinstance(entry, OriginEntry) else self._key
            verify_envelope(leaf.data, key, envelope.payload_type)
        except (ReadingError, SealError, ValueError, KeyError, TypeError) as exc:
            self._checked.fail(f"{where}: {exc}")
            return
        self._checked.signatures += 1
        if isinstance(entry, ClockEntry):
            self._close(entry, where)
            return
        self._apply(entry, where)

    def _close(self, clock: ClockEntry, where: str) -> None:
        tree = self._tree.frontier
        if (clock.size, clock.root) != (tree.size, tree.root().hex()):
            self._checked.fail(f"{where}: does not close the {tree.size} entries before it")
        *beside, _ = self._beside
        if not self._is_torn and clock.beside != digest_beside(beside):
            self._checked.fail(f"{where}: what lies beside its batch of {len(beside)} entries was changed")
        self._beside.clear()
        self._is_open = self._is_torn = False

    def _apply(self, entry: OwnEntry, where: str) -> None:
        match entry:
            case OriginEntry():
                if entry.origin in self._checked.keys:
                    self._checked.fail(f"{where}: names {entry.origin} as a new origin, and the log was that before")
                if entry.previous != next(reversed(self._checked.keys), None):
                    self._checked.fail(f"{where}: says that it continues {entry.previous}")
                if entry.previous is not None:
                    self._checked.find(f"{where}: {entry.origin} continues {entry.previous}{_seen(entry)}")
                if entry.previous is not None:
                    self._ends[entry.previous] = self._tree.frontier.size
                self._checked.keys[entry.origin] = self._key = entry.public_key
            case EnrolmentEntry():
                if node_id_of(entry.public_key) != entry.node_id:
                    self._checked.fail(f"{where}: the enrolled key of {entry.node} does not have the node id given")
                self._nodes[entry.node_id] = Enrolled(
                    node_id=entry.node_id,
                    public_key=entry.public_key,
                    node=entry.node,
                    how=entry.how,
                    at_ms=entry.at_ms,
                    from_ms=entry.from_ms,
                    to_ms=entry.to_ms,
                )
            case RevocationEntry():
                if (known := self._nodes.get(entry.node_id)) is None:
                    self._checked.fail(f"{where}: revokes a key of {entry.node} that was not enrolled before")
                else:
                    self._nodes[entry.node_id] = replace(known, revoked_ms=entry.from_ms)
            case FindingsEntry():
                for found in entry.findings:
                    self._checked.find(f"at intake, {found.kind}: {found.text}")
            case PruningEntry():
                self._prunings.take(entry, where)
            case (
                RosterEntry()
                | DeclarationEntry()
                | LeasesEntry()
                | ScheduleEntry()
                | ConfigurationEntry()
                | ClaimsEntry()
                | LabelEntry()
            ):
                pass

    # ------------------------------------------------------------------------------------------ readings

    def _take_reading(self, leaf: Leaf, envelope: Envelope, where: str) -> None:
        try:
            reading = decode(envelope.payload)
            where = f"{where}, reading {reading.sequence} of {reading.node_name}"
            known = self._nodes.get(reading.node_id)
            if known is None:
                self._checked.fail(f"{where}: its key was not enrolled before")
                return
            verify_envelope(leaf.data, known.public_key, PAYLOAD_TYPE)
            self._checked.signatures += 1
            if leaf.beside is not None:
                decode_workloads(leaf.beside, reading)
        except GpuledgerError as exc:
            self._checked.fail(f"{where}: {exc}")
            return
        if (why := known.why_not(reading.start_ms, reading.end_ms)) is not None:
            self._checked.find(f"{where}: does not count: {why}")
        if reading.checkpoint is not None:
            self._take_carried(reading.checkpoint, leaf.index, where)
        link = _link_of(reading, digest(leaf.data), leaf.index)
        if link.digest in self._links:
            self._checked.repeated += 1
        self._links[link.digest] = link

    def _take_carried(self, line: str, index: int, where: str) -> None:
        """Note the checkpoint in a reading, which was sealed after those entries and so must stand after them."""
        try:
            found = read_checkpoint(note_of(line))
        except SealError:
            return
        key = self._checked.keys.get(found.origin)
        end = self._ends.get(found.origin)
        if key is None:
            return  # Another collector's.
        if not _is_signed(line, key):
            self._checked.find(f"{where}: carries a checkpoint of this log that it never signed")
        elif end is not None and found.size > end:
            # That is why another origin was begun.
            self._checked.find(f"{where}: carries {found.size} entries of {found.origin}, which ends here at {end}")
        elif found.size > index:
            self._checked.fail(f"{where}: was sealed when the log had {found.size} entries, and stands before them")
        else:
            self._carried.setdefault(line, index)

    def _check_carried(self) -> None:
        for line, index in self._carried.items():
            where = _where(self._log, index)
            found = read_checkpoint(note_of(line))
            try:
                if self._log.root_at(found.size) != found.root:
                    self._checked.fail(f"{where}: carries a checkpoint that the first {found.size} entries do not fit")
            except StorageError as exc:
                self._checked.fail(f"{where}: {exc}")


def _where(log: LogReader, index: int) -> str:
    return f"{log.file(ENTRIES, index // TILE_WIDTH)}: entry {index}"


def _is_signed(line: str, public_key: bytes) -> bool:
    try:
        verify_checkpoint(note_of(line), public_key)
    except SealError:
        return False
    return True


def _seen(entry: OriginEntry) -> str:
    return "" if entry.seen is None else f", of which agents had been shown {entry.seen}"


def _link_of(reading: Reading, known: str, index: int) -> _Link:
    return _Link(
        node=reading.node_name,
        node_id=reading.node_id,
        sequence=reading.sequence,
        digest=known,
        previous=reading.previous,
        index=index,
    )


def _check_chains(links: dict[str, _Link], log: LogReader, checked: Checked, *, is_pruned: bool) -> None:
    """Check each reading's hash of its predecessor; order in the log does not matter."""
    held: dict[tuple[str, int], set[str]] = {}
    lowest: dict[str, int] = {}
    for link in links.values():
        held.setdefault((link.node_id, link.sequence), set()).add(link.digest)
        lowest[link.node_id] = min(link.sequence, lowest.get(link.node_id, link.sequence))
    begun: Counter[str] = Counter()
    for link in links.values():
        where = f"{_where(log, link.index)}, reading {link.sequence} of {link.node}"
        before = held.get((link.node_id, link.sequence - 1))
        if link.previous == GENESIS:
            begun[link.node_id] += 1
            if begun[link.node_id] > 1:
                checked.find(f"{where}: its journal starts anew")
        elif before is None:
            if is_pruned and link.sequence == lowest[link.node_id]:
                continue  # The one before it was pruned.
            checked.find(f"{where}: the reading before it is not in the log")
        elif link.previous not in before:
            checked.fail(f"{where}: does not continue the reading {link.sequence - 1} in the log")
    for (_, sequence), digests in held.items():
        if len(digests) > 1:
            names = sorted({links[one].node for one in digests})
            checked.find(f"{len(digests)} readings {sequence} of {', '.join(names)} under one key")
