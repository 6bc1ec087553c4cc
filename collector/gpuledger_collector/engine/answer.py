# SPDX-License-Identifier: Apache-2.0
"""What an engine answered: proved to be whole, then taken apart. Pure.

An answer that says of itself that it is not whole is an error: a report with holes must not pass for one without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuledger.errors import EngineError

Labels = Mapping[str, str]
NAN = math.nan
"""The one NaN that values are made of here, so that it is found again as a key."""
_TEXT_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Times asked for: `count` points, the first at `first_ms`."""

    first_ms: int
    step_ms: int
    count: int

    @property
    def last_ms(self) -> int:
        return self.first_ms + (self.count - 1) * self.step_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series on a grid: a value for each point; None where there is none, NaN where the exporter said NaN."""

    labels: Labels
    values: list[float | None]


def data_of(body: bytes) -> Any:
    """Return `data` of an answer that succeeded and is whole; raises EngineError, without naming the engine."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise EngineError("does not answer with JSON: is this the address of its HTTP API?") from exc
    if not isinstance(document, dict) or document.get("status") != "success" or "data" not in document:
        raise EngineError("answers with JSON that is not of Prometheus' HTTP API")
    warnings = document.get("warnings")
    if warnings:
        raise EngineError(f"warns that its answer may not be whole: {shorten(str(warnings))}")
    if document.get("isPartial"):
        raise EngineError("says that its answer is partial: a part of it was out of reach")
    return document["data"]


def error_text(body: bytes) -> str:
    """Return what a refusal says, in one line."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return shorten(body.decode("utf-8", "replace"))
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return shorten(document["error"])
    return shorten(body.decode("utf-8", "replace"))


def shorten(text: str) -> str:
    """Return the text in one line of bounded length."""
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    return text if len(text) <= _TEXT_CHARACTERS_MAX else text[: _TEXT_CHARACTERS_MAX - 1] + "…"


def rows_of(data: Any, grid: Grid) -> list[Row]:
    """Return the rows of a matrix that was asked for on the grid; raises EngineError where it is not one."""
    rows = []
    for labels, points in _series(data, "matrix"):
        values: list[float | None] = [None] * grid.count
        if not points:
            continue
        numbers = _numbers([point[1] for point in points])
        first, last = _index(points[0][0], grid), _index(points[-1][0], grid)
        if last - first + 1 == len(points):
            values[first : last + 1] = numbers  # no hole in it, as nearly always
        else:
            for (time_s, _), number in zip(points, numbers, strict=True):
                values[_index(time_s, grid)] = number
        rows.append(Row(labels=labels, values=values))
    return rows


def _index(time_s: float, grid: Grid) -> int:
    index, beside = divmod(round(time_s * 1000) - grid.first_ms, grid.step_ms)
    if beside or not 0 <= index < grid.count:
        raise EngineError(f"answers with the time {time_s}, which was not asked for")
    return index


def samples_of(data: Any) -> list[tuple[Labels, list[tuple[int, float]]]]:
    """Return each series of a matrix of samples with their own times in ms."""
    return [
        (labels, [(round(time_s * 1000), _number(value)) for time_s, value in points])
        for labels, points in _series(data, "matrix")
    ]


def vector_of(data: Any) -> list[tuple[Labels, float]]:
    """Return the labels and value of each element of an instant vector."""
    return [(labels, _number(point[1])) for labels, (point,) in _series(data, "vector")]


def scalar_of(data: Any) -> float:
    """Return a scalar."""
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise EngineError("answers with something else than it was asked for")
    result = data["result"]
    if data.get("resultType") == "scalar":
        return _number(result[1])
    # VictoriaMetrics makes a vector of everything.
    return vector_of(data)[0][1]


def label_sets_of(data: Any) -> list[Labels]:
    """Return the label sets of an answer of /api/v1/series."""
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise EngineError("answers with something else than it was asked for")
    return data


def _series(data: Any, kind: str) -> list[tuple[Labels, Any]]:
    key = "values" if kind == "matrix" else "value"
    try:
        if data["resultType"] != kind:
            raise EngineError(f"answers with a {data['resultType']} where a {kind} was asked for")
        return [
            (item["metric"], item[key] if kind == "matrix" else (item[key],)) for item in data["result"] if key in item
        ]
    except (KeyError, TypeError, IndexError) as exc:
        raise EngineError("answers with something else than it was asked for") from exc


def _number(text: Any) -> float:
    return _numbers([text])[0]


def _numbers(texts: list[Any]) -> list[float]:
    try:
        numbers = list(map(float, texts))
    except (TypeError, ValueError) as exc:
        raise EngineError("answers with a value that is no number") from exc
    return [NAN if math.isnan(number) else number for number in numbers]
