# SPDX-License-Identifier: Apache-2.0
"""Workloads as people ask for them: which there are, and all about one. For the command, the page and the interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger_collector import workload_rows
from gpuledger_collector.classify import words
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.signs import HourSigns, from_bytes
from gpuledger_collector.classify.verdict import Verdict
from gpuledger_collector.workload_book import WorkloadBook
from gpuledger_collector.workload_rows import Rows, WorkloadRow

SLICE_MS_PER_GPU_HOUR = 7 * HOUR_MS
LIST_MAX = 1_000
"""Workloads in one list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTime:
    """Time of a workload while it was taken for one kind, as it was said at the time."""

    kind: Kind
    busy_slice_ms: int
    held_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpan:
    """So many GPUs at so many nodes in each hour of [start_ms, end_ms)."""

    start_ms: int
    end_ms: int
    nodes: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadView:
    """All about one run of a workload. `history` has when it was asserted to be what, `labels` when it was labelled."""

    row: WorkloadRow
    owner: str | None
    """Its name where that is open, else the digest."""
    verdict: Verdict
    nodes: tuple[str, ...]
    history: tuple[tuple[int, Kind], ...]
    labels: tuple[tuple[int, Kind | None], ...]
    times: tuple[KindTime, ...]
    spans: tuple[GpuSpan, ...]


def listed(store: Rows, *, kind: Kind | None = None, since_ms: int = 0, limit: int = LIST_MAX) -> list[WorkloadRow]:
    """Return the workloads that ran since, of one kind or of all, those with most GPU time first."""
    order = "ORDER BY busy_slice_ms + held_slice_ms DESC, id LIMIT ?"
    if kind is None:
        return workload_rows.runs(store, f"WHERE end_ms > ? {order}", since_ms, limit)
    return workload_rows.runs(store, f"WHERE end_ms > ? AND kind = ? {order}", since_ms, kind.value, limit)


def describe(store: Rows, book: WorkloadBook, workload: str, names: Mapping[str, str]) -> WorkloadView | None:
    """Return all about one run, by its id; None where there is none. `names` are open names by digest."""
    rows = workload_rows.runs(store, "WHERE id = ?", workload, with_life=True)
    if not rows or rows[0].life is None:
        return None
    row, life = rows[0], rows[0].life
    sql = (
        "SELECT hour_ms, node, digest, body FROM sign WHERE base = ? AND hour_ms > ? AND hour_ms < ?"
        " ORDER BY hour_ms, node, digest"
    )
    signs = [from_bytes(*found) for found in store.rows(sql, row.base, row.first_ms - HOUR_MS, row.end_ms)]
    return WorkloadView(
        row=row,
        owner=None if row.owner is None else names.get(row.owner, row.owner),
        verdict=book.verdict(row),
        nodes=tuple(life.nodes),
        history=tuple(life.changes),
        labels=tuple(workload_rows.label_history(store, workload)),
        times=tuple(_times(signs, row, life.changes)),
        spans=tuple(_spans(signs, row)),
    )


def _times(signs: Iterable[HourSigns], row: WorkloadRow, changes: Sequence[tuple[int, Kind]]) -> Iterator[KindTime]:
    sums: dict[Kind, list[int]] = {}
    for cell in sorted(cell for one in signs for cell in one.cells if row.first_ms <= cell.cell_ms < row.end_ms):
        kind = Kind.UNCLASSIFIED
        for at_ms, changed in changes:
            if at_ms > cell.cell_ms + CELL_MS:
                break
            kind = changed
        amounts = sums.setdefault(kind, [0, 0])
        amounts[0] += cell.busy_slice_ms
        amounts[1] += cell.held_slice_ms
    for kind in Kind:
        if kind in sums:
            yield KindTime(kind=kind, busy_slice_ms=sums[kind][0], held_slice_ms=sums[kind][1])


def _spans(signs: Iterable[HourSigns], row: WorkloadRow) -> list[GpuSpan]:
    found: list[GpuSpan] = []
    for hour_ms, hour in groupby(signs, key=lambda one: one.hour_ms):
        inside = [one for one in hour if any(row.first_ms <= cell.cell_ms < row.end_ms for cell in one.cells)]
        nodes, gpus = len({one.node for one in inside}), sum(max(cell.gpus for cell in one.cells) for one in inside)
        last = found[-1] if found else None
        if last is not None and (last.end_ms, last.nodes, last.gpus) == (hour_ms, nodes, gpus):
            found[-1] = GpuSpan(start_ms=last.start_ms, end_ms=hour_ms + HOUR_MS, nodes=nodes, gpus=gpus)
        elif inside:
            found.append(GpuSpan(start_ms=hour_ms, end_ms=hour_ms + HOUR_MS, nodes=nodes, gpus=gpus))
    return found


# ---------------------------------------------------------------------------------------------- as JSON takes it


def row_to_plain(row: WorkloadRow) -> dict[str, Any]:
    """Return one line of a list."""
    return {
        "workload": row.id,
        "kind": row.kind.value,
        "lean": None if row.lean is None else row.lean.value,
        "calibration": row.calibration,
        "tags": list(row.tags),
        "site": row.site,
        "source": row.source,
        "first_ms": row.first_ms,
        "end_ms": row.end_ms,
        "gpus_max": row.gpus_max,
        "busy_slice_ms": row.busy_slice_ms,
        "held_slice_ms": row.held_slice_ms,
    }


def to_plain(view: WorkloadView) -> dict[str, Any]:
    """Return all about a workload, with its evidence in words."""
    verdict = view.verdict
    return row_to_plain(view.row) | {
        "owner": view.owner,
        "nodes": list(view.nodes),
        "probability": verdict.probability,
        "sentence": words.headline(verdict),
        "pattern": verdict.pattern,
        "evidence": [item._asdict() | {"text": words.sentence(item)} for item in verdict.items],
        "confirmed": None if verdict.confirmed is None else dict(verdict.confirmed.kinds),
        "suspected": [asdict(one) for one in verdict.suspected],
        "findings": [{"kind": kind, "text": text} for kind, text in verdict.remarks],
        "history": [{"at_ms": at_ms, "kind": kind} for at_ms, kind in view.history],
        "labels": [{"at_ms": at_ms, "kind": kind} for at_ms, kind in view.labels],
        "times": [asdict(one) for one in view.times],
        "gpus": [asdict(one) for one in view.spans],
    }
