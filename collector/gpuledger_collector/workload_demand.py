# SPDX-License-Identifier: Apache-2.0
"""Busy and held time by kind, read from a ledger and its verdicts: for reports, the page and the interface."""

from __future__ import annotations

from typing import Any, Protocol

from gpuledger.cells import HOUR_MS, ceil_to
from gpuledger.states import State
from gpuledger_collector.classify.demand import WEEK_MS, Demand, KindHour, complete, summarise, week_start
from gpuledger_collector.figures import LedgerReader
from gpuledger_collector.workload_rows import Rows, kind_hours

WEEKS = 4
"""Weeks that are compared, the last one included."""


class DemandReader(Protocol):
    """Tells what GPU time was used for."""

    def demand(self, start_ms: int, end_ms: int) -> Demand | None: ...


class LedgerDemand:
    """A ledger with the verdicts of its store; as verdicts stand now, whenever the hours were."""

    def __init__(self, reader: LedgerReader, store: Rows) -> None:
        self._reader = reader
        self._store = store

    def hours(self, start_ms: int, end_ms: int) -> list[KindHour]:
        """Return the hours of [start_ms, end_ms), on hour edges; they sum to the ledger's busy and held time.

        Raises ValueError where the ledger was written to meanwhile.
        """
        totals = {}
        for group in self._reader.sum_by(("hour_ms", "site"), start_ms, end_ms):
            states = group.account.state_slice_ms
            totals[int(group.key[0]), str(group.key[1])] = states.get(State.BUSY, 0), states.get(State.HELD, 0)
        sizes = {str(group.key[0]): group.gpus for group in self._reader.sum_by(("node",), start_ms, end_ms)}
        return complete(kind_hours(self._store, sizes, start_ms, end_ms), totals)

    def demand(self, start_ms: int, end_ms: int) -> Demand | None:
        """Return the demand of [start_ms, end_ms), with the weeks up to it; None while the ledger has none of it."""
        extent = self._reader.extent()
        if extent is None or extent[0] >= end_ms or extent[1] <= start_ms:
            return None
        first_ms = min(start_ms, week_start(end_ms - 1) - (WEEKS - 1) * WEEK_MS)
        edge_ms = ceil_to(min(end_ms, extent[1]), HOUR_MS)
        hours = self.hours(first_ms, edge_ms)
        earlier = [one for one in hours if one.hour_ms < start_ms]
        return summarise(hours, start_ms, end_ms, extent, earlier)


def to_plain(demand: Demand) -> dict[str, Any]:
    """Return the demand as JSON takes it: what the page and the interface show."""
    return {
        "start_ms": demand.start_ms,
        "end_ms": demand.end_ms,
        "kinds": [
            {
                "kind": one.kind.value,
                "busy_slice_ms": one.busy_slice_ms,
                "held_slice_ms": one.held_slice_ms,
                "whole_node_slice_ms": one.whole_slice_ms,
                "burstiness": one.burstiness,
            }
            for one in demand.kinds
        ],
        "weeks": [
            {"start_ms": week.start_ms, "is_whole": week.is_whole}
            | {f"{kind}_slice_ms": amount for kind, amount in week.slice_ms.items()}
            for week in demand.weeks
        ],
        "hours_of_week": [
            None if hour is None else {kind.value: amount for kind, amount in hour.items()}
            for hour in demand.hours_of_week
        ],
    }
