# SPDX-License-Identifier: Apache-2.0
"""Installed time rounds outward, declarations inward, and a fleet without a roster is what it claimed first."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS
from gpuledger_collector.roster import Claim, Entry, Roster, Window, WindowKind, complete, discover, installed_cells
from tests.profiles import examples

TIMES = st.integers(0, 10 * CELL_MS) | st.integers(0, 10).map(lambda index: index * CELL_MS)
END_MS = 10 * CELL_MS
GPU = Entry(gpu="GPU-0", node="node-0", from_ms=0)


def cells_of(*entries: Entry, start_ms: int = 0, end_ms: int = END_MS) -> list[tuple[int, str]]:
    ordered = Roster(entries=entries).by_gpu()["GPU-0"]
    return [(cell_ms // CELL_MS, entry.node) for cell_ms, entry in installed_cells(ordered, start_ms, end_ms)]


# -------------------------------------------------------------------------------------------------- installed time


@pytest.mark.parametrize(
    ("from_ms", "to_ms", "expected"),
    [
        (0, CELL_MS, [0]),
        (1, CELL_MS, [0]),
        (0, CELL_MS + 1, [0, 1]),
        (CELL_MS - 1, CELL_MS + 1, [0, 1]),
        (CELL_MS, 2 * CELL_MS, [1]),
        (2 * CELL_MS + 5, 2 * CELL_MS + 6, [2]),
        (9 * CELL_MS, None, [9]),
        (10 * CELL_MS, None, []),
    ],
)
def test_a_gpu_is_installed_in_every_cell_that_it_was_in_service_for_any_of(
    from_ms: int, to_ms: int | None, expected: list[int]
) -> None:
    assert [cell for cell, _ in cells_of(replace(GPU, from_ms=from_ms, to_ms=to_ms))] == expected


@examples(3)
@given(TIMES, st.integers(1, 3 * CELL_MS), TIMES, st.integers(1, 5))
def test_installed_time_rounds_outward(from_ms: int, length_ms: int, start_ms: int, cells: int) -> None:
    start_ms -= start_ms % CELL_MS
    end_ms = start_ms + cells * CELL_MS
    entry = replace(GPU, from_ms=from_ms, to_ms=from_ms + length_ms)
    found = [cell_ms for cell_ms, _ in installed_cells((entry,), start_ms, end_ms)]
    expected = [
        cell_ms
        for cell_ms in range(start_ms, end_ms, CELL_MS)
        if from_ms < cell_ms + CELL_MS and cell_ms < from_ms + length_ms
    ]
    assert found == expected


def test_a_cell_that_a_move_divides_goes_to_the_node_that_was_there_first() -> None:
    moved_ms = 2 * CELL_MS + 1
    before = replace(GPU, to_ms=moved_ms)
    after = replace(GPU, node="node-1", from_ms=moved_ms, to_ms=4 * CELL_MS)
    assert cells_of(after, before) == [(0, "node-0"), (1, "node-0"), (2, "node-0"), (3, "node-1")]


def test_a_move_on_an_edge_divides_no_cell() -> None:
    before = replace(GPU, to_ms=2 * CELL_MS)
    after = replace(GPU, node="node-1", from_ms=2 * CELL_MS, to_ms=3 * CELL_MS)
    assert cells_of(before, after) == [(0, "node-0"), (1, "node-0"), (2, "node-1")]


@examples(3)
@given(st.lists(st.tuples(TIMES, st.integers(1, 4 * CELL_MS), st.sampled_from(["a", "b", "c"])), max_size=5))
def test_entries_that_overlap_count_no_cell_twice(spans: list[tuple[int, int, str]]) -> None:
    entries = [replace(GPU, node=node, from_ms=begin, to_ms=begin + length) for begin, length, node in spans]
    if entries:
        cells = [cell for cell, _ in cells_of(*entries)]
        assert cells == sorted(set(cells))


# ---------------------------------------------------------------------------------------------------- declarations


@examples(5)
@given(TIMES, st.integers(0, 4 * CELL_MS), st.integers(0, 9))
def test_declarations_round_inward(begin_ms: int, length_ms: int, cell: int) -> None:
    window = Window(
        kind=WindowKind.STANDBY, start_ms=begin_ms, end_ms=begin_ms + length_ms, declared_ms=-1, node="node-0"
    )
    cell_ms = cell * CELL_MS
    is_inside = all(begin_ms <= time_ms < begin_ms + length_ms for time_ms in (cell_ms, cell_ms + CELL_MS - 1))
    assert window.covers(GPU, cell_ms) == is_inside


@pytest.mark.parametrize(("declared_ms", "expected"), [(0, True), (999, True), (1000, False), (1001, False)])
def test_only_what_was_declared_before_it_began_counts(declared_ms: int, *, expected: bool) -> None:
    window = Window(kind=WindowKind.MAINTENANCE, start_ms=1000, end_ms=END_MS, declared_ms=declared_ms, gpu="GPU-0")
    assert window.is_valid == expected
    assert window.covers(GPU, CELL_MS) == expected


@pytest.mark.parametrize(
    ("node", "gpu", "expected"),
    [
        ("node-0", None, True),
        (None, "GPU-0", True),
        ("node-0", "GPU-0", True),
        ("node-1", None, False),
        (None, "GPU-1", False),
        ("node-1", "GPU-0", False),
        ("node-0", "GPU-1", False),
        (None, None, False),
    ],
)
def test_a_window_means_a_node_or_a_gpu_or_a_gpu_while_it_is_at_a_node(
    node: str | None, gpu: str | None, *, expected: bool
) -> None:
    window = Window(kind=WindowKind.STANDBY, start_ms=0, end_ms=END_MS, declared_ms=-1, node=node, gpu=gpu)
    assert window.covers(GPU, 0) == expected


# ------------------------------------------------------------------------------------------------------- discovery

CLAIMS = st.lists(
    st.builds(
        Claim,
        gpu=st.sampled_from(["GPU-0", "GPU-1"]),
        node=st.sampled_from(["node-0", "node-1"]),
        first_ms=st.integers(0, 3),
        serial=st.sampled_from([None, "s0", "s1"]),
        model=st.sampled_from([None, "H100"]),
    ),
    max_size=6,
)


@examples(3)
@given(CLAIMS, st.integers(0, 2**32 - 1))
def test_discovery_depends_on_what_was_claimed_and_not_on_the_order_of_arrival(claims: list[Claim], seed: int) -> None:
    shuffled = claims * 2
    Random(seed).shuffle(shuffled)
    places = {"node-0": ("paris", "east", "training")}
    roster = discover(shuffled, places, {"GPU-1": 5})
    assert roster == discover(claims, places, {"GPU-1": 5})
    assert not roster.is_declared
    assert [entry.gpu for entry in roster.entries] == sorted({claim.gpu for claim in claims})
    for entry in roster.entries:
        own = [claim for claim in claims if claim.gpu == entry.gpu]
        assert (entry.from_ms, entry.node) == min((claim.first_ms, claim.node) for claim in own)
        assert entry.to_ms == (5 if entry.gpu == "GPU-1" else None)
        assert entry.site == ("paris" if entry.node == "node-0" else "unknown")


def test_what_the_first_claim_did_not_know_is_taken_from_the_next_of_that_node() -> None:
    claims = [
        Claim(gpu="GPU-0", node="node-0", first_ms=1),
        Claim(gpu="GPU-0", node="node-0", first_ms=2, serial="s0"),
        Claim(gpu="GPU-0", node="node-0", first_ms=3, serial="later", model="H100"),
        Claim(gpu="GPU-0", node="liar", first_ms=2, serial="other", model="B200"),
    ]
    entry = discover(claims, {}, {}).entries[0]
    assert (entry.node, entry.serial, entry.model) == ("node-0", "s0", "H100")


def test_a_declared_roster_is_completed_and_never_contradicted() -> None:
    by_uuid = replace(GPU, model="H100 as declared")
    by_serial = Entry(gpu="serial:s1", node="node-1", from_ms=0, serial="s1")
    claims = [
        Claim(gpu="GPU-0", node="node-0", first_ms=1, serial="s0", model="H100"),
        Claim(gpu="GPU-1", node="node-1", first_ms=1, serial="s1", model="H200"),
    ]
    first, second = complete(Roster(entries=(by_uuid, by_serial), is_declared=True), claims).entries
    assert (first.gpu, first.serial, first.model) == ("GPU-0", "s0", "H100 as declared")
    assert (second.gpu, second.serial, second.model) == ("serial:s1", "s1", "H200")
