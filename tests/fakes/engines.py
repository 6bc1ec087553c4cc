# SPDX-License-Identifier: Apache-2.0
"""An engine in memory: answers the queries that gpuledger asks, by their documented meaning, over HTTP.

It knows no PromQL: it takes our own queries apart by their form and fails on any other. Real engines are asked in
tests/integration.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
import threading
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

Samples = Sequence[tuple[int, float]]
"""(POSIX ms, value), in order of time."""
_SELECTOR = r"(\w+)\{([^}]*)\}"
_NEWEST = rf"last_over_time\({_SELECTOR}\[(\d+)ms\]\)"
_MATCHER = re.compile(r'(\w+)(=~?)"((?:[^"\\]|\\.)*)"')


@dataclass
class Series:
    """One series; `labels` has its name too, as __name__."""

    labels: dict[str, str]
    samples: list[tuple[int, float]]

    def newest(self, at_ms: int, range_ms: int) -> float | None:
        """Return the newest sample in (at - range, at]."""
        position = bisect_right(self.samples, at_ms, key=lambda pair: pair[0])
        if position == 0 or self.samples[position - 1][0] <= at_ms - range_ms:
            return None
        return self.samples[position - 1][1]


Refusal = Callable[[str, Mapping[str, str]], web.Response | None]


@dataclass
class FakeEngine:
    """Series, what was asked, and who may refuse; `now_ms` is its clock."""

    series: list[Series] = field(default_factory=list)
    now_ms: int = 0
    refuse: Refusal = lambda path, values: None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    beside: dict[str, object] = field(default_factory=dict)
    """What stands beside `data` in every answer."""

    def add(self, name: str, labels: Mapping[str, str], samples: Samples) -> None:
        """Add samples to the series of that name and those labels."""
        wanted = {"__name__": name, **labels}
        known = next((one for one in self.series if one.labels == wanted), None)
        if known is None:
            self.series.append(Series(wanted, sorted(samples)))
        else:
            known.samples = sorted([*known.samples, *samples])

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/api/v1/{path}", self._answer)
        server = TestServer(app, host="127.0.0.1", scheme="http" if context is None else "https")
        await server.start_server(ssl=context)
        try:
            yield f"{server.scheme}://127.0.0.1:{server.port}"
        finally:
            await server.close()

    @contextmanager
    def serving_beside(self) -> Iterator[str]:
        """Serve from a thread, for programs that have an event loop of their own."""
        ready: Future[str] = Future()
        loop = asyncio.new_event_loop()
        ended = asyncio.Event()

        async def serve() -> None:
            async with self.serving() as url:
                ready.set_result(url)
                await ended.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        try:
            yield ready.result(timeout=60)
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()
            loop.close()

    async def _answer(self, request: web.Request) -> web.Response:
        form = await request.post()
        values = {name: str(value) for name, value in form.items()}
        path = request.match_info["path"]
        self.asked.append((path, values))
        self.headers.append(dict(request.headers))
        refused = self.refuse(path, values)
        if refused is not None:
            return refused
        if path == "series":
            selectors = [str(value) for value in form.getall("match[]")]
            data: object = self._listed(selectors, _ms(values["start"]), _ms(values["end"]))
        elif path == "query":
            data = self._instant(values["query"], _ms(values.get("time", "0")))
        else:
            data = self._range(values)
        return web.Response(
            text=json.dumps({"status": "success", "data": data, **self.beside}), content_type="application/json"
        )

    # ------------------------------------------------------------------------------------------ queries

    def _listed(self, selectors: Sequence[str], start_ms: int, end_ms: int) -> list[dict[str, str]]:
        return [
            one.labels
            for one in self.series
            if any(_matches(one, selector) for selector in selectors)
            and any(start_ms <= time_ms <= end_ms for time_ms, _ in one.samples)
        ]

    def _instant(self, query: str, at_ms: int) -> object:
        if query == "time()":
            return {"resultType": "scalar", "result": [self.now_ms / 1000, str(self.now_ms / 1000)]}
        if found := re.fullmatch(rf"topk\((\d+), count_over_time\(({_SELECTOR})\[(\d+)ms\]\)\)", query):
            span_ms = int(found[5])
            counts = [
                (one, sum(at_ms - span_ms < time_ms <= at_ms for time_ms, _ in one.samples))
                for one in self.series
                if _matches(one, found[2])
            ]
            best = sorted((pair for pair in counts if pair[1]), key=lambda pair: -pair[1])[: int(found[1])]
            return _vector([(_unnamed(one.labels), float(count)) for one, count in best], at_ms)
        found = re.fullmatch(rf"({_SELECTOR})\[(\d+)ms\]", query)
        assert found is not None, query
        span_ms = int(found[4])
        inside = {
            index: [pair for pair in one.samples if at_ms - span_ms < pair[0] <= at_ms]
            for index, one in enumerate(self.series)
            if _matches(one, found[1])
        }
        return _matrix([(self.series[index].labels, pairs) for index, pairs in inside.items() if pairs])

    def _range(self, values: Mapping[str, str]) -> object:
        times = range(_ms(values["start"]), _ms(values["end"]) + 1, _ms(values["step"]))
        evaluate = self._evaluator(values["query"])
        found: dict[tuple[tuple[str, str], ...], list[tuple[int, float]]] = {}
        for at_ms in times:
            for labels, value in evaluate(at_ms):
                found.setdefault(tuple(sorted(labels.items())), []).append((at_ms, value))
        return _matrix([(dict(labels), pairs) for labels, pairs in found.items()])

    def _evaluator(self, query: str) -> Callable[[int], list[tuple[dict[str, str], float]]]:
        if re.fullmatch(_NEWEST, query):
            return lambda at_ms: self._vector_at(query, at_ms)
        if found := re.fullmatch(rf"count_over_time\(({_SELECTOR})\[(\d+)ms\]\)", query):
            counted, span_ms = [one for one in self.series if _matches(one, found[1])], int(found[4])
            return lambda at_ms: [
                (_unnamed(one.labels), float(count))
                for one in counted
                if (count := sum(at_ms - span_ms < time_ms <= at_ms for time_ms, _ in one.samples)) > 0
            ]
        if found := re.fullmatch(rf"max by \(([\w, ]+)\) \(({_NEWEST})\)", query):
            by, newest = [name.strip() for name in found[1].split(",")], found[2]
            return lambda at_ms: _largest(self._vector_at(newest, at_ms), by)
        found = re.fullmatch(
            rf"\(({_NEWEST}) unless \(({_NEWEST}) >= 0 <= (\S+)\)\) or "
            rf"\(\(\1 >= (\S+)\) and \(\5 < (\S+)\)\)",
            query,
        )
        assert found is not None, query
        other, one, full, half, low = found[1], found[5], float(found[9]), float(found[10]), float(found[11])

        def second_opinion(at_ms: int) -> list[tuple[dict[str, str], float]]:
            first = {_key(labels): value for labels, value in self._vector_at(one, at_ms)}
            answer = []
            for labels, value in self._vector_at(other, at_ms):
                known = first.get(_key(labels))
                if known is None or not 0 <= known <= full or (value >= half and known < low):
                    answer.append((labels, value))
            return answer

        return second_opinion

    def _vector_at(self, newest: str, at_ms: int) -> list[tuple[dict[str, str], float]]:
        found = re.fullmatch(rf"last_over_time\(({_SELECTOR})\[(\d+)ms\]\)", newest)
        assert found is not None, newest
        values = ((one.labels, one.newest(at_ms, int(found[4]))) for one in self.series if _matches(one, found[1]))
        return [(labels, value) for labels, value in values if value is not None]


def _ms(seconds: str) -> int:
    return round(float(seconds) * 1000)


def _unnamed(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != "__name__"}


def _key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(_unnamed(labels).items()))


def _matches(one: Series, selector: str) -> bool:
    found = re.fullmatch(_SELECTOR, selector)
    assert found is not None, selector
    if one.labels["__name__"] != found[1]:
        return False
    for name, operator, text in _MATCHER.findall(found[2]):
        wanted = text.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
        value = one.labels.get(name, "")
        if (value != wanted) if operator == "=" else (re.fullmatch(wanted, value) is None):
            return False
    return True


def _largest(
    vector: Sequence[tuple[Mapping[str, str], float]], by: Sequence[str]
) -> list[tuple[dict[str, str], float]]:
    best: dict[tuple[str, ...], float] = {}
    for labels, value in vector:
        key = tuple(labels.get(name, "") for name in by)
        best[key] = max(value, best.get(key, value))
    return [({name: text for name, text in zip(by, key, strict=True) if text}, value) for key, value in best.items()]


def _vector(found: Sequence[tuple[Mapping[str, str], float]], at_ms: int) -> object:
    result = [{"metric": labels, "value": [at_ms / 1000, _text(value)]} for labels, value in found]
    return {"resultType": "vector", "result": result}


def _matrix(found: Sequence[tuple[Mapping[str, str], Samples]]) -> object:
    result = [
        {"metric": labels, "values": [[time_ms / 1000, _text(value)] for time_ms, value in pairs]}
        for labels, pairs in found
    ]
    return {"resultType": "matrix", "result": result}


def _text(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(value)
