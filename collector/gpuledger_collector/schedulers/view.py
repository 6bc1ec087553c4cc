# SPDX-License-Identifier: Apache-2.0
"""One look at a cluster's scheduler, whatever scheduler it is. Pure.

GPUs are named as the scheduler names them: by node and by its own index on the node, or not at all where it keeps only
counts. Which UUID that is the ledger decides, from what the node's agent said.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

REASON_CHARACTERS_MAX = 200


def short_reason(text: str) -> str:
    """Return somebody's words as they may be shown: printable, and not too long."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable[:REASON_CHARACTERS_MAX]


class Unschedulable(str, Enum):
    """Why new work is not placed on a node."""

    DRAINED = "drained"
    """An administrator took it out of service, or the scheduler did after a failed check."""
    CORDONED = "cordoned"
    RESERVED = "reserved"
    """A reservation keeps it for somebody."""
    DOWN = "down"
    """The scheduler cannot reach it, or takes it for broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """GPUs of one node that the scheduler gave to one job (of Kubernetes: pod; its namespace is the user).

    `partition` is the queue it came through (of Kubernetes: what made the pod, as Kind/name).
    `indices` are the scheduler's own, None where it does not say which; `count` is how many there are.
    """

    job: str
    user: str | None
    partition: str | None
    node: str
    count: int
    indices: tuple[int, ...] | None
    since_ms: int | None
    account: str | None = None
    """Whom Slurm charges for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node that may not be used for new work, why, in whose words, and since when (None: not told)."""

    node: str
    why: Unschedulable
    reason: str | None = None
    by: str | None = None
    since_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A job that waits for GPUs: how many tasks it stands for (arrays), how many GPUs each wants, and why it waits."""

    job: str
    user: str | None
    partition: str | None
    tasks: int
    gpus: int
    reason: str
    since_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Everything that one look told."""

    cluster: str
    at_ms: int
    nodes: tuple[str, ...]
    allocations: tuple[Allocation, ...] = ()
    unschedulable: tuple[NodeState, ...] = ()
    pending: tuple[Pending, ...] = ()
