# SPDX-License-Identifier: Apache-2.0
"""From the sums of a workload's signs to evidence, and from evidence to log-odds. Pure.

A rule's weight counts by the share of the workload's known time in which it matched: what ran for a minute of a week
says a minute's worth. "Known" is busy and held time with hints; time that nobody looked at says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from gpuledger_collector.classify.kinds import CAPS, KINDS, Item, Kind, Tier
from gpuledger_collector.classify.signs import CellSign

PROBABILITY_MAX = 0.98
CACHED_MAX = 4_096
"""Sets of evidence whose odds are kept."""
RULES_KEPT_MAX = 32
"""Ids of rules kept for one workload; further ones count for nothing."""

LISTENS_WEIGHT = 1.0
"""A serving engine's process that listens, beside the engine's own weight."""
WORLD_WEIGHT = 0.8
"""More than one process that form one world, beside a trainer or alone; tensor-parallel serving does that as well."""
CHECKPOINTS_WEIGHT = 1.2
"""Files that grow again and again. Alone or with a world of many it stays below what is asserted."""
CONFLICT_WEIGHT_MIN = 1.0
"""What two tiers must each say for different kinds to be in conflict."""


class Rule(Protocol):
    """What is needed of a rule of the table (gpuledger.process_rules)."""

    @property
    def kind(self) -> str: ...

    @property
    def tag(self) -> str | None: ...

    @property
    def tier(self) -> int: ...

    @property
    def weight(self) -> float: ...

    @property
    def covers(self) -> tuple[str, ...]: ...


Rules = Mapping[str, Rule]
"""By id."""


@dataclass(slots=True)
class Sums:
    """All that counts of a workload's signs, in slice-ms; adding cells in any order gives the same."""

    busy: int = 0
    held: int = 0
    known: int = 0
    """Busy and held time with hints."""
    listens_known: int = 0
    listens: int = 0
    world: int = 0
    """With a world of more than one process."""
    checkpoints: int = 0
    """With checkpoint files that grew."""
    rules: dict[str, int] = field(default_factory=dict)
    features: dict[str, int] = field(default_factory=dict)

    def add_cell(self, cell: CellSign) -> None:
        self.busy += cell.busy_slice_ms
        self.held += cell.held_slice_ms
        hints = cell.hints
        amount = cell.busy_slice_ms + cell.held_slice_ms
        if hints is None or amount == 0:
            return
        self.known += amount
        if hints.listens is not None:
            self.listens_known += amount
            self.listens += amount if hints.listens else 0
        if hints.world_size is not None and hints.world_size > 1:
            self.world += amount
        if hints.checkpoints is not None and hints.checkpoints > 1:
            self.checkpoints += amount
        for rule in hints.rules:
            self.rules[rule] = self.rules.get(rule, 0) + amount

    def add_features(self, features: Mapping[str, int]) -> None:
        for name, amount in features.items():
            self.features[name] = self.features.get(name, 0) + amount


def of_processes(sums: Sums, rules: Rules) -> tuple[Item, ...]:
    """Return the evidence of tiers 2 and 3, in a fixed order."""
    return tuple(_process_items(sums, rules)) if sums.known > 0 else ()


def _process_items(sums: Sums, rules: Rules) -> Iterable[Item]:
    shares: dict[str, float] = {}
    for rule_id in sorted(sums.rules)[:RULES_KEPT_MAX]:
        if rule_id in rules:
            shares[rule_id] = sums.rules[rule_id] / sums.known
    said: dict[Kind, float] = {}
    for rule_id, share in shares.items():
        rule = rules[rule_id]
        # What another rule covers (an engine inside a trainer's rollouts) counts for as long as that one was not there.
        names = {rule_id, f"kind:{rule.kind}"}
        hidden = max(
            (by for name, by in shares.items() if name != rule_id and names & {*rules[name].covers}), default=0.0
        )
        left = max(0.0, share - hidden)
        kind = Kind(rule.kind)
        if rule.tier == Tier.PROCESS:
            said[kind] = max(said.get(kind, 0.0), left)
        detail = "" if left == share else "covered by another rule"
        yield Item(Tier(rule.tier), kind, rule.weight * left, rule_id, share, detail)
    served, trained = said.get(Kind.INFERENCE, 0.0), said.get(Kind.TRAINING, 0.0)
    if sums.listens > 0 and served > 0:
        share = sums.listens / sums.listens_known
        yield Item(Tier.PROCESS, Kind.INFERENCE, LISTENS_WEIGHT * min(share, served), "listens", share)
    if sums.world > 0 and trained >= served:
        share = sums.world / sums.known
        yield Item(Tier.PROCESS, Kind.TRAINING, WORLD_WEIGHT * share, "world-size", share)
    if sums.checkpoints > 0:
        share = sums.checkpoints / sums.known
        yield Item(Tier.PROCESS, Kind.TRAINING, CHECKPOINTS_WEIGHT * share, "checkpoints", share)


# ---------------------------------------------------------------------------------------------- from items to odds

Support = dict[Kind, float]
"""Log-odds by kind, what is for it less what is against it."""


def support(items: Iterable[Item], tiers: Iterable[Tier] = Tier) -> Support:
    """Return what the items of these tiers say for each kind together, each tier within its cap."""
    sums: dict[tuple[Tier, Kind], float] = {}
    wanted = tuple(tiers)
    for item in items:
        if item.tier in wanted:
            sums[item.tier, item.kind] = sums.get((item.tier, item.kind), 0.0) + item.weight
    total = dict.fromkeys(KINDS, 0.0)
    for (tier, kind), amount in sums.items():
        total[kind] += max(-CAPS[tier], min(CAPS[tier], amount))
    return total


def log_odds(total: Support) -> Support:
    """Return each kind's log-odds against all others: what speaks for the strongest other speaks against it."""
    *_, second, first = sorted(total.values())
    leads = [kind for kind, amount in total.items() if amount == first]
    return {kind: amount - max(0.0, second if kind is leads[0] else first) for kind, amount in total.items()}


@lru_cache(maxsize=CACHED_MAX)
def odds_of(items: tuple[Item, ...]) -> Support:
    """Return the log-odds that evidence gives; read it only. Most workloads have the same as many others."""
    return log_odds(support(items))


def probability(odds: float) -> float:
    """Return the probability of log-odds, never above PROBABILITY_MAX, nor below what is left of it."""
    return max(1 - PROBABILITY_MAX, min(PROBABILITY_MAX, 1 / (1 + math.exp(-odds))))


def leading(total: Support) -> Kind | None:
    """Return the kind that is said most for, None where nothing is said or two are said equally."""
    best = max(KINDS, key=lambda kind: total[kind])
    amount = total[best]
    is_alone = all(total[kind] < amount for kind in KINDS if kind is not best)
    return best if amount > 0 and is_alone else None


@lru_cache(maxsize=CACHED_MAX)
def pattern(items: tuple[Item, ...]) -> str:
    """Return the evidence pattern of a workload: the ids, in order, of what held for half of its time, tiers 2 to 4.

    Empty where there is none.
    """
    found = (item.id for item in items if item.tier is not Tier.DECLARED and item.share >= 0.5 and item.weight != 0)
    return "+".join(sorted(found))
