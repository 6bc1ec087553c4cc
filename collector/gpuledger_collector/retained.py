# SPDX-License-Identifier: Apache-2.0
"""The store's part in retention: what was pruned of the log, up to where hours are final, what may be pruned next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from gpuledger_collector.indexed import Database
from gpuledger_collector.roster import Claim


@dataclass(frozen=True, slots=True)
class Retained:
    """Reads and writes through the store, whose transactions these are."""

    _rows: Callable[..., list[tuple[Any, ...]]]
    _writing: Callable[[], AbstractContextManager[Database]]

    def final_ms(self) -> int | None:
        """Return up to where the ledger's hours are final, since what they were made of is pruned; None: none is."""
        value = self._meta("final_ms")
        return None if value is None else int(value)

    def pruned(self, what: str) -> int:
        """Return of how many entries, from the first, something is pruned ("readings" or "workloads")."""
        value = self._meta(f"pruned_{what}")
        return 0 if value is None else int(value)

    def first_index(self, from_ms: int) -> int | None:
        """Return the place in the log of the first reading of a cell from `from_ms` on; None where there is none."""
        rows = self._rows("SELECT MIN(log_index) FROM reading WHERE cell_ms >= ?", from_ms)
        return None if rows[0][0] is None else int(rows[0][0])

    def unlogged_claims(self, before_ms: int) -> list[Claim]:
        """Return the claims of before a time that do not stand in the log by themselves as they are now."""
        rows = self._rows("SELECT * FROM claim WHERE first_ms < ? EXCEPT SELECT * FROM logged_claim", before_ms)
        return [
            Claim(gpu=gpu, node=node, first_ms=first_ms, serial=serial, model=model)
            for gpu, node, first_ms, serial, model in sorted(rows, key=lambda row: row[:2])
        ]

    def drop_findings(self, before_ms: int) -> int:
        """Forget the findings of before a time; return how many there were."""
        with self._writing() as db:
            return db.execute("DELETE FROM finding WHERE at_ms < ?", (before_ms,)).rowcount

    def _meta(self, key: str) -> Any:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else None
