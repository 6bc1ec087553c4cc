# SPDX-License-Identifier: Apache-2.0
"""Reads the gauges of some GPUs over a span, in queries as large as the engine bears."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from gpuledger.cells import CELL_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.errors import EngineError
from gpuledger_collector.engine import promql
from gpuledger_collector.engine.answer import Grid, Labels, Row
from gpuledger_collector.engine.client import EngineClient, TooMuchError
from gpuledger_collector.engine.gauges import WHOLE, Cell, Notes, Reducer, Track
from gpuledger_collector.engine.inventory import Gpu, Stream, first_label, identity_of, workload_of
from gpuledger_collector.engine.profile import Profile
from gpuledger_collector.engine.readings import energy_of_cells
from gpuledger_collector.engine.sampling import Pace

logger = logging.getLogger(__name__)
GPUS_AT_ONCE_MAX = 64
"""GPUs named in one query: VictoriaMetrics takes 16 KiB, and the longest names each five times."""
_PROFILE = re.compile(r"(?:\d+c\.)?(\d)g\b.*")
_Key = tuple[tuple[str, str], ...]


def slices_of(profile: str) -> int | None:
    """Return how many of a GPU's seven slices an instance of a profile like "3g.40gb" has; None if it does not say."""
    found = _PROFILE.fullmatch(profile)
    return int(found[1]) if found is not None and 1 <= int(found[1]) <= SLICES_PER_GPU else None


class ChunkReader:
    """Asks for chunks; what the engine finds too much is asked for in halves, by GPUs and then by time."""

    def __init__(self, client: EngineClient, profile: Profile, match: Mapping[str, str], points: int) -> None:
        self._client = client
        self._profile = profile
        self._match = {label: (value,) for label, value in match.items()}
        self._points = points
        self._reducer = Reducer(profile)

    def gpus_at_once(self, pace: Pace, span_ms: int) -> int:
        """Return how many GPUs one query over the span may be about."""
        points = max(1, min(span_ms, pace.span_ms) // pace.step_ms)
        return max(1, min(GPUS_AT_ONCE_MAX, self._points // points))

    def matchers(self, stream: Stream, gpus: Sequence[Gpu] = ()) -> promql.Matchers:
        """Return what a series of the stream (about these GPUs) must match."""
        found: dict[str, Sequence[str]] = {"job": (stream.job,), **self._match}
        if gpus:
            found[stream.gpu_label] = [name for gpu in gpus for name in gpu.names[stream]]
        return found

    async def cells(
        self, stream: Stream, gpus: Sequence[Gpu], pace: Pace, start_ms: int, end_ms: int
    ) -> dict[str, tuple[dict[int, Cell], Notes]]:
        """Return the cells of each GPU (by identity) over [start_ms, end_ms), and what was noticed."""
        count = (end_ms - start_ms) // pace.step_ms
        grid = Grid(first_ms=start_ms + pace.step_ms, step_ms=pace.step_ms, count=count)
        found = {}
        for identity, tracks in (await self.tracks(stream, gpus, pace, start_ms, end_ms)).items():
            notes = Notes()
            found[identity] = self._reducer.cells(tracks, grid, pace.stand_ms, notes), notes
        return found

    async def tracks(
        self, stream: Stream, gpus: Sequence[Gpu], pace: Pace, start_ms: int, end_ms: int
    ) -> dict[str, list[Track]]:
        """Return the tracks of each GPU (by identity) over [start_ms, end_ms), whole cells, on one grid.

        Raises EngineError where even one GPU and one hour are too much.
        """
        matchers = self.matchers(stream, gpus)
        profile, stand_ms = self._profile, pace.stand_ms
        queries = [promql.newest(profile.activities[0].metric, matchers, stand_ms)]
        if len(profile.activities) > 1:
            queries.append(promql.second_opinion(profile.activities[0], profile.activities[1], matchers, stand_ms))
        try:
            found = [await self._rows(query, start_ms, end_ms, pace, may_halve=len(gpus) == 1) for query in queries]
            second = found[1] if len(found) > 1 else []
            memory: list[Row] = []
            if profile.memory is not None:
                query = promql.newest(profile.memory.metric, matchers, stand_ms)
                memory = await self._rows(query, start_ms, end_ms, pace, may_halve=len(gpus) == 1)
        except TooMuchError as exc:
            if len(gpus) == 1:
                raise EngineError(f"{exc}; that was for one GPU and one hour, so it cannot be asked for less") from exc
            self._points = max(1, self._points // 2)
            half = len(gpus) // 2
            logger.info("engine_query_halved", extra={"gpus": len(gpus), "text": str(exc)})
            one = await self.tracks(stream, gpus[:half], pace, start_ms, end_ms)
            return one | await self.tracks(stream, gpus[half:], pace, start_ms, end_ms)
        return self._by_gpu(found[0], second, memory, (end_ms - start_ms) // pace.step_ms)

    async def owners(
        self, stream: Stream, gpus: Sequence[Gpu], start_ms: int, end_ms: int
    ) -> dict[tuple[str, int], list[str]]:
        """Return who had processes on each GPU (by identity) in each cell, where the exporter tells."""
        processes = self._profile.processes
        found: dict[tuple[str, int], list[str]] = {}
        if processes is None:
            return found
        matchers = self.matchers(stream, gpus)
        query = promql.owners_in_cells(processes.metric, stream.gpu_label, processes.owner, matchers, CELL_MS)
        grid = Grid(first_ms=start_ms + CELL_MS, step_ms=CELL_MS, count=(end_ms - start_ms) // CELL_MS)
        for row in await self._client.rows(query, grid):
            identity, owner = identity_of(row.labels[stream.gpu_label]), first_label(row.labels, processes.owner)
            if identity is None or owner is None:
                continue
            for index, value in enumerate(row.values):
                if value is not None:
                    found.setdefault((identity, start_ms + index * CELL_MS), []).append(owner[1])
        return found

    async def energy(
        self, stream: Stream, gpus: Sequence[Gpu], pace: Pace, start_ms: int, end_ms: int
    ) -> dict[tuple[str, int], int]:
        """Return the energy of each GPU (by identity) in each cell in mJ, where its counter tells."""
        energy = self._profile.energy
        found: dict[tuple[str, int], int] = {}
        if energy is None:
            return found
        matchers = self.matchers(stream, gpus)
        query = promql.largest_at_edges(energy.metric, stream.gpu_label, matchers, pace.stand_ms)
        grid = Grid(first_ms=start_ms, step_ms=CELL_MS, count=(end_ms - start_ms) // CELL_MS + 1)
        for row in await self._client.rows(query, grid):
            identity = identity_of(row.labels[stream.gpu_label])
            if identity is not None:
                for index, amount_mj in energy_of_cells(row.values, energy.unit_mj).items():
                    found[identity, start_ms + index * CELL_MS] = amount_mj
        return found

    async def _rows(self, query: str, start_ms: int, end_ms: int, pace: Pace, *, may_halve: bool) -> list[Row]:
        """Return the rows over [start_ms, end_ms), put together from as many answers as it takes."""
        joined: dict[_Key, Row] = {}
        count = (end_ms - start_ms) // pace.step_ms
        pieces = [(at, min(at + pace.span_ms, end_ms)) for at in range(start_ms, end_ms, pace.span_ms)]
        while pieces:
            from_ms, to_ms = pieces.pop(0)
            grid = Grid(first_ms=from_ms + pace.step_ms, step_ms=pace.step_ms, count=(to_ms - from_ms) // pace.step_ms)
            try:
                rows = await self._client.rows(query, grid)
            except TooMuchError:
                if not may_halve or to_ms - from_ms <= HOUR_MS:
                    raise
                middle_ms = from_ms + (to_ms - from_ms) // 2 // CELL_MS * CELL_MS
                pieces[:0] = [(from_ms, middle_ms), (middle_ms, to_ms)]
                continue
            offset = (from_ms - start_ms) // pace.step_ms
            for row in rows:
                key = _key(row.labels)
                if key not in joined:
                    joined[key] = Row(labels=row.labels, values=[None] * count)
                joined[key].values[offset : offset + grid.count] = row.values
        return list(joined.values())

    def _by_gpu(
        self, first: Sequence[Row], second: Sequence[Row], memory: Sequence[Row], count: int
    ) -> dict[str, list[Track]]:
        nothing: list[float | None] = [None] * count
        gauges: dict[_Key, list[list[float | None]]] = {}
        labels: dict[_Key, Labels] = {}
        for position, rows in enumerate((first, second, memory)):
            for row in rows:
                key = _key(row.labels)
                labels[key] = row.labels
                gauges.setdefault(key, [nothing, nothing, nothing])[position] = row.values
        found: dict[str, list[Track]] = {}
        for key, values in gauges.items():
            name = first_label(labels[key], self._profile.labels.gpu)
            identity = None if name is None else identity_of(name[1])
            if identity is not None:
                found.setdefault(identity, []).append(self._track(key, labels[key], values))
        return found

    def _track(self, key: _Key, labels: Labels, values: Sequence[Sequence[float | None]]) -> Track:
        names = self._profile.labels
        instance = first_label(labels, names.instance)
        slices: int | None = SLICES_PER_GPU
        if instance is not None:
            profile = first_label(labels, names.instance_profile)
            slices = None if profile is None else slices_of(profile[1])
        return Track(
            order=tuple(part for pair in key for part in pair),
            instance=WHOLE if instance is None else instance[1],
            slices=slices,
            holder=workload_of(labels, self._profile),
            first=values[0],
            second=values[1],
            memory=values[2],
        )


def _key(labels: Labels) -> _Key:
    return tuple(sorted((name, value) for name, value in labels.items() if name != "__name__"))
