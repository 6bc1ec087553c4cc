# SPDX-License-Identifier: Apache-2.0
"""The commercial axis: it sums to installed time, and its bounds hold whichever GPUs of a pool were meant."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, CELL_SLICE_MS
from gpuledger.states import State
from gpuledger_collector.leases import Commercial, Lease, LeaseBook, Share, add_shares
from gpuledger_collector.roster import Entry

CELL = 10 * CELL_MS
PAID, VOUCHER, SIGNED, UNSOLD = Commercial.PAID, Commercial.VOUCHER, Commercial.SIGNED, Commercial.UNSOLD


def entry(number: int, *, pool: str = "h100", site: str = "fra1") -> Entry:
    return Entry(gpu=f"GPU-{number}", node=f"n{number // 8}", from_ms=0, pool=pool, site=site)


def lease(name: str = "A", **changes: Any) -> Lease:
    facts: dict[str, Any] = {"tenant": "Acme", "kind": PAID, "from_ms": 0, "name": name}
    return Lease(**(facts | changes))


def whole(state: State) -> Mapping[State, int]:
    return {state: CELL_SLICE_MS}


def by_kind(shares: list[Share]) -> dict[Commercial, int]:
    return {share.kind: share.slice_ms // CELL_SLICE_MS for share in add_shares(shares)}


def test_a_lease_of_named_gpus_takes_their_states_exactly() -> None:
    book = LeaseBook([lease(gpus=("GPU-0",), nodes=("n1",))], 0)
    installed = [(entry(0), whole(State.BUSY)), (entry(1), whole(State.FREE)), (entry(8), whole(State.HELD))]
    shares, conflicts = book.share_cell(CELL, installed)
    paid = add_shares(shares)[0]
    assert (paid.kind, paid.lease, paid.slice_ms) == (PAID, "A", 2 * CELL_SLICE_MS)
    assert paid.low_slice_ms == paid.high_slice_ms == {State.BUSY: CELL_SLICE_MS, State.HELD: CELL_SLICE_MS}
    assert by_kind(shares) == {PAID: 2, UNSOLD: 1}
    assert conflicts == []


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"from_ms": CELL}, PAID),
        ({"from_ms": CELL + 1}, UNSOLD),
        ({"to_ms": CELL + CELL_MS}, PAID),
        ({"to_ms": CELL + CELL_MS - 1}, UNSOLD),
        ({"from_ms": CELL + CELL_MS, "signed_ms": CELL}, SIGNED),
        ({"from_ms": CELL + 1, "signed_ms": CELL}, SIGNED),
        ({"from_ms": CELL + CELL_MS, "signed_ms": CELL + 1}, UNSOLD),
    ],
)
def test_leases_round_inward_to_cells(changes: dict[str, Any], kind: Commercial) -> None:
    for what in ({"gpus": ("GPU-0",)}, {"pool": "h100", "count": 1}):
        shares, _ = LeaseBook([lease(**(what | changes))], 0).share_cell(CELL, [(entry(0), whole(State.BUSY))])
        assert by_kind(shares) == {kind: 1}


def test_before_the_book_nothing_is_declared_and_two_leases_on_one_gpu_are_a_finding() -> None:
    book = LeaseBook([lease("A", gpus=("GPU-0",)), lease("B", nodes=("n0",))], CELL)
    installed = [(entry(0), whole(State.BUSY))]
    assert by_kind(book.share_cell(CELL - CELL_MS, installed)[0]) == {Commercial.UNDECLARED: 1}
    shares, conflicts = book.share_cell(CELL, installed)
    assert by_kind(shares) == {Commercial.UNDECLARED: 1}
    assert [(found.kind, found.subject) for found in conflicts] == [("double_lease", "GPU-0")]


def test_an_oversold_pool_is_a_finding_and_what_is_said_to_be_paid_for_comes_last() -> None:
    leases = [lease("A", pool="h100", count=3), lease("B", pool="h100", count=2, kind=VOUCHER)]
    installed = [(entry(number), whole(State.BUSY)) for number in range(4)]
    shares, conflicts = LeaseBook(leases, 0).share_cell(CELL, installed)
    assert by_kind(shares) == {PAID: 2, VOUCHER: 2}
    assert [(found.kind, found.subject) for found in conflicts] == [("oversold", "A")]
    assert "1 GPUs more" in conflicts[0].text


def test_a_pool_as_a_whole_spans_sites_and_one_by_site_does_not() -> None:
    installed = [(entry(0), whole(State.BUSY)), (entry(1, site="ams2"), whole(State.FREE))]
    by_site, conflicts = LeaseBook([lease(pool="h100", site="fra1", count=2)], 0).share_cell(CELL, installed)
    assert by_kind(by_site) == {PAID: 1, UNSOLD: 1}
    assert len(conflicts) == 1
    as_a_whole, conflicts = LeaseBook([lease(pool="h100", count=2)], 0).share_cell(CELL, installed)
    assert by_kind(as_a_whole) == {PAID: 2}
    assert conflicts == []


STATES = st.sampled_from([State.BUSY, State.HELD, State.FREE, State.DARK])


@given(
    st.lists(STATES, min_size=1, max_size=6),
    st.lists(st.integers(min_value=1, max_value=4), max_size=2),
    st.integers(min_value=0, max_value=2),
)
def test_whichever_gpus_of_a_pool_were_leased_the_bounds_hold(
    states: list[State], counts: list[int], named: int
) -> None:
    names = tuple(f"GPU-{number}" for number in range(min(named, len(states))))
    leases = [lease(f"P{index}", pool="h100", count=count) for index, count in enumerate(counts)]
    if names:
        leases.append(lease("N", gpus=names))
    installed = [(entry(number), whole(state)) for number, state in enumerate(states)]
    shares, _ = LeaseBook(leases, 0).share_cell(CELL, installed)
    assert sum(share.slice_ms for share in shares) == len(states) * CELL_SLICE_MS
    for share in shares:
        assert sum(share.low_slice_ms.values()) <= share.slice_ms <= sum(share.high_slice_ms.values())
    rest = states[len(names) :]
    for share in shares:
        if share.lease is None or not share.lease.startswith("P"):
            continue
        size = share.slice_ms // CELL_SLICE_MS
        # Each bound is met by some choice of the GPUs that were leased, so it is neither too narrow nor too wide.
        for which in set(rest):
            some = [
                sum(state is which for state in chosen) * CELL_SLICE_MS for chosen in itertools.combinations(rest, size)
            ]
            assert (min(some), max(some)) == (share.low_slice_ms.get(which, 0), share.high_slice_ms.get(which, 0))


def test_a_gpu_is_leased_by_name_only() -> None:
    book = LeaseBook([lease("A", nodes=("n0",), from_ms=CELL), lease("B", pool="h100", count=9)], 0)
    assert book.is_leased(entry(0), CELL)
    assert not book.is_leased(entry(0), CELL - CELL_MS)
    assert not book.is_leased(entry(8), CELL)
