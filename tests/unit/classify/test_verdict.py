# SPDX-License-Identifier: Apache-2.0
"""What is asserted, on what evidence, and what is not."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, HOUR_MS
from gpuledger.states import FEATURES
from gpuledger_collector.classify.calibration import Counts
from gpuledger_collector.classify.declared import Facts
from gpuledger_collector.classify.evidence import log_odds, probability, support
from gpuledger_collector.classify.kinds import CAPS, KINDS, Item, Kind, Tier
from gpuledger_collector.classify.telemetry import hints as hints_of
from gpuledger_collector.classify.telemetry import suspicions
from gpuledger_collector.classify.verdict import LABEL_CONFLICT, SUSPECTED_LOAD, TELEMETRY_CONTRADICTS
from tests.fakes.signs import ENGINE, LAUNCHER, NOBODY_KNOWS, START_MS, hints, hours, live, verdict_of


def telemetry_hints(features: Mapping[str, int]) -> list[Item]:
    return list(hints_of(features, tuple(suspicions(features))))


HOUR_OF_ONE = {"sole_ms": HOUR_MS, "engines_known_ms": HOUR_MS}
DECODE = HOUR_OF_ONE | {"sm_ns": 10**12 * 2, "tensor_ns": 10**11, "dram_ns": 6 * 10**11}


def test_a_serving_engine_that_listens_is_inference() -> None:
    verdict = verdict_of(hours(ENGINE, ENGINE))
    assert (verdict.kind, verdict.calibration) == (Kind.INFERENCE, "default")
    assert verdict.probability == pytest.approx(1 / (1 + math.exp(-3)))
    assert {item.id for item in verdict.items} == {"engine", "listens"}


def test_one_seal_interval_is_not_enough_and_leaves_a_lean() -> None:
    verdict = verdict_of(hours(ENGINE))
    assert (verdict.kind, verdict.lean) == (Kind.UNCLASSIFIED, Kind.INFERENCE)


def test_a_job_behind_a_renamed_binary_is_unclassified_and_not_wrong() -> None:
    verdict = verdict_of(hours(*[NOBODY_KNOWS] * 24))
    assert (verdict.kind, verdict.lean, verdict.items) == (Kind.UNCLASSIFIED, None, ())


def test_what_nobody_looked_at_is_unclassified() -> None:
    assert verdict_of(hours(*[None] * 24)).kind is Kind.UNCLASSIFIED


def test_rollouts_inside_a_trainer_are_training_with_a_tag() -> None:
    verdict = verdict_of(hours(*[hints("rollouts", "engine", listens=True)] * 4))
    assert (verdict.kind, verdict.tags) == (Kind.TRAINING, ("rollout",))


def test_a_trainer_and_an_engine_that_nothing_explains_are_not_asserted() -> None:
    assert verdict_of(hours(*[hints("launcher", "engine")] * 12)).kind is Kind.UNCLASSIFIED


def test_what_ran_for_a_moment_does_not_take_away_what_ran_all_the_time() -> None:
    verdict = verdict_of(hours(*[LAUNCHER] * 23, ENGINE))
    assert verdict.kind is Kind.TRAINING


def test_what_ran_a_quarter_of_the_time_is_not_asserted_at_the_end() -> None:
    assert verdict_of(hours(*[LAUNCHER] * 6, *[NOBODY_KNOWS] * 18)).kind is Kind.UNCLASSIFIED


def test_a_kind_is_kept_between_the_thresholds_and_retracted_below() -> None:
    kept = live(hours(*[LAUNCHER] * 3, NOBODY_KNOWS))
    assert kept.asserted is Kind.TRAINING  # 0.75 of 3: p 0.905; then it falls, and is kept above 0.75
    lost = live(hours(*[LAUNCHER] * 3, *[NOBODY_KNOWS] * 9))
    assert lost.asserted is None
    assert [kind for _, kind in lost.changes] == [Kind.TRAINING, Kind.UNCLASSIFIED]
    assert lost.changes[0][0] == START_MS + 2 * CELL_MS


def test_a_kind_between_the_thresholds_is_not_asserted_anew() -> None:
    # 2.5 + 0.8 for two cells of three: p 0.88.
    assert live(hours(NOBODY_KNOWS, LAUNCHER, LAUNCHER)).asserted is None


def test_a_label_is_evidence_that_asserts_what_nothing_else_tells() -> None:
    verdict = verdict_of(hours(*[NOBODY_KNOWS] * 2), label=Kind.OTHER)
    assert verdict.kind is Kind.OTHER


def test_a_label_against_the_processes_is_a_conflict_with_the_declared_kind_as_lean() -> None:
    verdict = verdict_of(hours(*[ENGINE] * 12), label=Kind.TRAINING)
    assert (verdict.kind, verdict.lean) == (Kind.UNCLASSIFIED, Kind.TRAINING)
    assert [kind for kind, _ in verdict.remarks] == [LABEL_CONFLICT]


def test_what_made_a_pod_is_declared_evidence() -> None:
    facts = Facts(owner="PyTorchJob/llm")
    assert verdict_of(hours(*[NOBODY_KNOWS] * 2), facts=facts).kind is Kind.TRAINING
    assert verdict_of(hours(*[ENGINE] * 4), facts=facts).remarks[0][0] == LABEL_CONFLICT


def test_a_deployment_alone_is_not_asserted() -> None:
    assert verdict_of(hours(*[NOBODY_KNOWS] * 4), facts=Facts(owner="Deployment/x")).kind is Kind.UNCLASSIFIED


def test_telemetry_against_an_asserted_kind_is_a_finding() -> None:
    verdict = verdict_of(hours(*[LAUNCHER] * 12, features=DECODE))
    assert verdict.kind is Kind.TRAINING
    assert TELEMETRY_CONTRADICTS in [kind for kind, _ in verdict.remarks]


def test_identical_series_are_suspected_and_scored_in_gpu_hours() -> None:
    alike = {"sole_ms": HOUR_MS, "peers_ms": HOUR_MS, "alike_ms": HOUR_MS}
    verdict = verdict_of(hours(*[LAUNCHER] * 12, features=alike))
    assert [(one.suspicion.value, one.gpu_ms) for one in verdict.suspected] == [("keep_alive", HOUR_MS)]
    assert SUSPECTED_LOAD in [kind for kind, _ in verdict.remarks]


@given(
    items=st.lists(
        st.builds(
            Item,
            st.sampled_from(Tier),
            st.sampled_from(KINDS),
            st.floats(-100, 100, allow_nan=False),
            st.just("any"),
        ),
        max_size=40,
    )
)
def test_no_tier_says_more_than_its_cap_and_no_probability_leaves_its_bounds(items: list[Item]) -> None:
    for tier in Tier:
        assert all(abs(amount) <= CAPS[tier] for amount in support(items, [tier]).values())
    assert all(0.02 <= round(probability(odds), 12) <= 0.98 for odds in log_odds(support(items)).values())


@given(features=st.dictionaries(st.sampled_from(FEATURES), st.integers(0, 10**15)))
def test_telemetry_alone_never_reaches_what_is_asserted(features: dict[str, int]) -> None:
    odds = log_odds(support(list(telemetry_hints(features))))
    assert max(map(probability, odds.values())) < 0.75


@given(features=st.dictionaries(st.sampled_from(FEATURES), st.integers(0, 10**15)))
def test_environment_and_telemetry_together_never_reach_what_is_asserted(features: dict[str, int]) -> None:
    verdict = verdict_of(hours(*[hints("notebook")] * 24, features=features))
    assert verdict.kind is Kind.UNCLASSIFIED


def test_the_time_below_a_quotient_must_be_known() -> None:
    unknown = {name: amount for name, amount in DECODE.items() if name != "engines_known_ms"}
    assert list(telemetry_hints(unknown)) == []
    assert [item.kind for item in telemetry_hints(DECODE)] == [Kind.INFERENCE]


def test_labels_of_a_pattern_move_other_workloads_of_that_pattern_alone() -> None:
    signs = hours(*[hints("launcher")] * 4)
    against = {("site", "launcher"): Counts(kinds={Kind.OTHER: 20})}
    moved = verdict_of(signs, calibration=against)
    assert (moved.kind, moved.lean, moved.calibration) == (Kind.UNCLASSIFIED, Kind.OTHER, "site")
    elsewhere = {("another site", "launcher"): Counts(kinds={Kind.OTHER: 20})}
    assert verdict_of(signs, calibration=elsewhere) == verdict_of(signs)


def test_a_label_is_no_conflict_where_the_site_has_confirmed_that_the_pattern_means_it() -> None:
    signs = hours(*[ENGINE] * 4)
    confirmed = {("site", "engine+listens"): Counts(kinds={Kind.TRAINING: 40})}
    verdict = verdict_of(signs, label=Kind.TRAINING, calibration=confirmed)
    assert verdict.kind is Kind.TRAINING
