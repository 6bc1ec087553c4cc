# SPDX-License-Identifier: Apache-2.0
"""Once an hour: what the policy of retention takes out, and how much of the disk is used and will be."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger_collector.disk_use import DiskUse, disk_use
from gpuledger_collector.entries import Pruned
from gpuledger_collector.pruning import Pruner
from gpuledger_collector.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepFigures:
    """As of the last turn; `final_ms` is up to where hours are final, None while nothing was pruned."""

    disk: DiskUse | None = None
    pruned_entries: Mapping[str, int] = field(default_factory=dict)
    final_ms: int | None = None


class Upkeep:
    """Does both; `figures` may be read from any thread."""

    def __init__(self, state_dir: Path, pruner: Pruner, store: Store) -> None:
        self._state_dir, self._pruner, self._store = state_dir, pruner, store
        self._error: str | None = None
        self.figures = UpkeepFigures()

    def turn(self, now_ms: int) -> None:
        """Take one turn; what the disk refuses is logged, and tried again with the next."""
        try:
            self._pruner.run(now_ms)
            retained = self._store.retained
            self.figures = UpkeepFigures(
                disk=disk_use(self._state_dir, now_ms),
                pruned_entries={what.value: count for what in Pruned if (count := retained.pruned(what.value)) > 0},
                final_ms=retained.final_ms(),
            )
        except StorageError as exc:
            if self._error != str(exc):
                logger.error("upkeep_failed", extra={"why": str(exc)})  # noqa: TRY400 - the sentence says it all
            self._error = str(exc)
            return
        self._error = None
