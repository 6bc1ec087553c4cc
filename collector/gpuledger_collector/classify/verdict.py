# SPDX-License-Identifier: Apache-2.0
"""The verdict on a workload: from its life, what was declared, and what the site has confirmed. Pure.

What is asserted from readings follows the hysteresis of gpuledger_collector.classify.life. Declarations, labels and
calibration hold for the whole life, so they are weighed once, at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuledger_collector.classify.calibration import Calibration, Counts, calibrated
from gpuledger_collector.classify.declared import OWN_RULES, DeclaredRule, Facts, declared
from gpuledger_collector.classify.evidence import (
    CONFLICT_WEIGHT_MIN,
    Rules,
    Sums,
    Support,
    leading,
    log_odds,
    observed,
    pattern,
    probability,
    support,
)
from gpuledger_collector.classify.kinds import KINDS, Item, Kind, Tier
from gpuledger_collector.classify.life import ASSERT_AT, HELD_CELLS, RETRACT_BELOW, Life
from gpuledger_collector.classify.telemetry import HINT_WEIGHT, Suspected, suspicions

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


def judge(workload: str, life: Life, context: Context) -> Verdict:
    """Return the verdict on one life of a workload, by its id."""
    seen = observed(_whole(life), context.rules)
    said = list(declared(context.facts.get(workload), context.labels.get(workload), context.declared_rules))
    items = [*said, *seen]
    told, default = support(said), support(seen, _OBSERVED)
    shape = pattern(seen)
    counts = context.calibration.get((life.site, shape))
    odds = _odds(
        told, default if counts is None else calibrated(shape, counts, default), is_calibrated=counts is not None
    )
    kind = life.asserted if not said and counts is None else _assert(life, odds)
    process = support(seen, (Tier.PROCESS,))
    conflict = _conflict(told, process, default, counts, shape)
    if conflict is not None:
        kind = None
    lean = leading(told) if conflict is not None else _lean(odds)
    named = lean if kind is None else kind
    suspected = tuple(suspicions(life.features()))
    return Verdict(
        kind=Kind.UNCLASSIFIED if kind is None else kind,
        lean=lean if kind is None else None,
        probability=None if named is None else probability(odds[named]),
        calibration=DEFAULT if counts is None else SITE,
        confirmed=counts,
        tags=_tags(kind, seen, context.rules),
        pattern=shape,
        items=tuple(items),
        suspected=suspected,
        remarks=tuple(_remarks(workload, kind, conflict, seen, suspected)),
    )


def _whole(life: Life) -> Sums:
    sums = life.sums
    if not life.hour_features:
        return sums
    return Sums(
        busy=sums.busy,
        held=sums.held,
        known=sums.known,
        listens_known=sums.listens_known,
        listens=sums.listens,
        world=sums.world,
        checkpoints=sums.checkpoints,
        rules=sums.rules,
        features=dict(life.features()),
    )


def _odds(told: Support, rest: Support, *, is_calibrated: bool) -> Support:
    if not is_calibrated:
        return log_odds({kind: told[kind] + rest[kind] for kind in KINDS})
    # A calibrated pattern's log-odds are against all others already.
    against = log_odds(told)
    return {kind: rest[kind] + against[kind] for kind in KINDS}


def _assert(life: Life, odds: Support) -> Kind | None:
    """Return the kind to assert where more than readings speaks: held for long enough, and likely enough."""
    best = max(KINDS, key=lambda kind: odds[kind])
    if life.cells >= HELD_CELLS and probability(odds[best]) >= ASSERT_AT:
        return best
    kept = life.asserted
    return kept if kept is not None and probability(odds[kept]) >= RETRACT_BELOW else None


def _lean(odds: Support) -> Kind | None:
    best = max(KINDS, key=lambda kind: odds[kind])
    return best if odds[best] > 0 else None


def _conflict(
    told: Support, process: Support, default: Support, counts: Counts | None, shape: str
) -> tuple[Kind, Kind] | None:
    """Return (declared, observed) where the first two tiers say different things, both with some weight."""
    said, runs = leading(told), leading(process)
    if said is None or runs is None or said is runs:
        return None
    weight = process[runs] if counts is None else calibrated(shape, counts, default)[runs]
    return (said, runs) if told[said] >= CONFLICT_WEIGHT_MIN and weight >= CONFLICT_WEIGHT_MIN else None


def _tags(kind: Kind | None, seen: Sequence[Item], rules: Rules) -> tuple[str, ...]:
    found = set()
    for item in seen:
        rule = rules.get(item.id)
        if rule is not None and item.kind is kind and item.weight > 0 and item.share >= 0.5 and rule.tag:
            found.add(rule.tag)
    return tuple(sorted(found))


def _remarks(
    workload: str,
    kind: Kind | None,
    conflict: tuple[Kind, Kind] | None,
    seen: Sequence[Item],
    suspected: Sequence[Suspected],
) -> list[tuple[str, str]]:
    found = []
    if conflict is not None:
        text = f"{workload} is declared to be {conflict[0]}, and its processes are those of {conflict[1]}"
        found.append((LABEL_CONFLICT, text))
    hinted = support(seen, (Tier.TELEMETRY,))
    against = leading(hinted)
    if kind is not None and against is not None and against is not kind and hinted[against] >= HINT_WEIGHT:
        text = f"{workload} is taken for {kind}, and how its GPUs behave hints at {against}"
        found.append((TELEMETRY_CONTRADICTS, text))
    for one in suspected:
        hours = one.gpu_ms / 3_600_000
        what = one.suspicion.value.replace("_", " ")
        found.append((SUSPECTED_LOAD, f"{workload}: {hours:.1f} GPU-hours look like {what}, not like work"))
    return found
