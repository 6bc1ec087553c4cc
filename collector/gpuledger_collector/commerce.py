# SPDX-License-Identifier: Apache-2.0
"""The commercial axis as rows: what each lease and kind had of a pool in one hour; they sum to installed time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from gpuledger.cells import HOUR_MS, floor_to
from gpuledger.states import State
from gpuledger_collector.leases import (
    CellShares,
    Commercial,
    Conflict,
    LeaseBook,
    Several,
    Share,
    Sum,
    undeclared,
)
from gpuledger_collector.roster import Entry

_Name = TypeVar("_Name", State, Several)
_Key = tuple[int, str | None, str, Commercial, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommerceRow:
    """GPU time of one pool in one hour under one lease, or under none, with the bounds of each state in it.

    `site` is None where the pool is leased as a whole. `tenant` is the digest of a name.
    """

    hour_ms: int
    site: str | None
    pool: str
    kind: Commercial
    lease: str | None
    tenant: str | None
    slice_ms: int
    low_slice_ms: Mapping[State, int] = field(default_factory=dict)
    high_slice_ms: Mapping[State, int] = field(default_factory=dict)
    low_of_slice_ms: Mapping[Several, int] = field(default_factory=dict)
    high_of_slice_ms: Mapping[Several, int] = field(default_factory=dict)


class Commerce:
    """Shares every cell of a span by the lease book; without one all time is undeclared."""

    def __init__(self, book: LeaseBook | None) -> None:
        self._book = book
        self._tenants = {} if book is None else {lease.name: lease.tenant for lease in book.leases}
        self._cells: dict[int, CellShares] = {}
        self._sums: dict[_Key, Sum] = {}
        self._undeclared: dict[tuple[int, str, str], dict[State, int]] = {}

    def is_leased(self, entry: Entry, cell_ms: int) -> bool:
        """Return whether a lease that names the GPU or its node runs throughout the cell."""
        return self._book is not None and self._book.is_leased(entry, cell_ms)

    def add(self, cell_ms: int, entry: Entry, states: Mapping[State, int]) -> None:
        """Add one installed GPU's cell."""
        if self._book is None:
            key = floor_to(cell_ms, HOUR_MS), entry.site, entry.pool
            total = self._undeclared.get(key)
            if total is None:
                total = self._undeclared[key] = {}
            for state, amount in states.items():
                total[state] = total.get(state, 0) + amount
            return
        shares = self._cells.get(cell_ms)
        if shares is None:
            shares = self._cells[cell_ms] = CellShares(self._book, cell_ms)
        shares.add(entry, states)

    def close(self) -> tuple[list[CommerceRow], list[tuple[int, Conflict]]]:
        """Return the rows in canonical order, and (cell, conflict) for what cannot be."""
        conflicts: list[tuple[int, Conflict]] = []
        for (hour_ms, site, pool), states in self._undeclared.items():
            self._take(hour_ms, (undeclared(site, pool, states),))
        for cell_ms in sorted(self._cells):
            shares, found = self._cells[cell_ms].close()
            conflicts += [(cell_ms, conflict) for conflict in found]
            self._take(floor_to(cell_ms, HOUR_MS), shares)
        rows = [
            CommerceRow(
                hour_ms=hour_ms,
                site=site,
                pool=pool,
                kind=kind,
                lease=lease,
                tenant=None if lease is None else self._tenants[lease],
                slice_ms=total.slice_ms,
                low_slice_ms=_present(State, total.low),
                high_slice_ms=_present(State, total.high),
                low_of_slice_ms=_present(Several, total.low_of),
                high_of_slice_ms=_present(Several, total.high_of),
            )
            for (hour_ms, site, pool, kind, lease), total in self._sums.items()
        ]
        return sorted(rows, key=order), conflicts

    def _take(self, hour_ms: int, shares: Iterable[Share]) -> None:
        for share in shares:
            key = (hour_ms, share.site, share.pool, share.kind, share.lease)
            if key not in self._sums:
                self._sums[key] = Sum()
            self._sums[key].add(share)


def order(row: CommerceRow) -> tuple[int, str, str, str, str]:
    """Return the key of the canonical order."""
    return row.hour_ms, row.site or "", row.pool, row.kind.value, row.lease or ""


def _present(keys: type[_Name], amounts: Mapping[_Name, int]) -> dict[_Name, int]:
    """Return what is more than nothing, in the order in which it is defined."""
    return {key: amounts[key] for key in keys if amounts.get(key, 0) > 0}
