# SPDX-License-Identifier: Apache-2.0
"""On the hard cases nothing is asserted wrong, and it does not matter how often a node is looked at."""

import pytest

from gpuledger.process_rules import load_rules
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import fold
from gpuledger_collector.classify.verdict import Context, Verdict, judge
from tests.eval.hard_cases import HARD_CASES, INTERVALS_S, RENAMED, HardCase, signs

TABLE = load_rules()
CONTEXT = Context(rules=TABLE.rules, calibration={}, facts={}, labels={})


def verdicts(case: HardCase) -> list[Verdict]:
    """The verdict at each pace of looking."""
    found = []
    for interval_s in INTERVALS_S:
        (life,) = fold(signs(case, TABLE, interval_s), TABLE.rules, may_requeue=True)
        found.append(judge("w", life, CONTEXT))
    return found


@pytest.mark.parametrize("case", HARD_CASES, ids=lambda case: case.name)
def test_a_hard_case_that_calls_itself_what_it_is_is_asserted_at_every_pace(case: HardCase) -> None:
    assert [verdict.kind.value for verdict in verdicts(case)] == [case.kind] * len(INTERVALS_S)


@pytest.mark.parametrize("case", RENAMED, ids=lambda case: case.name)
def test_a_hard_case_behind_another_name_is_unclassified_at_every_pace(case: HardCase) -> None:
    assert {verdict.kind for verdict in verdicts(case)} == {Kind.UNCLASSIFIED}
