# SPDX-License-Identifier: Apache-2.0
"""Enrolment in force: what the file of keys says, brought into the log when it changes.

Without a file a key counts from first sight on. With one only the keys in it do, from the first sync on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from gpuledger.errors import ConfigurationError
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.declared_files import signature_of
from gpuledger_collector.enrolment_files import DeclaredKey, load_enrolment
from gpuledger_collector.enrolments import Enrolled
from gpuledger_collector.entries import DECLARED, EnrolmentEntry, RevocationEntry

logger = logging.getLogger(__name__)


class EnrolmentBook:
    """Keeps the logged enrolments equal to the file.

    A file that turns bad while the collector runs changes nothing: the last good one stands, and `error` says why.
    """

    def __init__(self, catalog: Catalog, path: Path | None) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._path = path
        self._keys: tuple[DeclaredKey, ...] = () if path is None else load_enrolment(path)
        self._signature = () if path is None else signature_of([path])
        self._is_synced = False
        self.error: str | None = None

    @property
    def is_declared(self) -> bool:
        """Return whether only the keys of a file count."""
        return self._path is not None

    def sync(self, now_ms: int) -> bool:
        """Log what changed in the file; return whether anything did."""
        if self._path is None or not (self._reload(self._path) or not self._is_synced):
            return False
        changes = list(self._changes(now_ms))
        if changes:
            self._catalog.commit(changes, now_ms=now_ms)
            revoked = sum(isinstance(change, RevocationEntry) for change in changes)
            logger.info("enrolment_changed", extra={"keys": len(self._keys), "revoked": revoked})
        self._is_synced = True
        return bool(changes)

    def _reload(self, path: Path) -> bool:
        signature = signature_of([path])
        if signature == self._signature:
            return False
        try:
            self._keys = load_enrolment(path)
        except ConfigurationError as exc:
            if self.error != str(exc):
                logger.error("enrolment_unusable", extra={"why": str(exc)})  # noqa: TRY400 - the sentence says it all
            self.error = str(exc)
            return False
        self._signature = signature
        self.error = None
        return True

    def _changes(self, now_ms: int) -> Iterator[EnrolmentEntry | RevocationEntry]:
        held = {known.node_id: known for known in self._store.enrolments()}
        for key in self._keys:
            known = held.pop(key.node_id, None)
            revoked_ms = None if known is None else known.revoked_ms
            if not _is_enrolled_so(known, key):
                yield EnrolmentEntry(
                    node_id=key.node_id,
                    public_key=key.public_key,
                    node=key.node,
                    how=DECLARED,
                    at_ms=now_ms,
                    from_ms=key.from_ms,
                    to_ms=key.to_ms,
                )
                revoked_ms = None
            if key.revoked_ms is not None and key.revoked_ms != revoked_ms:
                yield RevocationEntry(node_id=key.node_id, node=key.node, from_ms=key.revoked_ms, at_ms=now_ms)
        for known in held.values():
            # Not in the file, or not any more: what it sealed until now stands.
            if known.revoked_ms is None:
                yield RevocationEntry(node_id=known.node_id, node=known.node, from_ms=now_ms, at_ms=now_ms)


def _is_enrolled_so(known: Enrolled | None, key: DeclaredKey) -> bool:
    """Return whether the log has the key as the file says; an earlier or lifted revocation is enrolled anew."""
    return (
        known is not None
        and (known.node, known.is_declared, known.from_ms, known.to_ms) == (key.node, True, key.from_ms, key.to_ms)
        and known.revoked_ms in (None, key.revoked_ms)
    )
