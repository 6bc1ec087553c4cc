# SPDX-License-Identifier: Apache-2.0
"""A verdict in words: why a workload is said to be what it is, one line for each piece of evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gpuledger_collector.classify.calibration import OWNER_LABELS_MAX
from gpuledger_collector.classify.kinds import Item, Kind, Tier
from gpuledger_collector.classify.verdict import SITE, Verdict

_TIERS = {
    Tier.DECLARED: "declared",
    Tier.PROCESS: "process",
    Tier.ENVIRONMENT: "environment",
    Tier.TELEMETRY: "telemetry",
}
_FACTS = {
    "listens": "a process of the engine waits for connections",
    "world-size": "its launcher starts more than one process",
    "checkpoints": "files that look like checkpoints keep growing",
    "label": "labelled",
    "telemetry-memory-sawtooth": "memory rises and falls like that of reinforcement learning with rollouts",
    "telemetry-heartbeat": "its GPUs' power moves together, with much work of tensor cores",
    "telemetry-decode": "memory traffic is high for the work of tensor cores, as in decoding",
    "telemetry-keep-alive": "its GPUs are active to the same half a point all the time",
    "telemetry-burn-in": "full power with nothing on the links",
}


def headline(verdict: Verdict) -> str:
    """Return the verdict in one sentence."""
    calibrated = f'calibration="{verdict.calibration}"'
    if verdict.kind is not Kind.UNCLASSIFIED:
        tags = f" ({', '.join(verdict.tags)})" if verdict.tags else ""
        return f"{verdict.kind}{tags}, p {_share(verdict.probability)} ({calibrated})"
    if verdict.lean is None:
        return f"unclassified: nothing tells what it is for ({calibrated})"
    return f"unclassified, leaning to {verdict.lean}, p {_share(verdict.probability)} ({calibrated})"


def evidence(verdict: Verdict) -> Iterator[str]:
    """Yield one line for each piece of evidence with its weight, then what the site's labels add, then remarks."""
    for item in verdict.items:
        yield sentence(item)
    if not verdict.items:
        yield "no evidence: no rule matched what runs, and nobody declared anything"
    if verdict.calibration == SITE and verdict.confirmed is not None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in verdict.confirmed.kinds.items())
        yield (
            f"calibrated: of {verdict.confirmed.total} confirmed workloads of this site with the same evidence were "
            f"{kinds} (at most {OWNER_LABELS_MAX} of one owner count)"
        )
    for kind, text in verdict.remarks:
        yield f"{kind}: {text}"


def sentence(item: Item) -> str:
    """Return one piece of evidence in words."""
    what = _FACTS.get(item.id, f"rule {item.id}")
    share = "" if item.share >= 1 or item.tier in (Tier.DECLARED, Tier.TELEMETRY) else f", {item.share:.0%} of its time"
    detail = f" ({item.detail})" if item.detail else ""
    return f"{item.weight:+.2f} {item.kind}: {what}{share}{detail} [{_TIERS[item.tier]}]"


def _share(probability: float | None) -> str:
    return "unknown" if probability is None else f"{probability:.2f}"
