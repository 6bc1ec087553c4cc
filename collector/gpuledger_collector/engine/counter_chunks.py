# SPDX-License-Identifier: Apache-2.0
"""Reads the counters of some GPUs over a span: at the edges of hours, and sample by sample where these do not do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from gpuledger.cells import HOUR_MS, ceil_to, floor_to
from gpuledger.errors import EngineError
from gpuledger_collector.engine import promql
from gpuledger_collector.engine.answer import Grid, Labels, samples_of
from gpuledger_collector.engine.client import EngineClient, TooMuchError
from gpuledger_collector.engine.counters import WHOLE, Key, Point, hours_of, irregular_hours
from gpuledger_collector.engine.gauges import Cell, Notes
from gpuledger_collector.engine.inventory import Gpu, Stream, identity_of
from gpuledger_collector.engine.profile import Counters, Profile
from gpuledger_collector.engine.sampling import Pace

logger = logging.getLogger(__name__)
GPUS_AT_ONCE_MAX = 256
"""GPUs named in one query: VictoriaMetrics takes 16 KiB."""
INSTANCE = "instance_id"
"""The label of a GPU instance; absent of an undivided GPU and of what no instance has."""
_SERIES_OF_GPU = 24
"""States, reasons, buckets and the integral of one GPU, about."""
_OWN_LABELS = frozenset({"__name__", "state", "reason", "le", INSTANCE})

Target = tuple[tuple[str, str], ...]
"""The labels that all series of one scrape share."""
_Series = tuple[str, Target]
"""GPU and target."""


class CounterReader:
    """Asks for the counters of agents; halves what the engine finds too much, by GPUs."""

    def __init__(self, client: EngineClient, profile: Profile, match: Mapping[str, str], points: int) -> None:
        assert profile.counters is not None
        self._client, self._names = client, profile.counters
        self._match = {label: (value,) for label, value in match.items()}
        self._points = points
        self._ticks: dict[tuple[Stream, Grid], dict[Target, list[float | None]]] = {}

    def gpus_at_once(self, pace: Pace, span_ms: int) -> int:
        """Return how many GPUs one query over the span may be about."""
        return max(1, min(GPUS_AT_ONCE_MAX, self._points // (_SERIES_OF_GPU * (span_ms // HOUR_MS + 2))))

    def matchers(self, stream: Stream, gpus: Sequence[Gpu] = ()) -> promql.Matchers:
        """Return what a series of the stream (about these GPUs) must match, its instances' with it."""
        found: dict[str, Sequence[str]] = {"job": (stream.job,), **self._match}
        if gpus:
            found |= {stream.gpu_label: [name for gpu in gpus for name in gpu.names[stream]]}
        return found

    async def hours(
        self, stream: Stream, gpus: Sequence[Gpu], pace: Pace, start_ms: int, end_ms: int
    ) -> dict[str, tuple[dict[int, Cell], Notes]]:
        """Return the hours of each GPU (by identity) in [start_ms, end_ms), and what was noticed."""
        try:
            return await self._hours(stream, gpus, pace, start_ms, end_ms)
        except TooMuchError as exc:
            if len(gpus) == 1:
                raise EngineError(f"{exc}; that was for one GPU, so it cannot be asked for less") from exc
            self._points = max(1, self._points // 2)
            half = len(gpus) // 2
            logger.info("engine_query_halved", extra={"gpus": len(gpus), "text": str(exc)})
            one = await self.hours(stream, gpus[:half], pace, start_ms, end_ms)
            return one | await self.hours(stream, gpus[half:], pace, start_ms, end_ms)

    async def _hours(
        self, stream: Stream, gpus: Sequence[Gpu], pace: Pace, start_ms: int, end_ms: int
    ) -> dict[str, tuple[dict[int, Cell], Notes]]:
        first_ms = floor_to(start_ms, HOUR_MS)
        # One hour more: what was spent up to the end shows in a sample after it.
        hours = (ceil_to(end_ms, HOUR_MS) - first_ms) // HOUR_MS + 1
        grid = Grid(first_ms=first_ms, step_ms=HOUR_MS, count=hours + 1)
        points = await self._edges(stream, gpus, pace, grid)
        counts = await self._counts(stream, gpus, grid)
        wanted: dict[int, list[_Series]] = {}
        for series, edges in points.items():
            for number in irregular_hours(edges, counts.get(series, [None] * hours)):
                wanted.setdefault(number, []).append(series)
        found = {series: [point for point in edges if point is not None] for series, edges in points.items()}
        for number, irregular in sorted(wanted.items()):
            span = first_ms + number * HOUR_MS, HOUR_MS + pace.stand_ms
            for series, more in (await self._samples(stream, gpus, irregular, *span)).items():
                found.setdefault(series, []).extend(more)
        answered: dict[str, tuple[dict[int, Cell], Notes]] = {}
        for (identity, _), line in found.items():
            if not line:
                continue
            best, notes = answered.setdefault(identity, ({}, Notes()))
            for hour_ms, hour in hours_of(line, start_ms, end_ms).items():
                # A GPU that two agents count is not added up: the fuller one counts.
                if hour_ms not in best or best[hour_ms].covered_ms < hour.covered_ms:
                    best[hour_ms] = hour
            notes.points += len(line)
            first_ms = min(point.time_ms for point in line)
            notes.first_ms = first_ms if notes.first_ms is None else min(first_ms, notes.first_ms)
        return answered

    def _metrics(self) -> dict[str, str]:
        """Return the metric of each counter, by the label that tells its series apart."""
        names: Counters = self._names
        return {"state": names.states, "reason": names.uncovered, "le": names.activity, "active": names.active}

    async def _edges(
        self, stream: Stream, gpus: Sequence[Gpu], pace: Pace, grid: Grid
    ) -> dict[_Series, list[Point | None]]:
        ticks = await self._tick_rows(stream, pace, grid)
        seconds: dict[_Series, list[dict[Key, float]]] = {}
        for counter, metric in self._metrics().items():
            query = promql.newest(metric, self.matchers(stream, gpus), pace.stand_ms)
            for row in await self._client.rows(query, grid):
                series = self._series(row.labels, stream)
                if series is None:
                    continue
                line = seconds.setdefault(series, [{} for _ in range(grid.count)])
                for index, value in enumerate(row.values):
                    if value is not None:
                        line[index][_key(counter, row.labels)] = value
        found: dict[_Series, list[Point | None]] = {}
        for series, line in seconds.items():
            times = ticks.get(series[1], [None] * grid.count)
            found[series] = [
                None if tick is None or not values else Point(time_ms=round(tick * 1000), seconds=values)
                for tick, values in zip(times, line, strict=True)
            ]
        return found

    async def _tick_rows(self, stream: Stream, pace: Pace, grid: Grid) -> dict[Target, list[float | None]]:
        """Return the agents' ticks on the grid; every shard of a day needs the same ones."""
        if (stream, grid) not in self._ticks:
            self._ticks.clear()
            query = promql.newest(self._names.tick, self.matchers(stream), pace.stand_ms)
            rows = await self._client.rows(query, grid)
            self._ticks[stream, grid] = {_target(row.labels, stream): row.values for row in rows}
        return self._ticks[stream, grid]

    async def _counts(self, stream: Stream, gpus: Sequence[Gpu], grid: Grid) -> dict[_Series, list[float | None]]:
        """Return how many samples each hour has."""
        matchers = {**self.matchers(stream, gpus), "state": ("free",), INSTANCE: (WHOLE,)}
        after = Grid(first_ms=grid.first_ms + HOUR_MS, step_ms=HOUR_MS, count=grid.count - 1)
        found = {}
        for row in await self._client.rows(promql.count(self._names.states, matchers, HOUR_MS), after):
            series = self._series(row.labels, stream)
            if series is not None:
                found[series] = row.values
        return found

    async def _samples(
        self, stream: Stream, gpus: Sequence[Gpu], irregular: Sequence[_Series], start_ms: int, span_ms: int
    ) -> dict[_Series, list[Point]]:
        """Return every sample of some series from a little before `start_ms` to the end of the hour."""
        wanted = {identity for identity, _ in irregular}
        chosen = [gpu for gpu in gpus if gpu.identity in wanted]
        at_once = max(1, self._points // (_SERIES_OF_GPU * 240))
        at_ms = start_ms + HOUR_MS
        query = promql.samples(self._names.tick, self.matchers(stream), span_ms)
        ticks = {
            _target(labels, stream): dict(pairs)
            for labels, pairs in samples_of(await self._client.instant(query, at_ms))
        }
        seconds: dict[_Series, dict[int, dict[Key, float]]] = {}
        for first in range(0, len(chosen), at_once):
            matchers = self.matchers(stream, chosen[first : first + at_once])
            for counter, metric in self._metrics().items():
                answered = await self._client.instant(promql.samples(metric, matchers, span_ms), at_ms)
                for labels, pairs in samples_of(answered):
                    series = self._series(labels, stream)
                    if series is not None:
                        for time_ms, value in pairs:
                            line = seconds.setdefault(series, {}).setdefault(time_ms, {})
                            line[_key(counter, labels)] = value
        return {
            series: [
                Point(time_ms=round(tick * 1000), seconds=values)
                for time_ms, values in line.items()
                # All series of one scrape have its time.
                if (tick := ticks.get(series[1], {}).get(time_ms)) is not None
            ]
            for series, line in seconds.items()
        }

    def _series(self, labels: Labels, stream: Stream) -> _Series | None:
        identity = identity_of(labels[stream.gpu_label])
        return None if identity is None else (identity, _target(labels, stream))


def _key(counter: str, labels: Labels) -> Key:
    return counter, labels.get(counter, ""), labels.get(INSTANCE, WHOLE)


def _target(labels: Labels, stream: Stream) -> Target:
    return tuple(
        sorted((name, value) for name, value in labels.items() if name not in _OWN_LABELS and name != stream.gpu_label)
    )
