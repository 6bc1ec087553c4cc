# SPDX-License-Identifier: Apache-2.0
"""What the JSON interface says, declared once: answers are made of these, and the OpenAPI document of their fields.

Slice-milliseconds: a GPU-hour is 25,200,000. Times are POSIX milliseconds. What is not known is null, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gpuledger.states import State
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.schedulers.view import Unschedulable

SCHEMA = 1
"""Raised where an old client would misread an answer; new fields alone raise nothing."""


def told(text: str) -> Any:
    """Declare a field: what it says, for the document."""
    return field(metadata={"text": text})


class Source(str, Enum):
    """Where the state of a GPU at this moment comes from."""

    LIVE = "live"
    DECLARED = "declared"
    NOBODY = "nobody"


class Withheld(str, Enum):
    """Words that may not be said, for too little was observed."""

    OCCUPANCY = "occupancy"
    USED = "used"
    BUSY = "busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotient:
    """A share as integers, so that shares of groups can be added exactly."""

    numerator: int = told("Slice-milliseconds.")
    denominator: int = told("Slice-milliseconds; never 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A share that is known to lie between two ends; what was not observed is what lies between them."""

    low_numerator: int = told("At least so many slice-milliseconds.")
    high_numerator: int = told("At most so many slice-milliseconds.")
    denominator: int = told("Installed slice-milliseconds; never 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of time, its end not included."""

    start_ms: int = told("POSIX milliseconds.")
    end_ms: int = told("POSIX milliseconds.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The account of some GPUs over the period."""

    gpus: int = told("How many GPUs.")
    installed_slice_ms: int = told("Time for which they were installed; the states add up to it.")
    state_slice_ms: Mapping[State, int] = told("Time by state; a state without time is left out.")
    idle: Bounds | None = told("Free, reserved, held and standby time; null without installed time.")
    busy: Bounds | None = told("Busy time; null without installed time, or where under 95 % was measured.")
    coverage: Quotient | None = told("What was not dark, of what was to be observed.")
    measured: Quotient | None = told("What was neither dark nor unmeasured, of installed time.")
    out: Quotient | None = told("What was down, in maintenance or under the operator's own load.")
    declared_uncovered: Quotient | None = told("What was declared instead of observed.")
    engine_active: Quotient | None = told("The integral of engine activity; null where it was never known.")
    withheld: tuple[Withheld, ...] = told("Words that these figures do not bear.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFigures:
    """The account of one GPU over the period."""

    installed_slice_ms: int = told("Time for which it was installed; the states add up to it.")
    state_slice_ms: Mapping[State, int] = told("Time by state; a state without time is left out.")
    idle: Bounds | None = told("Free, reserved, held and standby time.")
    busy: Bounds | None = told("Busy time; null where under 95 % was measured.")
    coverage: Quotient | None = told("What was not dark, of what was to be observed.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """An agent that did not answer."""

    agent: str = told("Where it is asked.")
    text: str = told("Why it did not, in one sentence.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agents:
    """Polling, as it stands."""

    configured: int = told("Agents that are polled.")
    up: int = told("Those that answered when last asked.")
    troubles: tuple[Trouble, ...] = told("Those that did not, at most 100.")
    troubles_left_off: int = told("How many are missing.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All of the fleet."""

    schema: int = told("Version of the interface's meaning.")
    version: str = told("Version of the collector.")
    simulated: bool = told("True where any of it came from a simulator: no figure is then about real machines.")
    prepared_ms: int = told("When this was put together, POSIX milliseconds.")
    refreshed_ms: int | None = told("When the ledger was last brought up to date.")
    period: Span | None = told("What the figures cover; null while the ledger is empty.")
    settled_cell: Span | None = told("The last cell of five minutes that is settled.")
    total: Figures = told("The whole fleet.")
    sites: int = told("How many sites there are; see /api/v1/sites.")
    nodes: int = told("How many nodes there are; see /api/v1/nodes.")
    gpus_now: Mapping[State, int] = told("GPUs by state at this moment; a state without GPUs is left out.")
    free_whole_nodes: int = told("Nodes whose GPUs were all free for the whole of the settled cell.")
    agents: Agents = told("The agents that are polled.")
    findings: int = told("Findings of the period; see /api/v1/findings.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site."""

    site: str = told("Its name.")
    nodes: int = told("How many nodes stand there.")
    free_whole_nodes: int = told("Nodes whose GPUs were all free for the whole of the settled cell.")
    figures: Figures = told("Its GPUs over the period.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The GPUs of one model at one site."""

    site: str = told("The site.")
    model: str | None = told("The model as the driver names it; null where it is not known.")
    figures: Figures = told("They over the period.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """What is on a GPU."""

    workload: str = told("Digest of its name; see /api/v1/workloads.")
    name: str | None = told("Its name, where it was opened.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGpu:
    """What the agent said last about a GPU: not sealed, and part of no figure."""

    reason: str | None = told("Why it has no state, or what says its state.")
    since_ms: int = told("Since when it has this state.")
    since_is_exact: bool = told("False where it may be longer.")
    activity_ppm: int | None = told("Activity of its engines, parts per million.")
    memory_used_bytes: int | None = told("Memory in use.")
    power_mw: int | None = told("Power, milliwatts.")
    holders: tuple[Holder, ...] = told("What is on it, at most 16.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU."""

    gpu: str = told("Its UUID, or serial: and its serial number where only that is known.")
    model: str | None = told("As the driver names it.")
    node: str = told("Where it is.")
    site: str = told("Its node's site.")
    cluster: str = told("Its node's cluster.")
    pool: str = told("Its node's pool.")
    state: State = told("Its state at this moment.")
    source: Source = told("Whether the agent says so, it was declared, or nobody observes it.")
    rostered: bool = told("False where the roster does not have it: it is then in no figure.")
    live: LiveGpu | None = told("What the agent said last; null where it says nothing about now.")
    figures: GpuFigures | None = told("It over the period; null where the ledger has nothing of it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node."""

    node: str = told("Its name.")
    site: str = told("Its site.")
    cluster: str = told("Its cluster.")
    pool: str = told("Its pool.")
    rack: str | None = told("Its rack, where the list of targets tells.")
    agent: str | None = told("Where its agent is asked; null where it pushes or was never heard of.")
    trouble: str | None = told("Why its agent did not answer.")
    answered_ms: int | None = told("When its agent last answered.")
    sealed_ms: int | None = told("End of its newest reading.")
    free_since_ms: int | None = told("Since when all its GPUs are free; null where they are not.")
    not_schedulable: NotSchedulable | None = told("Why it takes no new work; null where no scheduler says so.")
    gpus: int = told("How many GPUs it has.")
    gpus_now: Mapping[State, int] = told("They by state at this moment.")
    figures: Figures | None = told("They over the period; null where the ledger has nothing of them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSchedulable:
    """Why a node takes no new work, as its scheduler said in the last hour."""

    why: Unschedulable = told("What keeps new work away.")
    reason: str | None = told("In whose words.")
    by: str | None = told("Who did it, where the name is open.")
    since_ms: int | None = told("Since when.")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleBlock:
    """GPUs of one node that were in the same idle state for the whole of the last settled cell."""

    site: str = told("The node's site.")
    cluster: str = told("The node's cluster.")
    pool: str = told("The node's pool.")
    node: str = told("The node.")
    state: State = told("The idle state.")
    gpus: tuple[str, ...] = told("The GPUs.")
    models: tuple[str, ...] = told("Their models, as far as known.")
    whole: bool = told("Whether they are all that the node has.")
    since_ms: int = told("Since when all of them have been in that state.")
    since_is_exact: bool = told("False where it may be longer.")
    not_schedulable: NotSchedulable | None = told("Why its node takes no new work; null where no scheduler says so.")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whose a workload is."""

    user: str = told("Digest of the name.")
    name: str | None = told("The name, where it was opened.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPart:
    """What a workload had in one node."""

    node: str = told("The node.")
    site: str = told("Its site.")
    gpus: int = told("How many different GPUs.")
    busy_slice_ms: int = told("Busy time.")
    held_slice_ms: int = told("Time for which it held them without using them.")
    memory_bytes_max: int | None = told("The most memory it had on one.")
    first_hour_ms: int = told("The first hour in which it had one.")
    last_hour_ms: int = told("The last.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a workload is taken for, and why."""

    workload: str = told("Its id for `gpuledger workload show`.")
    kind: Kind = told("What for.")
    sentence: str = told("The same in words.")
    evidence: tuple[str, ...] = told("Why, a line each.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One workload over the period."""

    workload: str = told("Digest of its name.")
    name: str | None = told("Its name, where it was opened.")
    users: tuple[User, ...] = told("Whose it is.")
    nodes: int = told("In how many nodes it was.")
    gpus: int = told("How many GPUs it had there.")
    busy_slice_ms: int = told("Busy time.")
    held_slice_ms: int = told("Time for which it held GPUs without using them.")
    first_hour_ms: int = told("The first hour in which it had one.")
    last_hour_ms: int = told("The last.")
    verdict: Verdict | None = told("What it is taken for; null where nobody judged it, or 200 have more GPU time.")
    parts: tuple[WorkloadPart, ...] = told("By node, most held time first, at most 100.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a person must look at."""

    at_ms: int = told("When.")
    kind: str = told("What kind; see the runbook.")
    subject: str = told("About what.")
    text: str = told("In one sentence.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What is wrong with one parameter."""

    name: str = told("The parameter.")
    detail: str = told("What is wrong with it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why there is no answer (RFC 9457)."""

    type: str = told("about:blank: the status says what kind of problem it is.")
    title: str = told("The status in words.")
    status: int = told("The HTTP status.")
    detail: str = told("What is wrong, in one sentence.")
    parameters: tuple[Parameter, ...] = told("The parameters at fault.")
