# SPDX-License-Identifier: Apache-2.0
"""Verdicts on the largest workloads in words, by the digests under which nodes name them: for page and interface.

Made when the ledger was read, so that no request weighs evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuledger_collector import workload_rows
from gpuledger_collector.classify import words
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.workload_book import WorkloadBook
from gpuledger_collector.workload_rows import Rows

VERDICTS_MAX = 200
"""Workloads with most GPU time whose verdicts are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldVerdict:
    """What a workload is taken for, in one sentence, and why, a line each; `workload` is its id for the command."""

    workload: str
    kind: Kind
    sentence: str
    evidence: tuple[str, ...]


class Verdicts:
    """Reads and judges the runs that a store keeps."""

    def __init__(self, store: Rows, book: WorkloadBook) -> None:
        self._store, self._book = store, book

    def since(self, since_ms: int) -> Mapping[str, ToldVerdict]:
        """Return the verdicts on the last runs that ended after `since_ms`, by digest; raises StorageError."""
        rows = workload_rows.runs(
            self._store,
            "WHERE end_ms > ? ORDER BY busy_slice_ms + held_slice_ms DESC, id LIMIT ?",
            since_ms,
            VERDICTS_MAX,
            with_life=True,
        )
        last = {row.base: row for row in sorted(rows, key=lambda row: row.run)}
        if not last:
            return {}
        marks = ", ".join("?" * len(last))
        members = self._store.rows(f"SELECT digest, base FROM member WHERE base IN ({marks})", *last)  # noqa: S608 - marks
        told = {}
        for base, row in last.items():
            verdict = self._book.verdict(row)
            told[base] = ToldVerdict(
                workload=row.id,
                kind=verdict.kind,
                sentence=words.headline(verdict),
                evidence=tuple(words.evidence(verdict)),
            )
        return {digest: told[base] for digest, base in members}
