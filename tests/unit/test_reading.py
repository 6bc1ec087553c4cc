# SPDX-License-Identifier: Apache-2.0
"""The sealed reading: one form in bytes, its limits, and its laws against whatever else may come."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger.errors import ReadingError
from gpuledger.gpu_time import GpuTime
from gpuledger.reading import (
    GPUS_MAX,
    INTEGER_MAX,
    LEAF_BYTES_MAX,
    TEXT_CHARACTERS_MAX,
    WORKLOADS_BYTES_MAX,
    Reading,
    decode,
    decode_workloads,
    digest,
    encode,
    encode_workloads,
)
from gpuledger.states import State, Uncovered
from gpuledger.workload_time import WorkloadTime
from tests.fakes.fleets import Fleet, fleets
from tests.profiles import examples

SEEDS = st.integers(0, 2**32 - 1)


def one_second() -> Reading:
    """Return a reading of one second in which one GPU was busy for it all."""
    return Reading(
        node_id="ab" * 32,
        node_name="node-0",
        session="first",
        sequence=1,
        boot_id="boot",
        start_ms=CELL_MS,
        end_ms=CELL_MS + 1000,
        wall_start_ms=CELL_MS,
        wall_end_ms=CELL_MS + 1000,
        interval_ms=1000,
        agent_version="0.1.0",
        configuration_digest="cd" * 32,
        previous="genesis",
        gpus=(
            GpuTime(
                uuid="GPU-0",
                state_slice_ms={State.BUSY: 7000},
                bin_slice_ms=(0, 0, 0, 0, 0, 0, 0, 7000),
                active_ns=900_000_000,
                active_known_ms=1000,
                memory_used_bytes_max=0,
            ),
        ),
    )


def checked(data: bytes) -> Reading | None:
    """Decode; where it is refused, the refusal must be a short sentence. Where it is not, the laws must hold."""
    try:
        reading = decode(data)
    except ReadingError as exc:
        sentence = str(exc)
        assert sentence.isprintable()
        assert len(sentence) < 500
        return None
    assert encode(reading) == data
    span_slice_ms = 7 * (reading.end_ms - reading.start_ms)
    assert 0 <= reading.cell_ms <= reading.start_ms < reading.end_ms <= reading.cell_ms + CELL_MS
    for gpu in reading.gpus:
        amounts = [*gpu.state_slice_ms.values(), *gpu.uncovered_slice_ms.values()]
        assert sum(amounts) == span_slice_ms
        assert all(type(amount) is int and amount > 0 for amount in amounts)
        held = gpu.state_slice_ms.get(State.BUSY, 0) + gpu.state_slice_ms.get(State.HELD, 0)
        assert sum(gpu.bin_slice_ms) == held
        assert (gpu.active_ns is None) == (gpu.active_known_ms == 0)
    return reading


# ------------------------------------------------------------------------------------------------------ round trip


@examples()
@given(fleets())
def test_what_is_encoded_decodes_to_itself_and_encodes_to_the_same_bytes(fleet: Fleet) -> None:
    for accepted in fleet.readings:
        data = encode(accepted.reading)
        assert decode(data) == accepted.reading
        assert encode(decode(data)) == data
        blob = encode_workloads(accepted.workloads)
        if accepted.workloads:
            assert digest(blob) == accepted.reading.workloads_digest
            assert encode_workloads(decode_workloads(blob, accepted.reading)) == blob


def test_zeros_are_left_out_but_measured_zeros_stay() -> None:
    reading = one_second()
    gpu = replace(reading.gpus[0], state_slice_ms={State.BUSY: 7000, State.FREE: 0}, energy_mj={"busy": 0})
    text = encode(replace(reading, gpus=(gpu,))).decode("ascii")
    assert '"free"' not in text
    assert '"energy_mj"' not in text
    assert '"memory_used_bytes_max":0' in text


# ------------------------------------------------------------------------------------------------------ mutations


@examples(3)
@given(fleets(nodes=1, cells=1), SEEDS)
def test_any_changed_byte_is_refused_or_gives_another_lawful_reading(fleet: Fleet, seed: int) -> None:
    rng = Random(seed)
    for accepted in fleet.readings:
        data = bytearray(encode(accepted.reading))
        for _ in range(8):
            position, kind = rng.randrange(len(data)), rng.choice(("change", "drop", "double", "swap"))
            changed = bytearray(data)
            if kind == "change":
                changed[position] = rng.choice((rng.randrange(256), *b'0129-."{}[],: \\eE+ntf\x00\xff'))
            elif kind == "drop":
                del changed[position]
            elif kind == "double":
                changed.insert(position, changed[position])
            else:
                other = rng.randrange(len(data))
                changed[position], changed[other] = changed[other], changed[position]
            checked(bytes(changed))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "\ud800", "\n", "x" * 257, "busy", 2**63, -1, 0, 1.0, 7000, [1, 1], [2, 1], {}]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += paths_of(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            found += paths_of(inner, (*path, index))
    return found


@examples(5)
@given(fleets(nodes=1, cells=1), SEEDS, JSON, st.sampled_from(["replace", "delete", "add"]))
def test_any_changed_field_is_refused_or_gives_another_lawful_reading(
    fleet: Fleet, seed: int, value: Any, kind: str
) -> None:
    rng = Random(seed)
    for accepted in fleet.readings:
        plain = json.loads(encode(accepted.reading))
        path = rng.choice(paths_of(plain)[1:])
        holder = plain
        for step in path[:-1]:
            holder = holder[step]
        if kind == "delete":
            del holder[path[-1]]
        elif kind == "add" and isinstance(holder, dict):
            holder["x"] = value
        else:
            holder[path[-1]] = value
        checked(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode("ascii"))


@examples(3)
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode("ascii")))
def test_bytes_that_are_no_reading_are_refused(data: bytes) -> None:
    assert checked(data) is None


# ----------------------------------------------------------------------------------------------------- the one form


def edit(old: str, new: str) -> bytes:
    text = encode(one_second()).decode("ascii")
    assert text.count(old) == 1
    return text.replace(old, new).encode("ascii")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"sequence":1', '"sequence":1,"sequence":1', "'sequence' stands twice"),
        ('"busy":7000', '"busy":1,"busy":7000', "'busy' stands twice"),
        ('"schema":1', '"schema":1.0', "schema"),
        ('"schema":1', '"schema":true', "schema"),
        ('"schema":1', '"schema":2', "schema 2"),
        ('"sequence":1', '"sequence":1.0', "sequence"),
        ('"sequence":1', '"sequence":true', "sequence"),
        ('"sequence":1', '"sequence":1e0', "sequence"),
        ('"sequence":1', '"sequence":NaN', "NaN"),
        ('"sequence":1', '"sequence":-1', "sequence"),
        ('"memory_used_bytes_max":0', '"memory_used_bytes_max":-0', "one form"),
        ('"sequence":1', '"sequence":01', "not JSON"),
        ('"sequence":1', '"sequence":9223372036854775808', "sequence"),
        ('"sequence":1', '"sequence": 1', "one form"),
        ('"sequence":1', '"sequence":1,"x":1', "unknown field 'x'"),
        ('"sequence":1', '"sequence":1,"simulated":false', "one form"),
        ('"sequence":1', '"sequence":1,"part":[1,1]', "one form"),
        ('"sequence":1', '"sequence":1,"workloads":null', "one form"),
        ('"sequence":1', '"checkpoint":[1],"sequence":1', "checkpoint"),
        ('"sequence":1', '"checkpoint":7,"sequence":1', "checkpoint"),
        ('"session":"first"', '"session":"\\u0066irst"', "one form"),
        ('"session":"first"', '"session":"\\ud800"', "session"),
        ('"session":"first"', '"session":"a\\nb"', "session"),
        ('"session":"first"', '"session":""', "session"),
        ('"session":"first"', f'"session":"{"x" * 257}"', "session"),
        ('"uuid":"GPU-0"', '"uuid":""', "uuid"),
        ('"uuid":"GPU-0"', '"uuid":"GPU-0","uncovered":{}', "one form"),
        ('"active_known_ms":1000,', "", "active_known_ms"),
        ('"active_ns":900000000,', "", "active_ns"),
        ('"active_ns":900000000', '"active_ns":1000000001', "active_ns"),
        ('"memory_used_bytes_max":0', '"hang_suspicion_ms":1,"memory_used_bytes_max":0', "hang_suspicion_ms"),
        ('"busy":7000', '"dark":7000', "dark"),
        ('"busy":7000', '"standby":7000', "standby"),
        ('"busy":7000', '"busy":6999', "6999"),
        ('"busy":7000', '"held":0,"busy":7000', "held"),
        ('"7":7000', '"8":7000', "8"),
        ('"7":7000', '"7":6993', "bins"),
        ('"end_ms":301000', '"end_ms":300000', "span"),
        ('"interval_ms":1000', '"interval_ms":0', "interval_ms"),
    ],
)
def test_only_the_one_form_is_decoded_and_the_refusal_names_the_field(old: str, new: str, named: str) -> None:
    with pytest.raises(ReadingError, match=r"^reading: ") as caught:
        decode(edit(old, new))
    assert named in str(caught.value)


@pytest.mark.parametrize("around", [(b" ", b""), (b"", b"\n"), (b"\xef\xbb\xbf", b"")])
def test_nothing_may_stand_around_a_reading(around: tuple[bytes, bytes]) -> None:
    with pytest.raises(ReadingError):
        decode(around[0] + encode(one_second()) + around[1])


def test_a_reading_in_another_unicode_encoding_is_refused() -> None:
    with pytest.raises(ReadingError):
        decode(encode(one_second()).decode("ascii").encode("utf-16"))


def test_a_deep_nest_of_brackets_is_refused() -> None:
    with pytest.raises(ReadingError, match="not JSON"):
        decode(b"[" * LEAF_BYTES_MAX)


# ------------------------------------------------------------------------------------------- encode refuses as well


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        ("header", {"sequence": 0}),
        ("header", {"sequence": INTEGER_MAX + 1}),
        ("header", {"start_ms": -1000, "end_ms": 0, "wall_start_ms": 0}),
        ("header", {"end_ms": 2 * CELL_MS + 1}),
        ("header", {"node_name": ""}),
        ("header", {"node_name": "x" * (TEXT_CHARACTERS_MAX + 1)}),
        ("header", {"node_name": "two\nlines"}),
        ("header", {"session": "\udc80"}),
        ("header", {"part": (2, 1)}),
        ("header", {"interval_ms": CELL_MS + 1}),
        ("header", {"checkpoint": "x" * (TEXT_CHARACTERS_MAX + 1)}),
        ("first_gpu", {"state_slice_ms": {State.BUSY: 7001, State.FREE: -1}}),
        ("first_gpu", {"state_slice_ms": {State.BUSY: 7000, State.DARK: 0, State.FREE: -0, State.STANDBY: 7}}),
        ("first_gpu", {"uncovered_slice_ms": {Uncovered.GAP: 7}}),
        ("first_gpu", {"bin_slice_ms": (0, 0, 0, 0, 0, 0, -1, 7001)}),
        ("first_gpu", {"bin_slice_ms": (0, 0, 0, 0, 0, 0, 0, 0, 7000)}),
        ("first_gpu", {"energy_mj": {"warmth": 1}}),
        ("first_gpu", {"energy_mj": {"busy": -1}}),
        ("first_gpu", {"energy_start_mj": -1}),
        ("first_gpu", {"memory_used_bytes_max": INTEGER_MAX + 1}),
        ("first_gpu", {"active_ns": 0, "active_known_ms": 0}),
        ("first_gpu", {"active_ns": None}),
        ("first_gpu", {"hang_suspicion_ms": 1}),
    ],
)
def test_what_would_not_be_decoded_is_not_encoded(place: str, changes: dict[str, Any]) -> None:
    reading = one_second()
    if place == "first_gpu":
        changes = {"gpus": (replace(reading.gpus[0], **changes),)}
    with pytest.raises(ReadingError):
        encode(replace(reading, **changes))


def test_a_reading_may_not_cross_the_edge_of_a_cell_even_if_its_sums_hold() -> None:
    across = replace(one_second(), start_ms=2 * CELL_MS - 500, end_ms=2 * CELL_MS + 500)
    with pytest.raises(ReadingError, match="within one cell"):
        encode(across)
    encode(replace(across, start_ms=2 * CELL_MS - 1000, end_ms=2 * CELL_MS))


def test_one_gpu_may_not_stand_twice_in_a_reading() -> None:
    reading = one_second()
    with pytest.raises(ReadingError, match="twice"):
        encode(replace(reading, gpus=reading.gpus * 2))


def test_a_reading_may_not_have_more_gpus_or_bytes_than_the_limits() -> None:
    reading = one_second()

    def gpus(count: int) -> tuple[GpuTime, ...]:
        return tuple(replace(reading.gpus[0], uuid=f"GPU-{index}") for index in range(count))

    with pytest.raises(ReadingError, match=str(GPUS_MAX)):
        encode(replace(reading, gpus=gpus(GPUS_MAX + 1)))
    long = tuple(replace(gpu, model="x" * TEXT_CHARACTERS_MAX) for gpu in gpus(GPUS_MAX))
    with pytest.raises(ReadingError, match=f"at most {LEAF_BYTES_MAX}"):
        encode(replace(reading, gpus=long))
    assert len(decode(encode(replace(reading, gpus=gpus(GPUS_MAX)))).gpus) == GPUS_MAX


# ------------------------------------------------------------------------------------------------------- workloads


def share(amounts: dict[State, int], **changes: Any) -> WorkloadTime:
    return replace(WorkloadTime(workload="ef" * 32, user=None, uuid="GPU-0", state_slice_ms=amounts), **changes)


def with_workloads(blob: bytes) -> Reading:
    return replace(one_second(), workloads_digest=digest(blob))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [share({State.BUSY: 6999})],
        [share({State.BUSY: 7000}), share({State.BUSY: 1})],
        [share({State.BUSY: 7000, State.FREE: 1})],
        [share({State.BUSY: 7000}, uuid="GPU-1")],
        [share({State.BUSY: 7000}), share({State.HELD: 7})],
    ],
)
def test_workloads_that_do_not_sum_to_the_reading_are_refused(parts: list[WorkloadTime]) -> None:
    blob = encode_workloads(parts)
    with pytest.raises(ReadingError, match="workloads"):
        decode_workloads(blob, with_workloads(blob))


@pytest.mark.parametrize(
    "blob",
    [
        b"{}",
        b"[7]",
        b"[{}]",
        b'[{"states":{"busy":7000},"uuid":"GPU-0","workload":"w"} ]',
        b'[{"states":{"busy":7000,"busy":7000},"uuid":"GPU-0","workload":"w"}]',
        b'[{"states":{"busy":7000.0},"uuid":"GPU-0","workload":"w"}]',
        b'[{"states":{"busy":7000},"user":null,"uuid":"GPU-0","workload":"w"}]',
        b'[{"states":{"busy":7000},"uuid":"GPU-0","workload":"w","x":1}]',
        b"\xff",
    ],
)
def test_workloads_that_are_not_in_the_one_form_are_refused(blob: bytes) -> None:
    with pytest.raises(ReadingError, match="workloads"):
        decode_workloads(blob, with_workloads(blob))


def test_workloads_of_another_reading_are_refused() -> None:
    blob = encode_workloads([share({State.BUSY: 7000})])
    assert decode_workloads(blob, with_workloads(blob))[0].state_slice_ms == {State.BUSY: 7000}
    with pytest.raises(ReadingError, match="digest"):
        decode_workloads(blob, with_workloads(blob + b" "))


@pytest.mark.parametrize(
    "part",
    [
        share({State.BUSY: -7}),
        share({State.BUSY: 7}, workload="x" * (TEXT_CHARACTERS_MAX + 1)),
        share({State.BUSY: 7}, user="a\nb"),
        share({State.BUSY: 7}, memory_bytes_max=-1),
    ],
)
def test_workloads_that_would_not_be_decoded_are_not_encoded(part: WorkloadTime) -> None:
    with pytest.raises(ReadingError, match="workloads"):
        encode_workloads([part])


def test_workloads_over_the_limit_are_not_encoded() -> None:
    with pytest.raises(ReadingError, match=f"at most {WORKLOADS_BYTES_MAX}"):
        encode_workloads([share({State.BUSY: 7}, workload=f"{index:064x}") for index in range(1000)])
