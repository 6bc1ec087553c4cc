# SPDX-License-Identifier: Apache-2.0
"""Tier 1: what somebody declared a workload to be, and the rules that read it. Pure.

Facts are what the scheduler knows (partition, account, comment, what made a pod); rules are data: ours know the kinds
of Kubernetes' owners, a site's know its own partitions and accounts. A confirmed label takes the place of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpuledger_collector.classify.kinds import CAPS, Item, Kind, Tier

FACTS = ("partition", "account", "comment", "owner", "user", "name")
"""What a rule may look at; `owner` is Kind/name of what made a pod, `name` the workload's own."""
TEXT_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a workload beside its readings; None where nobody told."""

    partition: str | None = None
    account: str | None = None
    comment: str | None = None
    owner: str | None = None
    user: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredRule:
    """Where the whole of `fact` matches `pattern`, a workload is declared to be of `kind`, with so much log-odds."""

    id: str
    fact: str
    pattern: re.Pattern[str]
    kind: Kind
    weight: float


def _owner(name: str, kind: Kind, weight: float) -> DeclaredRule:
    pattern = re.compile(re.escape(name) + "/.*")
    return DeclaredRule(id=f"owner-{name.lower()}", fact="owner", pattern=pattern, kind=kind, weight=weight)


OWN_RULES: tuple[DeclaredRule, ...] = (
    *(_owner(name, Kind.TRAINING, 4.0) for name in ("PyTorchJob", "TFJob", "XGBoostJob", "PaddleJob", "TrainJob")),
    _owner("JAXJob", Kind.TRAINING, 4.0),
    # MPI is for HPC as well, Ray for everything: they say little alone.
    _owner("MPIJob", Kind.TRAINING, 1.5),
    _owner("RayJob", Kind.TRAINING, 0.5),
    *(
        _owner(name, Kind.INFERENCE, 4.0)
        for name in ("InferenceService", "NIMService", "RayService", "LLMInferenceService")
    ),
    # What serves is one, and so is what anybody leaves running.
    _owner("Deployment", Kind.INFERENCE, 1.5),
    _owner("LeaderWorkerSet", Kind.INFERENCE, 1.0),
)


def declared(facts: Facts | None, label: Kind | None, rules: Sequence[DeclaredRule] = OWN_RULES) -> Iterator[Item]:
    """Yield the evidence of tier 1: the label alone where there is one, else what each rule reads."""
    if label is not None:
        yield Item(Tier.DECLARED, label, CAPS[Tier.DECLARED], "label", 1.0, "confirmed by the operator")
        return
    if facts is None:
        return
    for rule in rules:
        text = getattr(facts, rule.fact)
        if text is not None and rule.pattern.fullmatch(text[:TEXT_CHARACTERS_MAX]):
            yield Item(Tier.DECLARED, rule.kind, rule.weight, rule.id, 1.0, f"{rule.fact} {text[:64]}")
