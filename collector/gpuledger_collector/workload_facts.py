# SPDX-License-Identifier: Apache-2.0
"""What schedulers were told of workloads, joined to them by node and by the name of the job or pod. Pure.

A job of an array goes by another number at its node than at the scheduler, so it is not joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gpuledger.workload_names import parse
from gpuledger_collector.allotment import AllotmentRow
from gpuledger_collector.classify.declared import FACTS, Facts

Told = Mapping[tuple[str, str], Facts]
"""By node and the scheduler's name of the job."""
NOTHING_TOLD: Told = {}
_OWNER_MARK = "/"
"""What made a pod is Kind/name; no partition of Slurm has a slash."""


def digests_of(rows: Iterable[AllotmentRow]) -> set[str]:
    """Return the digests whose names are needed."""
    return {digest for row in rows for digest in (row.job, row.user, row.account) if digest is not None}


def told_by(rows: Iterable[AllotmentRow], names: Mapping[str, str]) -> dict[tuple[str, str], Facts]:
    """Return what schedulers were told, where the job's name is open; it does not matter which row comes first."""
    found: dict[tuple[str, str], Facts] = {}
    for row in rows:
        job = names.get(row.job)
        if job is None or row.cluster is None:
            continue
        is_owner = row.partition is not None and _OWNER_MARK in row.partition
        facts = Facts(
            partition=None if is_owner else row.partition,
            owner=row.partition if is_owner else None,
            account=None if row.account is None else names.get(row.account),
            user=None if row.user is None else names.get(row.user),
        )
        found[row.node, job] = least(found.get((row.node, job)), facts)
    return found


def facts_of(name: str | None, user: str | None, node: str, told: Told) -> Facts:
    """Return what is known of a workload at a node, by its open name and its user's."""
    own = Facts(name=name, user=user)
    parsed = None if name is None else parse(name)
    if parsed is None or parsed.source not in ("slurm_job", "pod"):
        return own
    space, job = parsed.parts[0], parsed.parts[1]
    found = None if job is None else told.get((node, job)) or told.get((node, f"{space}/{job}"))
    if found is None:
        return own
    return replace(found, name=name, user=found.user if user is None else user)


def least(one: Facts | None, other: Facts) -> Facts:
    """Return the facts that both make together, the same whichever came first."""
    if one is None or one == other:
        return other
    found = {}
    for fact in FACTS:
        texts = [text for text in (getattr(one, fact), getattr(other, fact)) if text is not None]
        found[fact] = min(texts, default=None)
    return Facts(**found)
