# SPDX-License-Identifier: Apache-2.0
"""The verdict on a workload: from its life, what was declared, and what the site has confirmed. Pure.

What is asserted from readings follows the hysteresis of gpuledger_collector.classify.life. Declarations, labels and
calibration hold for the whole life, so they are weighed once, at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gpuledger_collector.classify.calibration import Calibration, Counts, calibrated
from gpuledger_collector.classify.declared import OWN_RULES, DeclaredRule, Facts, declared
from gpuledger_collector.classify.evidence import (
    CACHED_MAX,
    CONFLICT_WEIGHT_MIN,
    Rules,
    Support,
    leading,
    log_odds,
    of_processes,
    pattern,
    probability,
    support,
)
from gpuledger_collector.classify.kinds import KINDS, Item, Kind, Tier
from gpuledger_collector.classify.life import ASSERT_AT, HELD_CELLS, RETRACT_BELOW, Life
from gpuledger_collector.classify.telemetry import HINT_WEIGHT, Suspected, hints, suspicions

DEFAULT, SITE = "default", "site"
"""What a verdict is calibrated by: nothing yet, or labels of the site."""
LABEL_CONFLICT, TELEMETRY_CONTRADICTS, SUSPECTED_LOAD = "label_conflict", "telemetry_contradicts", "suspected_load"
_OBSERVED = (Tier.PROCESS, Tier.ENVIRONMENT, Tier.TELEMETRY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """All that verdicts rest on beside readings; `facts` and `labels` are by id of the workload."""

    rules: Rules
    calibration: Calibration
    facts: Mapping[str, Facts]
    labels: Mapping[str, Kind]
    declared_rules: Sequence[DeclaredRule] = OWN_RULES


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a workload is said to be for.

    `kind` is UNCLASSIFIED where nothing is asserted; `lean` is then what speaks for most (None: nothing does).
    `probability` is that of `kind`, or of `lean`. `remarks` are findings by their kind, one sentence each.
    """

    kind: Kind
    lean: Kind | None
    probability: float | None
    calibration: str
    confirmed: Counts | None
    tags: tuple[str, ...]
    pattern: str
    items: tuple[Item, ...]
    suspected: tuple[Suspected, ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Decision:
    """What follows from evidence alone, whoever the workload is."""

    kind: Kind | None
    lean: Kind | None
    probability: float | None
    conflict: tuple[Kind, Kind] | None
    against: Kind | None
    """What telemetry hints at instead."""
    shape: str
    """The pattern of the evidence."""


def judge(workload: str, life: Life, context: Context) -> Verdict:
    """Return the verdict on one life of a workload, by its id."""
    features = life.features()
    suspected = tuple(suspicions(features))
    told = of_processes(life.sums, context.rules) if life.told is None else life.told
    seen = (*told, *hints(features, suspected))
    said = tuple(declared(context.facts.get(workload), context.labels.get(workload), context.declared_rules))
    asked = (said, seen, life.asserted, life.cells >= HELD_CELLS)
    found = _decide_alike(*asked)
    shape = found.shape
    counts = context.calibration.get((life.site, shape)) if context.calibration else None
    if counts is not None:
        found = _decide(*asked, shape, counts)
    return Verdict(
        kind=Kind.UNCLASSIFIED if found.kind is None else found.kind,
        lean=found.lean,
        probability=found.probability,
        calibration=DEFAULT if counts is None else SITE,
        confirmed=counts,
        tags=_tags(found.kind, seen, context.rules),
        pattern=shape,
        items=(*said, *seen),
        suspected=suspected,
        remarks=tuple(_remarks(workload, found, suspected)) if suspected or found.conflict or found.against else (),
    )


@lru_cache(maxsize=CACHED_MAX)
def _decide_alike(said: tuple[Item, ...], seen: tuple[Item, ...], asserted: Kind | None, is_held: bool) -> _Decision:
    """Decide without calibration; most workloads have the same evidence as many others."""
    return _decide(said, seen, asserted, is_held, pattern(seen), None)


def _decide(
    said: tuple[Item, ...],
    seen: tuple[Item, ...],
    asserted: Kind | None,
    is_held: bool,
    shape: str,
    counts: Counts | None,
) -> _Decision:
    told, default = support(said), support(seen, _OBSERVED)
    rest = default if counts is None else calibrated(shape, counts, default)
    odds = _odds(told, rest, is_calibrated=counts is not None)
    kind = asserted if not said and counts is None else _assert(asserted, odds, is_held=is_held)
    conflict = _conflict(told, support(seen, (Tier.PROCESS,)), None if counts is None else rest)
    if conflict is not None:
        kind = None
    lean = leading(told) if conflict is not None else _lean(odds)
    named = lean if kind is None else kind
    hinted = support(seen, (Tier.TELEMETRY,))
    against = leading(hinted)
    contradicts = kind is not None and against is not None and against is not kind and hinted[against] >= HINT_WEIGHT
    return _Decision(
        kind=kind,
        lean=lean if kind is None else None,
        probability=None if named is None else probability(odds[named]),
        conflict=conflict,
        against=against if contradicts else None,
        shape=shape,
    )


def _odds(told: Support, rest: Support, *, is_calibrated: bool) -> Support:
    if not is_calibrated:
        return log_odds({kind: told[kind] + rest[kind] for kind in KINDS})
    # A calibrated pattern's log-odds are against all others already.
    against = log_odds(told)
    return {kind: rest[kind] + against[kind] for kind in KINDS}


def _assert(asserted: Kind | None, odds: Support, *, is_held: bool) -> Kind | None:
    """Return the kind to assert where more than readings speaks: held for long enough, and likely enough."""
    best = max(KINDS, key=lambda kind: odds[kind])
    if is_held and probability(odds[best]) >= ASSERT_AT:
        return best
    return asserted if asserted is not None and probability(odds[asserted]) >= RETRACT_BELOW else None


def _lean(odds: Support) -> Kind | None:
    best = max(KINDS, key=lambda kind: odds[kind])
    return best if odds[best] > 0 else None


def _conflict(told: Support, process: Support, calibrated_odds: Support | None) -> tuple[Kind, Kind] | None:
    """Return (declared, observed) where the first two tiers say different things, both with some weight."""
    said, runs = leading(told), leading(process)
    if said is None or runs is None or said is runs:
        return None
    weight = process[runs] if calibrated_odds is None else calibrated_odds[runs]
    return (said, runs) if told[said] >= CONFLICT_WEIGHT_MIN and weight >= CONFLICT_WEIGHT_MIN else None


def _tags(kind: Kind | None, seen: Sequence[Item], rules: Rules) -> tuple[str, ...]:
    found = set()
    for item in seen:
        rule = rules.get(item.id)
        if rule is not None and item.kind is kind and item.weight > 0 and item.share >= 0.5 and rule.tag:
            found.add(rule.tag)
    return tuple(sorted(found))


def _remarks(workload: str, found: _Decision, suspected: Sequence[Suspected]) -> Iterator[tuple[str, str]]:
    if found.conflict is not None:
        said, runs = found.conflict
        yield LABEL_CONFLICT, f"{workload} is declared to be {said}, and its processes are those of {runs}"
    if found.against is not None:
        text = f"{workload} is taken for {found.kind}, and how its GPUs behave hints at {found.against}"
        yield TELEMETRY_CONTRADICTS, text
    for one in suspected:
        hours = one.gpu_ms / 3_600_000
        what = one.suspicion.value.replace("_", " ")
        yield SUSPECTED_LOAD, f"{workload}: {hours:.1f} GPU-hours look like {what}, not like work"
