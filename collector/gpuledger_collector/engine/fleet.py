# SPDX-License-Identifier: Apache-2.0
"""Reads a fleet's gauges from an engine, day by day, and writes the ledger that a report is made from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS, floor_to
from gpuledger.errors import EngineError, GpuledgerError
from gpuledger_collector.engine import promql
from gpuledger_collector.engine.answer import Labels, samples_of, vector_of
from gpuledger_collector.engine.chunks import ChunkReader
from gpuledger_collector.engine.client import EngineClient
from gpuledger_collector.engine.config import EngineConfig
from gpuledger_collector.engine.counter_chunks import CounterReader
from gpuledger_collector.engine.gauges import Cell, Notes
from gpuledger_collector.engine.inventory import Gpu, Inventory, Stream, take_inventory, with_agents
from gpuledger_collector.engine.profile import Profile
from gpuledger_collector.engine.readings import Names, accept
from gpuledger_collector.engine.sampling import Pace, edge_error_slice_ms, interval_of
from gpuledger_collector.ledger import Finding, Ledger, build
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.roster import Entry, Roster

SETTLE_MS = 120_000
"""How long after its end a cell is left alone: samples may still be on their way into the engine."""
_PROBE_MS = 6 * HOUR_MS
_PROBED_SERIES = 5
_ENDS = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to read: figures of [start_ms, end_ms), from `before_ms` on what they are compared with.

    GPUs are listed from `listed_ms` on: what was there then and is not any more is dark, not gone.
    """

    listed_ms: int
    before_ms: int
    start_ms: int
    end_ms: int


Group = tuple[int, str, str]
"""Start of the UTC day, site, model."""


@dataclass(slots=True)
class Tally:
    """How finely a group of GPUs was sampled."""

    points: int = 0
    """Samples, on the grid, of all its GPUs."""
    misplaced_slice_ms: int = 0
    """Most time that the changes of state that were seen may have misplaced."""


@dataclass(slots=True)
class Found:
    """What was found besides rows; counts are of the reported span."""

    extent: tuple[int, int] | None = None
    notes: Notes = field(default_factory=Notes)
    tallies: dict[Group, Tally] = field(default_factory=dict)
    intervals_ms: set[int] = field(default_factory=set)
    knows_workloads: bool = False


class FleetReader:
    """Reads one span from one engine into one ledger; made for one use."""

    def __init__(
        self, client: EngineClient, config: EngineConfig, profile: Profile, files: LedgerFiles, names: Names
    ) -> None:
        self._client, self._config, self._profile, self._files = client, config, profile, files
        self._match = dict(config.match)
        self._chunks: ChunkReader | CounterReader
        if profile.counters is None:
            self._chunks = ChunkReader(client, profile, self._match, config.query_points)
        else:
            self._chunks = CounterReader(client, profile, self._match, config.query_points)
        self._names = names
        self._first_ms: dict[str, int] = {}
        self._findings: list[Finding] = []
        self._found = Found()

    async def read(self, wanted: Wanted, horizon_ms: int) -> Found:
        """Write the rows of all whole cells up to `horizon_ms`; raises EngineError where anything could not be read."""
        end_ms = min(wanted.end_ms, floor_to(horizon_ms, CELL_MS))
        if end_ms <= wanted.start_ms:
            raise EngineError(
                f"the period from {_utc(wanted.start_ms)} has not begun, or its first cell is not over, by the time of "
                f"{self._config.url}"
            )
        inventory = await self.inventory(wanted.listed_ms, end_ms)
        self._findings = [
            # What was so in the days before is still so.
            replace(finding, at_ms=max(finding.at_ms, wanted.start_ms))
            for finding in inventory.findings
        ]
        self._found.knows_workloads = inventory.knows_workloads
        for gpu in inventory.gpus:
            if gpu.first_day_ms < wanted.before_ms:
                self._first_ms[gpu.identity] = gpu.first_day_ms
        begin_ms = wanted.before_ms
        for day_ms in range(floor_to(begin_ms, DAY_MS), end_ms, DAY_MS):
            span = max(day_ms, begin_ms), min(day_ms + DAY_MS, end_ms)
            for from_ms, to_ms in _cut(*span, wanted.start_ms):
                await self._read_day(inventory, from_ms, to_ms, is_reported=from_ms >= wanted.start_ms)
        if self._found.notes.points == 0:
            raise self._nothing(wanted.start_ms, end_ms)
        earliest_ms = max(begin_ms, floor_to(min(self._first_ms.values()), HOUR_MS))
        self._found.extent = earliest_ms, end_ms
        self._files.write_extent(earliest_ms, end_ms)
        return self._found

    async def inventory(self, start_ms: int, end_ms: int) -> Inventory:
        """Return the GPUs that have series in the span; raises EngineError where there are none."""
        counters = self._profile.counters
        metrics = (*self._profile.metrics, *(() if counters is None else (counters.agent,)))
        selectors = [promql.selector(metric, self._selected()) for metric in metrics]
        days: list[tuple[int, list[Labels]]] = []
        for day_ms in range(floor_to(start_ms, DAY_MS), end_ms, DAY_MS):
            span = max(day_ms, start_ms), min(day_ms + DAY_MS, end_ms)
            found = await self._client.label_sets(selectors, *span)
            days.append((day_ms, found if counters is None else with_agents(found, counters.agent)))
        inventory = take_inventory(days, self._profile)
        if not inventory.gpus:
            raise self._nothing(start_ms, end_ms)
        if len(inventory.gpus) > self._config.gpus:
            raise EngineError(
                f"{self._config.url} has {len(inventory.gpus)} GPUs, more than limits.gpus allows "
                f"({self._config.gpus}); name some of them with --match, or raise the limit"
            )
        return inventory

    def _selected(self) -> promql.Matchers:
        return {label: (value,) for label, value in self._match.items()}

    def _nothing(self, start_ms: int, end_ms: int) -> EngineError:
        metrics = " or ".join(self._profile.metrics)
        given = "".join(f", {label}={value!r}" for label, value in self._match.items())
        return EngineError(
            f"{self._config.url} has no samples of {metrics}{given} from {_utc(start_ms)} to {_utc(end_ms)}: is it "
            f"scraped from {self._profile.exporter}, and does the engine keep data so long?"
        )

    # ------------------------------------------------------------------------------------------ one day

    async def _read_day(self, inventory: Inventory, start_ms: int, end_ms: int, *, is_reported: bool) -> None:
        paces = {stream: await self.pace(stream, start_ms, end_ms) for stream in inventory.streams}
        there = {stream: pace for stream, pace in paces.items() if pace is not None}
        slots = asyncio.Semaphore(self._config.concurrent_queries)
        results: list[tuple[Ledger, Notes, dict[Group, Tally]]] = []

        async def read(gpus: tuple[Gpu, ...]) -> None:
            try:
                results.append(await self._read_shard(gpus, there, start_ms, end_ms))
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                for gpus in self._shards(inventory.gpus, there, end_ms - start_ms):
                    await slots.acquire()
                    tasks.create_task(read(gpus))
        except* GpuledgerError as failures:
            raise failures.exceptions[0] from None
        if is_reported:
            self._found.intervals_ms |= {pace.interval_ms for pace in there.values()}
            for _, notes, tallies in results:
                self._found.notes.add(notes)
                _add_tallies(self._found.tallies, tallies)
        findings = self._findings if is_reported else ()
        ledger = _joined([ledger for ledger, _, _ in results], findings, start_ms, end_ms)
        self._files.write_hours(ledger, range(floor_to(start_ms, HOUR_MS), end_ms, HOUR_MS))
        logger.info("engine_day_read", extra={"day": _utc(start_ms), "rows": len(ledger.hours)})

    async def pace(self, stream: Stream, start_ms: int, end_ms: int) -> Pace | None:
        """Return how the stream is sampled in the span; None where it has no samples there."""
        for to_ms in range(end_ms, start_ms, -_PROBE_MS):
            span_ms = min(_PROBE_MS, to_ms - start_ms)
            for metric in self._profile.metrics:
                times = await self._times(stream, metric, to_ms, span_ms)
                if not times:
                    continue
                configured = self._config.scrape_interval_seconds
                found = interval_of(times) if configured is None else round(configured * 1000)
                if found is not None and found > CELL_MS:
                    raise EngineError(
                        f"job {stream.job!r} is scraped every {found // 1000} s; a sample may stand for no longer than "
                        f"a cell of {CELL_MS // 1000} s, so nothing can be accounted for"
                    )
                if found is not None:
                    return Pace(interval_ms=found)
        return None

    async def _times(self, stream: Stream, metric: str, to_ms: int, span_ms: int) -> list[list[int]]:
        """Return the times of the samples of a few series, those with most samples."""
        query = promql.fullest(metric, self._chunks.matchers(stream), span_ms, _PROBED_SERIES)
        found: list[list[int]] = []
        for labels, _ in vector_of(await self._client.instant(query, to_ms)):
            matchers = {name: (value,) for name, value in labels.items() if name != "__name__"} | {"job": (stream.job,)}
            answered = await self._client.instant(promql.samples(metric, matchers, span_ms), to_ms)
            found += [[time_ms for time_ms, _ in pairs] for _, pairs in samples_of(answered)]
        return found

    def _shards(self, gpus: Sequence[Gpu], paces: Mapping[Stream, Pace], span_ms: int) -> Iterator[tuple[Gpu, ...]]:
        start = 0
        while start < len(gpus):
            # Asked anew for each shard: the reader learns how much the engine bears.
            size = min((self._chunks.gpus_at_once(pace, span_ms) for pace in paces.values()), default=len(gpus))
            yield tuple(gpus[start : start + size])
            start += size

    # ------------------------------------------------------------------------------------------ one shard

    async def _read_shard(
        self, gpus: Sequence[Gpu], paces: Mapping[Stream, Pace], start_ms: int, end_ms: int
    ) -> tuple[Ledger, Notes, dict[Group, Tally]]:
        """Return the rows of some GPUs over a span, what was noticed, and how finely they were sampled."""
        best: dict[tuple[str, int], tuple[Cell, int]] = {}
        owners: dict[tuple[str, int], list[str]] = {}
        energy: dict[tuple[str, int], int] = {}
        notes, tallies = Notes(), dict[Group, Tally]()
        by_identity = {gpu.identity: gpu for gpu in gpus}
        for stream, pace in sorted(paces.items()):
            own = [gpu for gpu in gpus if stream in gpu.names]
            if not own:
                continue
            answered = await self._chunks.cells(stream, own, pace, start_ms, end_ms)
            for identity, (cells, seen) in answered.items():
                for cell_ms, cell in cells.items():
                    known = best.get((identity, cell_ms))
                    # Of two streams about one GPU that counts which covers more: they are never added up.
                    if known is None or known[0].covered_ms < cell.covered_ms:
                        best[identity, cell_ms] = cell, pace.interval_ms
                notes.add(seen)
                # Counters are exact but for the two ends of a day.
                changes = seen.changes if self._profile.counters is None else _ENDS
                misplaced = edge_error_slice_ms(changes, pace.interval_ms)
                tally = Tally(points=seen.points, misplaced_slice_ms=misplaced)
                _add_tallies(tallies, {_group(by_identity[identity], start_ms): tally})
            if isinstance(self._chunks, ChunkReader):
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
        return replace(ledger, findings=(*ledger.findings, *overlaps)), notes, tallies

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


def _group(gpu: Gpu, time_ms: int) -> Group:
    return floor_to(time_ms, DAY_MS), gpu.site, gpu.model or ""


def _add_tallies(into: dict[Group, Tally], tallies: Mapping[Group, Tally]) -> None:
    for group, tally in tallies.items():
        sums = into.setdefault(group, Tally())
        sums.points += tally.points
        sums.misplaced_slice_ms += tally.misplaced_slice_ms


def _overlap(gpu: Gpu, cell_ms: int) -> Finding:
    text = f"{gpu.identity} reported instances of more than the whole GPU in one cell; the cell counts as dark"
    return Finding(at_ms=floor_to(cell_ms, HOUR_MS), kind="instances_overlap", subject=gpu.identity, text=text)


def _joined(ledgers: Iterable[Ledger], findings: Iterable[Finding], start_ms: int, end_ms: int) -> Ledger:
    """Return one ledger of them all; findings about the whole span count on the day on which they begin."""
    parts = list(ledgers)
    found = {finding for part in parts for finding in part.findings}
    found |= {finding for finding in findings if start_ms <= finding.at_ms < end_ms}
    return Ledger(
        hours=tuple(sorted((row for part in parts for row in part.hours), key=lambda r: (r.hour_ms, r.gpu, r.node))),
        holders=tuple(
            sorted(
                (row for part in parts for row in part.holders),
                key=lambda r: (r.hour_ms, r.gpu, r.workload, r.user or ""),
            )
        ),
        findings=tuple(sorted(found)),
    )


def _cut(start_ms: int, end_ms: int, at_ms: int) -> list[tuple[int, int]]:
    """Return the span, in two where `at_ms` lies within it."""
    return [(start_ms, at_ms), (at_ms, end_ms)] if start_ms < at_ms < end_ms else [(start_ms, end_ms)]


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
