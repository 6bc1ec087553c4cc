# SPDX-License-Identifier: Apache-2.0
"""An operator asks why, and is answered in words."""

from gpuledger_collector.classify.calibration import Counts
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.words import evidence, headline
from tests.fakes.signs import ENGINE, LAUNCHER, NOBODY_KNOWS, hours, verdict_of


def test_every_piece_of_evidence_is_a_line_with_its_weight() -> None:
    verdict = verdict_of(hours(*[ENGINE] * 3, NOBODY_KNOWS))
    assert headline(verdict) == 'inference, p 0.95 (calibration="default")'
    assert list(evidence(verdict)) == [
        "+2.25 inference: rule engine, 75% of its time [process]",
        "+0.75 inference: a process of the engine waits for connections [process]",
    ]


def test_nothing_known_is_said_so() -> None:
    verdict = verdict_of(hours(NOBODY_KNOWS, NOBODY_KNOWS))
    assert headline(verdict) == 'unclassified: nothing tells what it is for (calibration="default")'
    assert list(evidence(verdict)) == ["no evidence: no rule matched what runs, and nobody declared anything"]


def test_a_conflict_is_said_with_both_sides() -> None:
    verdict = verdict_of(hours(*[ENGINE] * 3), label=Kind.TRAINING)
    assert headline(verdict).startswith("unclassified, leaning to training")
    lines = list(evidence(verdict))
    assert lines[0] == "+4.00 training: labelled (confirmed by the operator) [declared]"
    assert lines[-1] == "label_conflict: w is declared to be training, and its processes are those of inference"


def test_calibration_is_said_with_its_counts() -> None:
    counts = Counts(kinds={Kind.TRAINING: 9, Kind.INFERENCE: 1})
    verdict = verdict_of(hours(*[LAUNCHER] * 3), calibration={("site", "launcher+world-size"): counts})
    assert 'calibration="site"' in headline(verdict)
    assert any(line.startswith("calibrated: of 10 confirmed workloads") for line in evidence(verdict))
