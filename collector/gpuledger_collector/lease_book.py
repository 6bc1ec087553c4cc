# SPDX-License-Identifier: Apache-2.0
"""The lease book in force: what its file says, brought into the log when it changes; its history is only added to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

from gpuledger.errors import ConfigurationError
from gpuledger_collector.beside import Beside
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.declared_files import signature_of
from gpuledger_collector.given_entries import pack_leases
from gpuledger_collector.lease_files import load_leases
from gpuledger_collector.leases import Lease, LeaseBook
from gpuledger_collector.ledger import Finding
from gpuledger_collector.names import Namer
from gpuledger_collector.roster import Entry

logger = logging.getLogger(__name__)


class LeaseRecord:
    """Keeps the logged lease book equal to the file; without a file what the log has stands.

    A file that turns bad while the collector runs changes nothing: the last good one stands, and `error` says why.
    """

    def __init__(self, catalog: Catalog, path: Path | None, namer: Namer) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._path = path
        self._namer = namer
        if path is not None:
            load_leases(path)  # What is wrong with it is said at the start; that its GPUs are in the roster, later.
        self._files: tuple[Path, ...] = ()
        self._signature: object = None
        self._entries: tuple[Entry, ...] = ()
        self.error: str | None = None

    def sync(self, now_ms: int) -> bool:
        """Log what changed in the book; return whether anything did. The roster must be in force already."""
        if self._path is None:
            return False
        roster = self._store.roster()
        # A discovered fleet may not have reported yet: only a declared roster knows what there is not.
        entries = roster.entries if roster.is_declared else ()
        book = self._load(self._path, entries)
        if book is None:
            return False
        before = self._store.leases()
        after = [replace(lease, tenant=self._namer.digest(lease.tenant)) for lease in book.leases]
        openings = Beside(openings=self._namer.take_openings())
        changes = _Changes(before, after, book.from_ms)
        if changes.is_none:
            self._store.put_besides([openings])
            return False
        found = [] if before is None else list(_rewritten(before, changes, now_ms))
        fresh = [finding for finding in found if not self._store.has_finding(finding)]
        entries_now = list(pack_leases(book.from_ms, changes.removed, changes.added))
        self._catalog.commit(entries_now, now_ms=now_ms, findings=fresh, besides=[openings])
        logger.info("leases_changed", extra={"leases": len(after), "changes": len(changes.added)})
        return True

    def _load(self, path: Path, entries: tuple[Entry, ...]) -> LeaseBook | None:
        """Return the book if file or roster changed since it was last loaded, and it is good."""
        if self._signature == (signature_of(self._files) if self._files else ()) and entries == self._entries:
            return None
        try:
            declared = load_leases(path, entries)
        except ConfigurationError as exc:
            if self.error != str(exc):
                logger.error("leases_unusable", extra={"why": str(exc)})  # noqa: TRY400 - the sentence says it all
            self.error = str(exc)
            return None
        self._files, self._entries, self.error = declared.files, entries, None
        self._signature = signature_of(declared.files)
        return declared.book


class _Changes:
    """What turns the logged book into the file's; a lease that changed leaves and comes again."""

    def __init__(self, before: LeaseBook | None, after: Sequence[Lease], from_ms: int) -> None:
        self.old = {} if before is None else {lease.name: lease for lease in before.leases}
        self.new = {lease.name: lease for lease in after}
        differing = {name for name in self.old.keys() & self.new.keys() if self.old[name] != self.new[name]}
        self.removed = sorted((self.old.keys() - self.new.keys()) | differing)
        self.added = [self.new[name] for name in sorted((self.new.keys() - self.old.keys()) | differing)]
        is_begun_so = before is not None and before.from_ms == from_ms
        self.from_ms = from_ms
        self.is_none = is_begun_so and not self.removed and not self.added


def _rewritten(before: LeaseBook, changes: _Changes, now_ms: int) -> Iterator[Finding]:
    """Yield a finding for each change of what was so before now: figures that somebody holds may change with it."""
    if before.from_ms != changes.from_ms and min(before.from_ms, changes.from_ms) < now_ms:
        yield _finding(
            "the lease book", f"is complete from {_utc(changes.from_ms)} on, not {_utc(before.from_ms)}", now_ms
        )
    for name in sorted({*changes.removed, *(lease.name for lease in changes.added)}):
        old, new = changes.old.get(name), changes.new.get(name)
        if new is None and old is not None:
            if _begin(old) < now_ms:
                yield _finding(name, "left the lease book without an end: its past time counts as not leased", now_ms)
        elif old is None and new is not None:
            if _begin(new) < now_ms:
                yield _finding(name, f"was entered after it began, {_utc(_begin(new))}", now_ms)
        elif old is not None and new is not None and (what := _past_changes(old, new, now_ms)):
            yield _finding(name, f"was changed for time that is over: {', '.join(what)}", now_ms)


def _past_changes(old: Lease, new: Lease, now_ms: int) -> list[str]:
    """Return the names of what changed and bears on time before now."""
    differing = [field.name for field in fields(Lease) if getattr(old, field.name) != getattr(new, field.name)]
    found = []
    for name in differing:
        if name == "to_ms":
            ends = [end for end in (old.to_ms, new.to_ms) if end is not None]
            is_past = min(ends) < now_ms
        else:
            is_past = min(_begin(old), _begin(new)) < now_ms
        if is_past:
            found.append(name.removesuffix("_ms"))
    return found


def _begin(lease: Lease) -> int:
    return lease.from_ms if lease.signed_ms is None else lease.signed_ms


def _finding(name: str, what: str, now_ms: int) -> Finding:
    return Finding(at_ms=now_ms, kind="lease_rewritten", subject=name, text=f"{name} {what}")


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
