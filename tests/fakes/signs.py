# SPDX-License-Identifier: Apache-2.0
"""Signs of workloads that do not exist, and rules as a table would have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuledger.cells import CELL_MS, CELL_SLICE_MS, HOUR_MS, floor_to
from gpuledger.hints import Hints
from gpuledger_collector.classify.calibration import Counts
from gpuledger_collector.classify.declared import Facts
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import Life, fold
from gpuledger_collector.classify.signs import CellSign, HourSigns
from gpuledger_collector.classify.verdict import Context, Verdict, judge

START_MS = 1_793_577_600_000


@dataclass(frozen=True, kw_only=True)
class FakeRule:
    """One row of a table."""

    kind: str
    tier: int = 2
    weight: float = 3.0
    tag: str | None = None
    covers: tuple[str, ...] = ()


RULES: dict[str, FakeRule] = {
    "engine": FakeRule(kind="inference"),
    "launcher": FakeRule(kind="training", weight=2.5),
    "rollouts": FakeRule(kind="training", tag="rollout", covers=("kind:inference",)),
    "burner": FakeRule(kind="synthetic"),
    "renderer": FakeRule(kind="other"),
    "notebook": FakeRule(kind="other", tier=3, weight=0.5, tag="notebook"),
    "batch-engine": FakeRule(kind="inference", tag="batch"),
}


def hints(*rules: str, listens: bool | None = None, world_size: int | None = None) -> Hints:
    return Hints(rules=tuple(sorted(rules)), listens=listens, world_size=world_size, table="1")


ENGINE = hints("engine", listens=True)
LAUNCHER = hints("launcher", world_size=8)
NOBODY_KNOWS = hints()


def hours(
    *cells: Hints | None,
    node: str = "node-1",
    workload: str = "w",
    start_ms: int = START_MS,
    features: Mapping[str, int] | None = None,
    busy_slice_ms: int = CELL_SLICE_MS,
    site: str = "site",
    user: str | None = "u",
) -> list[HourSigns]:
    """Signs of one workload with these hints cell by cell, on one GPU; each hour has the same features."""
    by_hour: dict[int, list[CellSign]] = {}
    for index, told in enumerate(cells):
        cell_ms = start_ms + index * CELL_MS
        cell = CellSign(cell_ms, node, told, busy_slice_ms, 0, 1)
        by_hour.setdefault(floor_to(cell_ms, HOUR_MS), []).append(cell)
    return [
        HourSigns(
            hour_ms=hour_ms,
            node=node,
            site=site,
            cluster="cluster",
            workload=workload,
            user=user,
            source="slurm_job",
            cells=tuple(found),
            features=dict(features or {}),
        )
        for hour_ms, found in by_hour.items()
    ]


def live(signs: Sequence[HourSigns], *, may_requeue: bool = False) -> Life:
    """The last run of a workload."""
    return fold(signs, RULES, may_requeue=may_requeue)[-1]


def context(
    *,
    label: Kind | None = None,
    facts: Facts | None = None,
    calibration: Mapping[tuple[str, str], Counts] | None = None,
) -> Context:
    """What verdicts on the workload "w" rest on."""
    return Context(
        rules=RULES,
        calibration=calibration or {},
        facts={} if facts is None else {"w": facts},
        labels={} if label is None else {"w": label},
    )


def verdict_of(
    signs: Sequence[HourSigns],
    *,
    label: Kind | None = None,
    facts: Facts | None = None,
    calibration: Mapping[tuple[str, str], Counts] | None = None,
) -> Verdict:
    """The verdict on the workload "w" from its signs."""
    return judge("w", live(signs), context(label=label, facts=facts, calibration=calibration))
