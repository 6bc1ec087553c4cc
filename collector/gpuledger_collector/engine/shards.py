# SPDX-License-Identifier: Apache-2.0
"""Some GPUs over a span: what the engine says of them as rows of the ledger, and how finely they were sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gpuledger.accounting import Account
from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS, SLICES_PER_GPU, floor_to
from gpuledger.states import State
from gpuledger.workload_time import UNATTRIBUTED
from gpuledger_collector.engine.chunks import ChunkReader
from gpuledger_collector.engine.counter_chunks import CounterReader
from gpuledger_collector.engine.gauges import Cell, Notes
from gpuledger_collector.engine.inventory import Gpu, Stream
from gpuledger_collector.engine.readings import Names, accept
from gpuledger_collector.engine.sampling import Pace, edge_error_slice_ms
from gpuledger_collector.ledger import Finding, HolderRow, HourRow, Ledger, build
from gpuledger_collector.roster import Entry, Roster

Group = tuple[int, str, str]
"""Start of the UTC day, site, model."""
_ENDS = 2
"""Counters are exact but for the two ends of a day."""


@dataclass(slots=True)
class Tally:
    """How finely a group of GPUs was sampled."""

    points: int = 0
    """Samples, on the grid, of all its GPUs."""
    misplaced_slice_ms: int = 0
    """Most time that the changes of state that were seen may have misplaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What became of some GPUs."""

    ledger: Ledger
    notes: Notes
    tallies: Mapping[Group, Tally]


class Shards(Protocol):
    """Reads shards of a fleet; `first_ms` of each GPU (by identity) is kept by whoever reads all of them."""

    def gpus_at_once(self, pace: Pace, span_ms: int) -> int: ...

    async def read(self, gpus: Sequence[Gpu], paces: Mapping[Stream, Pace], start_ms: int, end_ms: int) -> Shard: ...


def add_tallies(into: dict[Group, Tally], tallies: Mapping[Group, Tally]) -> None:
    """Add up tallies by group."""
    for group, tally in tallies.items():
        sums = into.setdefault(group, Tally())
        sums.points += tally.points
        sums.misplaced_slice_ms += tally.misplaced_slice_ms


def _group(gpu: Gpu, time_ms: int) -> Group:
    return floor_to(time_ms, DAY_MS), gpu.site, gpu.model or ""


_Best = dict[tuple[str, int], tuple[Cell, int]]
"""GPU and start -> what counts there, and how often it was sampled."""


def _keep_fuller(best: _Best, identity: str, cells: Mapping[int, Cell], interval_ms: int) -> None:
    """Of two streams about one GPU that counts which covers more: they are never added up."""
    for start_ms, cell in cells.items():
        known = best.get((identity, start_ms))
        if known is None or known[0].covered_ms < cell.covered_ms:
            best[identity, start_ms] = cell, interval_ms


# ------------------------------------------------------------------------------------------------------- gauges


class GaugeShards:
    """Gauges, by cells: the ledger adds them up as it does sealed readings."""

    def __init__(self, chunks: ChunkReader, names: Names, first_ms: dict[str, int]) -> None:
        self._chunks, self._names, self._first_ms = chunks, names, first_ms

    def gpus_at_once(self, pace: Pace, span_ms: int) -> int:
        return self._chunks.gpus_at_once(pace, span_ms)

    async def read(self, gpus: Sequence[Gpu], paces: Mapping[Stream, Pace], start_ms: int, end_ms: int) -> Shard:
        best: _Best = {}
        owners: dict[tuple[str, int], list[str]] = {}
        energy: dict[tuple[str, int], int] = {}
        notes, tallies = Notes(), dict[Group, Tally]()
        by_identity = {gpu.identity: gpu for gpu in gpus}
        for stream, pace, own in _streams(gpus, paces):
            answered = await self._chunks.cells(stream, own, pace, start_ms, end_ms)
            for identity, (cells, seen) in answered.items():
                _keep_fuller(best, identity, cells, pace.interval_ms)
                notes.add(seen)
                misplaced = edge_error_slice_ms(seen.changes, pace.interval_ms)
                tally = Tally(points=seen.points, misplaced_slice_ms=misplaced)
                add_tallies(tallies, {_group(by_identity[identity], start_ms): tally})
            owners |= await self._chunks.owners(stream, own, start_ms, end_ms)
            energy |= await self._chunks.energy(stream, own, pace, start_ms, end_ms)
        readings = [
            accept(
                by_identity[identity],
                cell_ms,
                cell,
                interval_ms=interval_ms,
                names=self._names,
                owners=owners.get((identity, cell_ms), ()),
                energy_mj=energy.get((identity, cell_ms)),
            )
            for (identity, cell_ms), (cell, interval_ms) in best.items()
        ]
        for identity, cell_ms in best:
            self._first_ms[identity] = min(cell_ms, self._first_ms.get(identity, cell_ms))
        roster = Roster(entries=tuple(self._entry(gpu) for gpu in gpus if gpu.identity in self._first_ms))
        ledger = build(readings, roster, start_ms, end_ms)
        overlaps = (_overlap(by_identity[gpu], at) for (gpu, at), (cell, _) in best.items() if cell.has_overlap)
        found = replace(ledger, findings=(*ledger.findings, *overlaps))
        return Shard(ledger=found, notes=notes, tallies=tallies)

    def _entry(self, gpu: Gpu) -> Entry:
        """Return the GPU's place in the roster that the samples make: from the first one on, without an end."""
        return Entry(
            gpu=gpu.identity,
            node=gpu.node,
            from_ms=self._first_ms[gpu.identity],
            site=gpu.site,
            cluster=gpu.cluster,
            pool=gpu.pool,
            model=gpu.model,
        )


def _streams(gpus: Sequence[Gpu], paces: Mapping[Stream, Pace]) -> Iterator[tuple[Stream, Pace, list[Gpu]]]:
    """Yield each stream that tells of any of the GPUs, with those GPUs."""
    for stream, pace in sorted(paces.items()):
        own = [gpu for gpu in gpus if stream in gpu.names]
        if own:
            yield stream, pace, own


def _overlap(gpu: Gpu, cell_ms: int) -> Finding:
    text = f"{gpu.identity} reported instances of more than the whole GPU in one cell; the cell counts as dark"
    return Finding(at_ms=floor_to(cell_ms, HOUR_MS), kind="instances_overlap", subject=gpu.identity, text=text)


# ----------------------------------------------------------------------------------------------------- counters


class CounterShards:
    """Counters, by hours: there is nothing to settle between readings, so rows are made at once."""

    def __init__(self, counters: CounterReader, first_ms: dict[str, int]) -> None:
        self._counters, self._first_ms = counters, first_ms

    def gpus_at_once(self, pace: Pace, span_ms: int) -> int:
        return self._counters.gpus_at_once(pace, span_ms)

    async def read(self, gpus: Sequence[Gpu], paces: Mapping[Stream, Pace], start_ms: int, end_ms: int) -> Shard:
        best: _Best = {}
        notes, tallies = Notes(), dict[Group, Tally]()
        by_identity = {gpu.identity: gpu for gpu in gpus}
        for stream, pace, own in _streams(gpus, paces):
            answered = await self._counters.hours(stream, own, pace, start_ms, end_ms)
            for identity, (hours, seen) in answered.items():
                _keep_fuller(best, identity, hours, pace.interval_ms)
                notes.add(seen)
                tally = Tally(points=seen.points, misplaced_slice_ms=edge_error_slice_ms(_ENDS, pace.interval_ms))
                add_tallies(tallies, {_group(by_identity[identity], start_ms): tally})
                if seen.first_ms is not None:
                    self._first_ms[identity] = min(seen.first_ms, self._first_ms.get(identity, seen.first_ms))
        rows = [row for gpu in gpus for row in self._rows(gpu, best, start_ms, end_ms)]
        ledger = Ledger(hours=tuple(rows), holders=tuple(_holders(rows)), findings=())
        return Shard(ledger=ledger, notes=notes, tallies=tallies)

    def _rows(self, gpu: Gpu, best: _Best, start_ms: int, end_ms: int) -> Iterator[HourRow]:
        """Yield a row for each hour in which the GPU is installed; what nobody counted is dark."""
        first_ms = self._first_ms.get(gpu.identity)
        if first_ms is None:
            return
        installed_ms = max(start_ms, floor_to(first_ms, CELL_MS))
        for hour_ms in range(floor_to(installed_ms, HOUR_MS), end_ms, HOUR_MS):
            length_ms = min(hour_ms + HOUR_MS, end_ms) - max(hour_ms, installed_ms)
            cell, interval_ms = best.get((gpu.identity, hour_ms), (None, None))
            states = {} if cell is None else dict(cell.state_slice_ms)
            dark = length_ms * SLICES_PER_GPU - sum(states.values())
            if dark > 0:
                states[State.DARK] = dark
            account = Account(state_slice_ms=states)
            if cell is not None:
                active_ns = cell.active_slice_ns // SLICES_PER_GPU
                account = replace(account, bin_slice_ms=tuple(cell.bin_slice_ms), active_ns=active_ns)
            yield HourRow(
                hour_ms=hour_ms,
                gpu=gpu.identity,
                serial=None,
                model=gpu.model,
                site=gpu.site,
                cluster=gpu.cluster,
                pool=gpu.pool,
                node=gpu.node,
                simulated=gpu.is_simulated and cell is not None,
                account=account,
                intervals_ms=() if interval_ms is None else (interval_ms,),
                activity_sources=() if cell is None else tuple(sorted(cell.sources)),
            )


def _holders(rows: Iterable[HourRow]) -> Iterator[HolderRow]:
    """Yield who had the busy and held time: counters do not say."""
    for row in rows:
        busy, held = row.account.slice_ms(State.BUSY), row.account.slice_ms(State.HELD)
        if busy + held > 0:
            yield HolderRow(
                hour_ms=row.hour_ms,
                gpu=row.gpu,
                node=row.node,
                workload=UNATTRIBUTED,
                user=None,
                busy_slice_ms=busy,
                held_slice_ms=held,
                memory_bytes_max=None,
            )
