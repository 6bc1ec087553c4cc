# SPDX-License-Identifier: Apache-2.0
"""The ledger's tables: their columns, the order of their rows, and what of the hours adds up. Pure."""

from __future__ import annotations

from gpuledger_collector import columns
from gpuledger_collector.columns import ColumnKind
from gpuledger_collector.side_tables import SIDE_TABLES

TABLES: dict[str, dict[str, ColumnKind]] = {
    "hours": columns.HOURS,
    "holders": columns.HOLDERS,
    "findings": columns.FINDINGS,
    **{name: dict(table.columns) for name, table in SIDE_TABLES.items()},
}
ORDER: dict[str, tuple[str, ...]] = {
    "hours": ("hour_ms", "gpu", "node"),
    "holders": ("hour_ms", "gpu", "workload", "user"),
    "findings": ("at_ms", "kind", "subject", "text"),
    **{name: table.order for name, table in SIDE_TABLES.items()},
}
SUMMED = (
    *columns.STATES,
    *columns.BINS,
    "active_ns",
    *columns.ENERGY,
    "declared_uncovered_slice_ms",
    "active_known_ms",
    "hang_suspicion_ms",
    *columns.TAGS,
)
