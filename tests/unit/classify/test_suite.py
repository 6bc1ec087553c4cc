# SPDX-License-Identifier: Apache-2.0
"""The bars on the process suite, and how scores are counted; `make eval` has the whole of it."""

import pytest

from tests.eval.scores import Case, auc, confusion, interval, recall_by_group, score
from tests.eval.suite import ACCURACY_MIN, COVERAGE_MIN, TABLE, cases, negatives, renamed


def test_with_process_evidence_almost_all_is_asserted_and_almost_none_of_it_wrong() -> None:
    found = score(cases(TABLE.rules))
    assert found.accuracy is not None
    assert found.accuracy >= ACCURACY_MIN
    assert found.coverage >= COVERAGE_MIN


def test_renamed_programs_and_those_of_nobody_are_never_asserted() -> None:
    assert {case.asserted for case in (*cases(TABLE.rules, renamed), *negatives())} == {None}


def case(label: str, asserted: str | None, training: float = 0.5, group: str = "a", hours: float = 1.0) -> Case:
    return Case(group=group, label=label, asserted=asserted, training=training, gpu_hours=hours)


def test_accuracy_is_of_what_is_asserted_and_coverage_of_gpu_hours() -> None:
    some = [case("training", "training", 1.0), case("inference", "training", 1.0), case("training", None, hours=6.0)]
    found = score(some)
    assert (found.accuracy, found.coverage) == (0.5, 0.25)
    assert found.brier == pytest.approx((0 + 1 + 0.25) / 3)
    assert confusion(some)["training", "unclassified"] == 1
    assert recall_by_group(some)["a", "training"] == (1, 2)


def test_nothing_asserted_has_no_accuracy() -> None:
    found = score([case("training", None)])
    assert (found.accuracy, found.coverage) == (None, 0.0)
    assert interval([case("training", None)], lambda scores: scores.accuracy) is None


def test_auc_is_half_where_nothing_is_told() -> None:
    assert auc([case("training", None), case("inference", None)]) == 0.5
    assert auc([case("training", None, 0.9), case("inference", None, 0.1)]) == 1.0


def test_intervals_are_of_whole_groups() -> None:
    alike = [case("training", "training", group=str(group)) for group in range(5)]
    assert interval(alike, lambda scores: scores.accuracy) == (1.0, 1.0)
    mixed = [*alike, *[case("training", "other", group="bad")] * 5]
    low, high = interval(mixed, lambda scores: scores.accuracy) or (1.0, 0.0)
    assert low < 0.5 < high
