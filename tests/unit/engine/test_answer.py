# SPDX-License-Identifier: Apache-2.0
"""Answers are taken apart only where they are whole, and are what was asked for."""

import json
import math
from typing import Any

import pytest

from gpuledger.errors import EngineError
from gpuledger_collector.engine import answer
from gpuledger_collector.engine.answer import Grid

GRID = Grid(first_ms=30_000, step_ms=30_000, count=4)


def body(data: object, **more: object) -> bytes:
    return json.dumps({"status": "success", "data": data} | more).encode()


def matrix(*points: tuple[float, str]) -> dict[str, Any]:
    return {"resultType": "matrix", "result": [{"metric": {"a": "b"}, "values": [list(point) for point in points]}]}


def test_data_of_a_whole_answer_are_handed_on() -> None:
    assert answer.data_of(body([1], infos=["PromQL info: not a counter"])) == [1]


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (b"<html>", "does not answer with JSON"),
        (b"[" * 100_000, "does not answer with JSON"),
        (b"[]", "not of Prometheus' HTTP API"),
        (b'{"status": "error"}', "not of Prometheus' HTTP API"),
        (body([], warnings=["No StoreAPIs matched"]), "may not be whole: ['No StoreAPIs matched']"),
        (body([], isPartial=True), "says that its answer is partial"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(found: bytes, sentence: str) -> None:
    with pytest.raises(EngineError) as caught:
        answer.data_of(found)
    assert sentence in str(caught.value)


def test_rows_stand_on_the_grid_and_holes_stay_holes() -> None:
    (row,) = answer.rows_of(matrix((30, "1"), (60, "2"), (120, "4")), GRID)
    assert row.values == [1.0, 2.0, None, 4.0]
    (row,) = answer.rows_of(matrix((60, "0.5"), (90, "NaN")), GRID)
    assert row.values[0] is None
    assert row.values[1] == 0.5
    assert row.values[2] is answer.NAN
    assert answer.rows_of(matrix(), GRID) == []


@pytest.mark.parametrize("time_s", [45, 0, 150, 30.5])
def test_a_time_that_was_not_asked_for_is_an_error(time_s: float) -> None:
    with pytest.raises(EngineError, match="which was not asked for"):
        answer.rows_of(matrix((time_s, "1")), GRID)


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"resultType": "vector", "result": []}, {"resultType": "matrix", "result": [{"values": 1}]}],
)
def test_another_shape_than_was_asked_for_is_an_error(data: object) -> None:
    with pytest.raises(EngineError):
        answer.rows_of(data, GRID)


def test_a_value_that_is_no_number_is_an_error() -> None:
    with pytest.raises(EngineError, match="no number"):
        answer.rows_of(matrix((30, "many")), GRID)


def test_the_engines_time_is_a_scalar_or_the_vector_that_some_make_of_it() -> None:
    assert answer.scalar_of({"resultType": "scalar", "result": [5, "7.25"]}) == 7.25
    assert answer.scalar_of({"resultType": "vector", "result": [{"metric": {}, "value": [5, "7.25"]}]}) == 7.25


def test_samples_keep_their_own_times() -> None:
    assert answer.samples_of(matrix((1.001, "1"), (2.25, "3"))) == [({"a": "b"}, [(1001, 1.0), (2250, 3.0)])]


def test_values_beyond_numbers_are_kept_as_they_are() -> None:
    (row,) = answer.rows_of(matrix((30, "+Inf"), (60, "1.4e16")), GRID)
    assert row.values[:2] == [math.inf, 1.4e16]


def test_what_a_refusal_says_is_one_short_line() -> None:
    assert answer.error_text(b'{"status":"error","errorType":"x","error":"too\\nmany  samples"}') == "too many samples"
    assert answer.error_text(b"plain\x00 words") == "plain words"
    assert len(answer.error_text(b"x" * 5000)) == 200
