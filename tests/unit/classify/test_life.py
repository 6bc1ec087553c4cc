# SPDX-License-Identifier: Apache-2.0
"""A life is a function of the set of its signs."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS
from gpuledger.hints import Hints
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import Life, SignsChangedError, extend, fold, merged
from gpuledger_collector.classify.life_bytes import from_bytes as life_from_bytes
from gpuledger_collector.classify.life_bytes import to_bytes as life_to_bytes
from gpuledger_collector.classify.signs import HourSigns, from_bytes, to_bytes
from tests.fakes.signs import ENGINE, LAUNCHER, NOBODY_KNOWS, RULES, START_MS, hints, hours

TOLD = st.sampled_from([None, NOBODY_KNOWS, LAUNCHER, ENGINE, hints("notebook"), hints("rollouts", "engine")])


@st.composite
def several(draw: st.DrawFn) -> list[HourSigns]:
    """Signs of one workload at some nodes, with holes."""
    found: list[HourSigns] = []
    for node in draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True)):
        start_ms = START_MS + draw(st.integers(0, 40)) * CELL_MS
        cells = draw(st.lists(TOLD, min_size=1, max_size=30))
        features = {"sole_ms": draw(st.integers(1, HOUR_MS)), "memory_swings": draw(st.integers(30, 90))}
        found += hours(*cells, node=node, start_ms=start_ms, features=features, workload=f"w at {node}")
    return found


def cut(signs: list[HourSigns], end_ms: int) -> list[HourSigns]:
    """What was known of the signs when cells up to `end_ms` were sealed; the last hour's features grow."""
    found = []
    for one in signs:
        cells = tuple(cell for cell in one.cells if cell.cell_ms < end_ms)
        if cells:
            features = {name: amount * len(cells) // len(one.cells) for name, amount in one.features.items()}
            found.append(replace(one, cells=cells, features=features))
    return found


def step_by_step(signs: list[HourSigns], every: int) -> list[Life]:
    """Fold as a collector does: some cells at a time, lives stored and restored in between."""
    lives: list[Life] = []
    last_ms = max(cell.cell_ms for one in signs for cell in one.cells)
    end_ms = START_MS
    while end_ms <= last_ms:
        end_ms += every * CELL_MS
        known = cut(signs, end_ms)
        since = lives[-1].hour_ms if lives else 0
        for hour_ms in sorted({one.hour_ms for one in known if one.hour_ms >= since}):
            extend(
                lives,
                [one for one in sorted(known, key=lambda s: s.node) if one.hour_ms == hour_ms],
                RULES,
                may_requeue=True,
            )
        if lives:
            stored = life_to_bytes(lives[-1])
            last_hour = [one for one in known if one.hour_ms == lives[-1].hour_ms]
            lives[-1] = life_from_bytes(stored, {lives[-1].hour_ms: last_hour}.__getitem__)
    return lives


@given(signs=several(), order=st.randoms(use_true_random=False), every=st.integers(1, 30))
def test_the_same_signs_give_the_same_lives_in_any_order_and_any_steps(
    signs: list[HourSigns], order: Random, every: int
) -> None:
    whole = fold(signs, RULES, may_requeue=True)
    mixed = list(signs)
    order.shuffle(mixed)
    assert fold(mixed, RULES, may_requeue=True) == whole
    assert step_by_step(signs, every) == whole


@given(signs=several())
def test_signs_survive_the_store(signs: list[HourSigns]) -> None:
    assert [from_bytes(one.hour_ms, one.node, one.workload, to_bytes(one)) for one in signs] == signs


@given(signs=several())
def test_a_life_has_all_busy_time_of_its_signs_once(signs: list[HourSigns]) -> None:
    total = sum(cell.busy_slice_ms for one in signs for cell in one.cells)
    assert sum(life.sums.busy for life in fold(signs, RULES, may_requeue=True)) == total


def test_a_job_of_many_nodes_is_one_life() -> None:
    signs = hours(LAUNCHER, LAUNCHER, node="a") + hours(LAUNCHER, LAUNCHER, node="b")
    (life,) = fold(signs, RULES, may_requeue=True)
    assert (life.nodes, life.gpus_max, life.sums.busy) == (["a", "b"], 2, 4 * CELL_SLICE_MS)


def test_a_job_that_was_queued_again_has_two_lives() -> None:
    first = hours(*[LAUNCHER] * 4, node="a")
    again = hours(*[ENGINE] * 4, node="b", start_ms=START_MS + 20 * CELL_MS)
    lives = fold(first + again, RULES, may_requeue=True)
    assert [life.asserted for life in lives] == [Kind.TRAINING, Kind.INFERENCE]
    assert len(fold(first + again, RULES, may_requeue=False)) == 1


def test_a_job_that_nobody_saw_for_a_while_at_its_node_is_the_same_job() -> None:
    signs = hours(LAUNCHER, LAUNCHER) + hours(LAUNCHER, start_ms=START_MS + 20 * CELL_MS)
    assert len(fold(signs, RULES, may_requeue=True)) == 1


def test_late_signs_are_noticed() -> None:
    lives = fold(hours(LAUNCHER, LAUNCHER, node="b"), RULES, may_requeue=True)
    both = hours(LAUNCHER, node="a") + hours(LAUNCHER, LAUNCHER, node="b")
    with pytest.raises(SignsChangedError):
        extend(lives, both, RULES, may_requeue=True)


def test_a_counted_cell_that_is_another_now_is_noticed() -> None:
    lives = fold(hours(LAUNCHER, LAUNCHER), RULES, may_requeue=True)
    with pytest.raises(SignsChangedError):
        extend(lives, hours(ENGINE, LAUNCHER, LAUNCHER), RULES, may_requeue=True)


def test_a_life_is_bounded_whatever_its_signs() -> None:
    told: list[Hints | None] = [hints(f"rule-{index}") for index in range(100)]
    signs = hours(*told, *[LAUNCHER, *[NOBODY_KNOWS] * 4] * 60)
    (life,) = fold(signs, RULES, may_requeue=True)
    assert len(life.sums.rules) <= 32
    assert len(life.changes) <= 50
    assert len(merged(signs[-1:])) <= 12
