# SPDX-License-Identifier: Apache-2.0
"""The roster in force: what the file declares, or what readings made known, brought into the log when it changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from gpuledger.errors import ConfigurationError
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.declared_files import signature_of
from gpuledger_collector.entries import DeclarationEntry, RosterEntry, pack_roster
from gpuledger_collector.ledger import Finding
from gpuledger_collector.roster import Entry, Roster, Window, complete, discover
from gpuledger_collector.roster_files import Declared, DeclaredWindow, load_roster

logger = logging.getLogger(__name__)


class RosterBook:
    """Keeps the logged roster equal to the file, or without one to discovery.

    A file that turns bad while the collector runs changes nothing: the last good one stands, and `error` says why.
    """

    def __init__(self, catalog: Catalog, path: Path | None) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._path = path
        self._declared = Declared(entries=()) if path is None else load_roster(path)
        self._signature = signature_of(self._declared.files)
        self._synced: object = None
        self.error: str | None = None

    def sync(self, now_ms: int) -> bool:
        """Log what changed in the roster and its windows; return whether anything did."""
        self._reload()
        state = (self._declared, self._store.claims_revision, self._store.places())
        if state == self._synced:
            return False
        before = self._store.roster()
        after = self._roster_now()
        changes: list[RosterEntry | DeclarationEntry] = [*_roster_change(before, after)]
        changes += self._window_changes(now_ms)
        if changes:
            findings = [*_shrinkage(before, after, now_ms), *_late_declarations(changes)]
            fresh = [found for found in findings if not self._store.has_finding(found)]
            self._catalog.commit(changes, now_ms=now_ms, findings=fresh)
            facts = {"gpus": len(after.entries), "is_declared": after.is_declared, "changes": len(changes)}
            logger.info("roster_changed", extra=facts)
        self._synced = state
        return bool(changes)

    def _reload(self) -> None:
        if self._path is None:
            return
        signature = signature_of(self._declared.files)
        if signature == self._signature:
            return
        try:
            self._declared = load_roster(self._path)
        except ConfigurationError as exc:
            if self.error != str(exc):
                logger.error("roster_unusable", extra={"why": str(exc)})  # noqa: TRY400 - the sentence says it all
            self.error = str(exc)
            return
        self._signature = signature_of(self._declared.files)
        self.error = None

    def _roster_now(self) -> Roster:
        claims = self._store.claims()
        if self._declared.entries:
            return complete(Roster(entries=self._declared.entries, is_declared=True), claims)
        return discover(claims, self._store.places(), retired={})

    def _window_changes(self, now_ms: int) -> list[DeclarationEntry]:
        standing = {
            _as_declared(entry.window): entry.window
            for entry in self._store.declarations()
            if entry.withdrawn_ms is None
        }
        wanted = dict.fromkeys(self._declared.windows)
        changes = [DeclarationEntry(window=_first_seen(window, now_ms)) for window in wanted if window not in standing]
        # One that is over stays: clearing old windows out of the file does not change the past.
        changes += [
            DeclarationEntry(window=window, withdrawn_ms=now_ms)
            for declared, window in standing.items()
            if declared not in wanted and window.end_ms > now_ms
        ]
        return changes


def _as_declared(window: Window) -> DeclaredWindow:
    return DeclaredWindow(
        kind=window.kind, start_ms=window.start_ms, end_ms=window.end_ms, node=window.node, gpu=window.gpu
    )


def _first_seen(window: DeclaredWindow, now_ms: int) -> Window:
    return Window(
        kind=window.kind,
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        node=window.node,
        gpu=window.gpu,
        declared_ms=now_ms,
    )


def _roster_change(before: Roster, after: Roster) -> list[RosterEntry]:
    """Return the entries of the log that turn one roster into the other; none where they are the same."""
    old, new = set(before.entries), set(after.entries)
    removed, added = sorted(old - new, key=_order), sorted(new - old, key=_order)
    is_declared = after.is_declared
    changes = list(pack_roster(is_declared=is_declared, removed=removed, added=added))
    if not changes and before.is_declared != is_declared:
        changes.append(RosterEntry(is_declared=is_declared))
    return changes


def _order(entry: Entry) -> tuple[str, int, str]:
    return entry.gpu, entry.from_ms, entry.node


def _shrinkage(before: Roster, after: Roster, now_ms: int) -> list[Finding]:
    """Return a finding for each GPU that was declared and is now gone with its past."""
    if not before.is_declared:
        return []
    left = {entry.gpu for entry in after.entries}
    return [
        Finding(
            at_ms=now_ms,
            kind="roster_shrunk",
            subject=entry.gpu,
            text=f"{entry.gpu} at {entry.node} left the roster without an end: its past time is in no figure any more",
        )
        for entry in before.entries
        if entry.gpu not in left and entry.from_ms < now_ms
    ]


def _late_declarations(changes: Sequence[RosterEntry | DeclarationEntry]) -> list[Finding]:
    """Return a finding for each window that was first seen after it began: it counts for nothing."""
    found = []
    for change in changes:
        if isinstance(change, DeclarationEntry) and change.withdrawn_ms is None and not change.window.is_valid:
            window = change.window
            subject = str(window.node if window.gpu is None else window.gpu)
            late_s = (window.declared_ms - window.start_ms) // 1000
            text = f"{window.kind.value} of {subject} was declared {late_s} s after it began; it does not count"
            found.append(Finding(at_ms=window.start_ms, kind="late_declaration", subject=subject, text=text))
    return found
