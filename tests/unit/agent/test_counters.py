# SPDX-License-Identifier: Apache-2.0
"""Counters on trial: what makes one believed, and what it may never again be."""

from __future__ import annotations

import pytest

from gpuledger_agent.counters import CounterTrials, bytes_since, share_of
from gpuledger_agent.measures import MIB, Measures
from gpuledger_agent.snapshot import Count

SECOND_NS = 10**9
CYCLES = 1_980_000_000


class Board:
    """A GPU whose SMs are 80 % active: its counters, and what means say of each second."""

    def __init__(self) -> None:
        self.trials = CounterTrials()
        self.sm, self.elapsed = 10**15, 10**16

    def second(self, *, said_ppm: int | None = 800_000, active: float = 0.8) -> bool:
        """Let a second pass; return whether the SM counter is believed then."""
        self.elapsed += CYCLES
        self.sm += round(active * CYCLES)
        told = None if said_ppm is None else Measures(sm_active_ppm=said_ppm)
        return "sm" in self.trials.offer({"sm": Count(self.sm, self.elapsed)}, told, SECOND_NS)


def test_five_agreements_in_a_row_make_a_counter_believed() -> None:
    board = Board()
    # The first is only where counting begins.
    assert [board.second() for _ in range(7)] == [False] * 5 + [True] * 2


def test_a_disagreement_begins_the_row_anew_and_takes_the_belief() -> None:
    board = Board()
    assert [board.second() for _ in range(6)][-1]
    assert not board.second(said_ppm=700_000)
    assert [board.second() for _ in range(5)] == [False] * 4 + [True]


def test_five_disagreements_in_a_row_are_final() -> None:
    board = Board()
    board.second()
    for _ in range(5):
        assert board.trials.failed == set()
        board.second(said_ppm=300_000)
    assert board.trials.failed == {"sm"}
    assert not any(board.second() for _ in range(20))


@pytest.mark.parametrize(
    ("active", "said_ppm", "agrees"),
    [
        (0.8, 761_904, False),
        (0.8, 761_905, True),
        (0.8, 842_105, True),
        (0.8, 842_107, False),
        (0.1, 79_999, False),
        (0.1, 80_000, True),
        (0.1, 120_000, True),
        (0.1, 120_001, False),
    ],
)
def test_a_counter_may_differ_by_two_percent_of_the_time_or_a_twentieth(
    active: float, said_ppm: int, agrees: bool
) -> None:
    board = Board()
    assert [board.second(said_ppm=said_ppm, active=active) for _ in range(6)][-1] is agrees


def test_a_mean_of_little_or_none_proves_nothing() -> None:
    board = Board()
    for _ in range(20):
        assert not board.second(said_ppm=49_999, active=0.049999)
        assert not board.second(said_ppm=None)
    assert board.trials.failed == set()


def test_a_missed_offer_is_compared_with_nothing() -> None:
    board = Board()
    for _ in range(4):
        board.second()
    # Two seconds between two counts, and the mean of one of them: no contradiction, as they are not compared.
    board.trials.offer({}, None, SECOND_NS)
    board.elapsed, board.sm = board.elapsed + CYCLES, board.sm
    assert not board.second()
    assert [board.second() for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("said", "believed"), [(95 * MIB, False), (96 * MIB, True), (105 * MIB, True), (106 * MIB, False)]
)
def test_bytes_agree_within_a_twentieth(said: int, believed: bool) -> None:
    board = Board()
    offered = {}
    for tick in range(7):
        told = Measures(link_bytes={"pcie_tx": said})
        offered = board.trials.offer({"pcie_tx": Count(tick * 100 * MIB)}, told, SECOND_NS)
    assert ("pcie_tx" in offered) is believed


def test_less_than_a_mebibyte_proves_nothing_of_a_link() -> None:
    trials = CounterTrials()
    for tick in range(20):
        told = Measures(link_bytes={"pcie_tx": MIB - 1})
        assert trials.offer({"pcie_tx": Count(tick * (MIB - 1))}, told, SECOND_NS) == {}


@pytest.mark.parametrize(
    ("base", "now", "share"),
    [
        (Count(10, 100), Count(15, 110), 500),
        (Count(10, 100), Count(10, 110), 0),
        (Count(10, 100), Count(20, 110), 1000),
        (Count(10, 100), Count(21, 110), None),
        (Count(10, 100), Count(9, 110), None),
        (Count(10, 100), Count(10, 100), None),
        (Count(10, 100), Count(15, 90), None),
        (Count(10), Count(15), None),
    ],
)
def test_a_share_is_of_what_elapsed_and_never_more(base: Count, now: Count, share: int | None) -> None:
    assert share_of(base, now, 1000) == share


@pytest.mark.parametrize(("grown", "found"), [(0, 0), (2**38, 2**38), (2**38 + 1, None), (-1, None)])
def test_bytes_neither_fall_nor_come_faster_than_any_link(grown: int, found: int | None) -> None:
    assert bytes_since(Count(7), Count(7 + grown), "pcie_rx", 1000) == found
