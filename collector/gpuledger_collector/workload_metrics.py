# SPDX-License-Identifier: Apache-2.0
"""Metrics of workloads: seconds by kind over settled cells, and what the largest live workloads are.

A cell is counted once, by what its workloads were taken for when it was settled; a later verdict changes the ledger's
sums by kind and never these. They have a mark of their own of how far was counted, in the transaction of the amounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.states import State
from gpuledger_collector import workload_rows
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.fleet import OTHER, CellFigures, Place
from gpuledger_collector.indexed import put_meta
from gpuledger_collector.ledger import CellRow
from gpuledger_collector.store import Store

INFO_MAX = 200
"""Workloads with a series of their own: those with most GPUs at once."""
_MARK = "kinds_settled_ms"
_STATES = (State.BUSY, State.HELD)

Key = tuple[str, str, str, str]
"""Site, model, kind, state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """One live workload."""

    workload: str
    site: str
    kind: str
    calibration: str
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFigures:
    """What metrics of workloads are read from, at one moment. `live` are how many there are by (site, kind)."""

    slice_ms: Mapping[Key, int] = field(default_factory=dict)
    infos: tuple[Info, ...] = ()
    live: Mapping[tuple[str, str], int] = field(default_factory=dict)


NO_WORKLOADS = WorkloadFigures()


def count_kinds(cell: CellFigures, rows: Sequence[CellRow], kinds: Mapping[tuple[str, str], Kind]) -> dict[Key, int]:
    """Return busy and held slice-ms of a cell by site, model, kind and state; they sum to those of its GPUs.

    `kinds` are by (node, digest); time that is told of nobody who has one is unclassified.
    """
    found: dict[Key, int] = {}
    for gpu, row in zip(cell.gpus, rows, strict=True):
        place = Place(gpu.entry.site, gpu.model)
        if place not in cell.places:
            place = OTHER
        for state in _STATES:
            left = row.account.state_slice_ms.get(state, 0)
            for kind, amount in _parts(row, state, kinds):
                key = (*place, kind.value, state.value)
                found[key] = found.get(key, 0) + amount
                left -= amount
            if left > 0:
                key = (*place, Kind.UNCLASSIFIED.value, state.value)
                found[key] = found.get(key, 0) + left
    return found


def _parts(row: CellRow, state: State, kinds: Mapping[tuple[str, str], Kind]) -> Iterator[tuple[Kind, int]]:
    for accepted, gpu in row.parts:
        for part in accepted.workloads:
            kind = kinds.get((row.entry.node, part.workload))
            if part.uuid == gpu.uuid and kind is not None:
                yield kind, part.state_slice_ms.get(state, 0)


def _from_zero(places: Iterable[tuple[str, str]]) -> dict[Key, int]:
    """Return 0 for all kinds and states of the places: a counter that begins with a value hides it from rate()."""
    return {(*place, kind.value, state.value): 0 for place in places for kind in Kind for state in _STATES}


class WorkloadMeter:
    """Counts settled cells by kind in a store, and says what is live."""

    def __init__(self, store: Store) -> None:
        self._store = store
        rows = store.rows("SELECT site, model, kind, state, slice_ms FROM kind_counter")
        counted: dict[Key, int] = {(site, model, kind, state): ms for site, model, kind, state, ms in rows}
        self._slice_ms = _from_zero({(site, model) for site, model, _, _ in counted}) | counted
        marks = store.rows("SELECT value FROM meta WHERE key = ?", _MARK)
        self._counted_to_ms = int(marks[0][0]) if marks else 0
        self._figures = WorkloadFigures(slice_ms=dict(self._slice_ms))

    @property
    def figures(self) -> WorkloadFigures:
        """What was counted, and what was live in the last cell."""
        return self._figures

    def settle(self, cell: CellFigures, rows: Sequence[CellRow]) -> None:
        """Count a settled cell, unless it was; `rows` are what the cell was made of, in their order."""
        if cell.cell_ms >= self._counted_to_ms:
            grown = count_kinds(cell, rows, workload_rows.live_kinds(self._store, cell.cell_ms))
            with self._store.writing() as db:
                db.executemany(
                    "INSERT INTO kind_counter VALUES (?, ?, ?, ?, ?) ON CONFLICT (site, model, kind, state)"
                    " DO UPDATE SET slice_ms = slice_ms + excluded.slice_ms",
                    [(*key, amount) for key, amount in grown.items()],
                )
                put_meta(db, _MARK, cell.cell_ms + CELL_MS)
            self._counted_to_ms = cell.cell_ms + CELL_MS
            # Of every place, whether or not anybody worked there: what begins later must not begin with a value.
            self._slice_ms = _from_zero(cell.places) | self._slice_ms
            for key, amount in grown.items():
                self._slice_ms[key] += amount
        self._figures = self._look(cell.cell_ms)

    def _look(self, cell_ms: int) -> WorkloadFigures:
        since_ms = cell_ms - HOUR_MS
        largest = workload_rows.runs(
            self._store, "WHERE end_ms > ? ORDER BY gpus_max DESC, id LIMIT ?", since_ms, INFO_MAX
        )
        counts = self._store.rows(
            "SELECT site, kind, COUNT(*) FROM workload WHERE end_ms > ? GROUP BY site, kind", since_ms
        )
        return WorkloadFigures(
            slice_ms=dict(self._slice_ms),
            infos=tuple(
                Info(
                    workload=row.id, site=row.site, kind=row.kind.value, calibration=row.calibration, gpus=row.gpus_max
                )
                for row in largest
            ),
            live={(site, kind): count for site, kind, count in counts},
        )
