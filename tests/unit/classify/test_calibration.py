# SPDX-License-Identifier: Apache-2.0
"""What confirmed labels add, and how little of it one owner can."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gpuledger_collector.classify.calibration import (
    CALIBRATED_MAX,
    TELEMETRY_CALIBRATED_MAX,
    Confirmed,
    Counts,
    calibrate,
    calibrated,
)
from gpuledger_collector.classify.kinds import KINDS, Kind

NOTHING = dict.fromkeys(KINDS, 0.0)
LABELS = st.builds(
    Confirmed,
    site=st.sampled_from(["east", "west"]),
    pattern=st.sampled_from(["", "engine", "telemetry-decode"]),
    owner=st.sampled_from([None, "a", "b", "c"]),
    kind=st.sampled_from(KINDS),
)


def labels(count: int, kind: Kind = Kind.TRAINING, pattern: str = "engine") -> list[Confirmed]:
    return [Confirmed(site="east", pattern=pattern, owner=f"owner {index}", kind=kind) for index in range(count)]


@given(found=st.lists(LABELS, max_size=60), order=st.randoms(use_true_random=False))
def test_labels_count_the_same_in_any_order(found: list[Confirmed], order: Random) -> None:
    mixed = list(found)
    order.shuffle(mixed)
    assert calibrate(mixed) == calibrate(found)


def test_few_labels_calibrate_nothing() -> None:
    assert calibrate(labels(4)) == {}
    assert calibrate(labels(5)) == {("east", "engine"): Counts(kinds={Kind.TRAINING: 5})}


def test_telemetry_alone_needs_more_labels() -> None:
    assert calibrate(labels(29, pattern="telemetry-decode")) == {}
    assert ("east", "telemetry-decode") in calibrate(labels(30, pattern="telemetry-decode"))


def test_one_owner_counts_a_few_times_only() -> None:
    one = [Confirmed(site="east", pattern="engine", owner="a", kind=Kind.TRAINING)] * 100
    assert calibrate(one)["east", "engine"].total == 5
    nobody = [Confirmed(site="east", pattern="engine", owner=None, kind=Kind.TRAINING)] * 100
    assert calibrate(nobody)["east", "engine"].total == 5


def test_what_shows_nothing_is_never_calibrated() -> None:
    assert calibrate(labels(100, pattern="")) == {}


def test_labels_move_the_odds_by_what_they_are_worth() -> None:
    few, many = (calibrated("engine", Counts(kinds={Kind.TRAINING: count}), NOTHING) for count in (5, 500))
    assert 0 < few[Kind.TRAINING] < many[Kind.TRAINING] == CALIBRATED_MAX
    assert many[Kind.INFERENCE] == -CALIBRATED_MAX


def test_calibrated_telemetry_stays_below_the_process_tier() -> None:
    odds = calibrated("telemetry-decode", Counts(kinds={Kind.INFERENCE: 5000}), NOTHING)
    assert odds[Kind.INFERENCE] == TELEMETRY_CALIBRATED_MAX
