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
from gpuledger_collector.engine.gauges import Notes
from gpuledger_collector.engine.inventory import Gpu, Inventory, Stream, take_inventory, with_agents
from gpuledger_collector.engine.profile import Profile
from gpuledger_collector.engine.readings import Names
from gpuledger_collector.engine.sampling import Pace, interval_of
from gpuledger_collector.engine.shards import CounterShards, GaugeShards, Group, Shard, Shards, Tally, add_tallies
from gpuledger_collector.ledger import Finding, Ledger
from gpuledger_collector.ledger_files import LedgerFiles

SETTLE_MS = 120_000
"""How long after its end a cell is left alone: samples may still be on their way into the engine."""
_PROBE_MS = 6 * HOUR_MS
_PROBED_SERIES = 5

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
        self._first_ms: dict[str, int] = {}
        """When each GPU was first seen: from then on it is installed."""
        self._shards: Shards
        if profile.counters is None:
            chunks = ChunkReader(client, profile, self._match, config.query_points)
            self._shards = GaugeShards(chunks, names, self._first_ms)
        else:
            counters = CounterReader(client, profile, self._match, config.query_points)
            self._shards = CounterShards(counters, self._first_ms)
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
        results: list[Shard] = []

        async def read(gpus: tuple[Gpu, ...]) -> None:
            try:
                results.append(await self._shards.read(gpus, there, start_ms, end_ms))
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                for gpus in self._divide(inventory.gpus, there, end_ms - start_ms):
                    await slots.acquire()
                    tasks.create_task(read(gpus))
        except* GpuledgerError as failures:
            raise failures.exceptions[0] from None
        if is_reported:
            self._found.intervals_ms |= {pace.interval_ms for pace in there.values()}
            for shard in results:
                self._found.notes.add(shard.notes)
                add_tallies(self._found.tallies, shard.tallies)
        findings = self._findings if is_reported else ()
        ledger = _joined([shard.ledger for shard in results], findings, start_ms, end_ms)
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
        query = promql.fullest(metric, {**self._selected(), "job": (stream.job,)}, span_ms, _PROBED_SERIES)
        found: list[list[int]] = []
        for labels, _ in vector_of(await self._client.instant(query, to_ms)):
            matchers = {name: (value,) for name, value in labels.items() if name != "__name__"} | {"job": (stream.job,)}
            answered = await self._client.instant(promql.samples(metric, matchers, span_ms), to_ms)
            found += [[time_ms for time_ms, _ in pairs] for _, pairs in samples_of(answered)]
        return found

    def _divide(self, gpus: Sequence[Gpu], paces: Mapping[Stream, Pace], span_ms: int) -> Iterator[tuple[Gpu, ...]]:
        """Yield the GPUs in parts for one query each, whole nodes: what is stranded shows only beside its neighbours.

        A node that is too much for one query is asked about in halves once the engine has said so.
        """
        nodes: dict[str, list[Gpu]] = {}
        for gpu in gpus:
            nodes.setdefault(gpu.node, []).append(gpu)
        part: list[Gpu] = []
        for own in nodes.values():
            # Asked anew for each part: the reader learns how much the engine bears.
            size = min((self._shards.gpus_at_once(pace, span_ms) for pace in paces.values()), default=len(gpus))
            if part and len(part) + len(own) > size:
                yield tuple(part)
                part = []
            part += own
        if part:
            yield tuple(part)


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
