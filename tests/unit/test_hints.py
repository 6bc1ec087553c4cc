# SPDX-License-Identifier: Apache-2.0
"""Hints of a workload's processes: one form in bytes, limits, and merging that does not care for order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger import wire
from gpuledger.errors import ReadingError
from gpuledger.hints import RULES_MAX, WORLD_SIZE_MAX, Hints, decode, encode, merge
from gpuledger.reading import decode_workloads, digest, encode_workloads
from gpuledger.states import State
from gpuledger.workload_time import WorkloadTime
from tests.unit.test_reading import one_second

IDS = st.sampled_from(["vllm-serve", "torchrun", "verl", *(f"rule-{number}" for number in range(12))])
HINTS = st.builds(
    Hints,
    rules=st.sets(IDS, max_size=RULES_MAX).map(lambda ids: tuple(sorted(ids))),
    listens=st.none() | st.booleans(),
    world_size=st.none() | st.integers(1, WORLD_SIZE_MAX),
    checkpoints=st.none() | st.integers(0, 99),
    table=st.sampled_from(["1", "2", "1+0123456789ab"]),
)


@given(HINTS)
def test_what_is_encoded_decodes_to_itself(hints: Hints) -> None:
    data = wire.dump(encode(hints))
    assert decode(wire.parse(data, "hints", 1000), "hints") == hints


def test_unknown_is_left_out_and_a_false_that_was_seen_stays() -> None:
    assert encode(Hints(table="1")) == {"table": "1"}
    assert encode(Hints(table="1", listens=False, checkpoints=0)) == {"table": "1", "listens": False, "checkpoints": 0}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "reading: here: not an object"),
        ({}, "reading: here: table is missing"),
        ({"table": "one"}, "reading: here: table 'one' is not the version of a table of rules"),
        ({"table": "1", "rules": []}, "reading: here: rules is not a list of 1 to 8"),
        ({"table": "1", "rules": list("abcdefghi")}, "reading: here: rules is not a list of 1 to 8"),
        ({"table": "1", "rules": ["python train.py"]}, "reading: here: 'python train.py' is not the id of a rule"),
        ({"table": "1", "rules": ["a" * 41]}, f"reading: here: '{'a' * 41}' is not the id of a rule"),
        ({"table": "1", "rules": [1]}, "reading: here: 1 is not the id of a rule"),
        ({"table": "1", "rules": ["b", "a"]}, "reading: here: rules are not in order, each once"),
        ({"table": "1", "rules": ["a", "a"]}, "reading: here: rules are not in order, each once"),
        ({"table": "1", "listens": 1}, "reading: here: listens is not true or false"),
        ({"table": "1", "world_size": 0}, "reading: here: world_size is not from 1 to 1048576"),
        ({"table": "1", "world_size": True}, "reading: here: world_size is not an integer from 0 to 2^63 - 1"),
        ({"table": "1", "argv": "python"}, "reading: here: unknown field 'argv'"),
    ],
)
def test_what_is_wrong_is_told_by_field(value: Any, sentence: str) -> None:
    with pytest.raises(ReadingError) as caught:
        decode(value, "here")
    assert str(caught.value) == sentence


@given(HINTS, HINTS, HINTS)
def test_merging_does_not_care_for_order_or_how_often(first: Hints, second: Hints, third: Hints) -> None:
    both = merge(first, second)
    assert both == merge(second, first)
    assert merge(both, first) == both
    assert merge(merge(first, second), third) == merge(first, merge(second, third))
    assert both is not None
    assert decode(encode(both), "both") == both


def test_nobody_who_looked_adds_nothing() -> None:
    hints = Hints(table="1", rules=("torchrun",))
    assert merge(None, hints) == merge(hints, None) == hints
    assert merge(None, None) is None


def test_seen_once_to_listen_is_seen_to_listen() -> None:
    seen, unseen, unknown = (Hints(table="1", listens=listens) for listens in (True, False, None))
    assert merge(seen, unseen) == merge(seen, unknown) == seen
    assert merge(unseen, unknown) == unseen


def test_hints_go_with_a_workload_through_the_blob() -> None:
    reading = one_second()
    part = WorkloadTime(
        workload="ab" * 32,
        user=None,
        uuid="GPU-0",
        state_slice_ms={State.BUSY: 7000},
        hints=Hints(table="1", rules=("torchrun",), listens=False, world_size=16),
    )
    blob = encode_workloads([part])
    assert decode_workloads(blob, replace(reading, workloads_digest=digest(blob))) == (part,)


def test_a_hint_that_is_null_is_no_other_way_to_leave_it_out() -> None:
    reading = one_second()
    bare = WorkloadTime(workload="ab", user=None, uuid="GPU-0", state_slice_ms={State.BUSY: 7000})
    blob = encode_workloads([bare]).replace(b'{"states"', b'{"hints":null,"states"')
    assert b"null" in blob
    with pytest.raises(ReadingError, match="one form"):
        decode_workloads(blob, replace(reading, workloads_digest=digest(blob)))
