# SPDX-License-Identifier: Apache-2.0
"""The weekly report as data: everything any form of it prints, and nothing that is not from the ledger.

Amounts are integer slice-ms (one GPU-hour is 25,200,000). Every list is whole and in a fixed order; forms cut it.
A figure without input is None. Adding a field keeps SCHEMA_VERSION; changing or removing one raises it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpuledger.states import State
from gpuledger_collector.report.shares import Range, Share

SCHEMA = "gpuledger.report.weekly"
SCHEMA_VERSION = 1


class Withheld(str, Enum):
    """Words a report must not say, because too much was not observed (accounting.md, 3)."""

    OCCUPANCY = "occupancy"
    USED = "used"
    BUSY = "busy"


class TrustLevel(str, Enum):
    """How far the readings behind a report can be checked (evidence.md, 3)."""

    L0 = "L0"
    """The operator's word."""
    L1 = "L1"
    """Signed and chained on the node."""


class NoComparison(str, Enum):
    """Why there is no change to the week before."""

    NO_FIGURES = "no_figures"
    WEEK_NOT_WHOLE = "week_not_whole"
    PREVIOUS_NOT_IN_LEDGER = "previous_not_in_ledger"
    PREVIOUS_NOT_WHOLE = "previous_not_whole"
    NOT_A_WEEK = "not_a_week"
    NOT_ASKED_FOR = "not_asked_for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The week, and the part of it that the ledger accounts for (None: nothing of it)."""

    week: str
    start_ms: int
    end_ms: int
    figures_from_ms: int | None
    figures_to_ms: int | None
    is_complete: bool
    """Whether the ledger reaches the week's end."""
    is_from_start: bool
    """Whether the ledger reaches back to the week's start."""
    ledger_from_ms: int | None
    ledger_to_ms: int | None
    is_iso_week: bool = True
    """Whether it is a week at all; where not, `week` names the span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTime:
    """Time in one state and its share of installed time."""

    state: State
    slice_ms: int
    share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """All figures of one group of GPUs over the period (a fleet, a site, a site's model, a day).

    `busy` is None where the word is withheld, `coverage` where nothing was to be observed, `engine_active` where
    activity was never known; `active_known_slice_ms` is the time for which it was. `states` has, in order, all that the
    source tells: all ten, or without those that gauges do not know of; then `out` and `declared_uncovered` are None.
    """

    gpus: int
    installed_slice_ms: int
    idle: Range
    busy: Range | None
    coverage: Share | None
    measured: Share
    out: Share | None
    declared_uncovered: Share | None
    engine_active: Share | None
    active_known_slice_ms: int
    states: tuple[StateTime, ...]
    withheld: tuple[Withheld, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Figures of one model at one site; `model` is None where no reading named it."""

    site: str
    model: str | None
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Figures of one site."""

    site: str
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Figures of one UTC day; a day without installed time is not listed."""

    day_ms: int
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What the figures would be with another threshold of activity."""

    theta_ppm: int
    is_in_force: bool
    busy: Range | None
    idle: Range


class FreeKind(str, Enum):
    """How free a node was."""

    ALL_WEEK = "all_week"
    """Every GPU installed and free in every cell of the period."""
    WHEN_OBSERVED = "when_observed"
    """Every GPU free in every covered cell, but part of the period was dark or before the node's installation."""
    PARTLY = "partly"


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeNode:
    """A node with free time."""

    kind: FreeKind
    site: str
    node: str
    gpus: int
    free_slice_ms: int
    dark_slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A workload that held GPUs without work; names are None where nobody opened them, digests always stand."""

    site: str
    node: str
    user_name: str | None
    user_digest: str | None
    workload_name: str | None
    workload_digest: str
    gpus: int
    held_slice_ms: int
    busy_slice_ms: int
    memory_bytes_max: int | None
    """The most on any one GPU."""
    first_hour_ms: int
    last_hour_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DarkNode:
    """A node with dark time; hours are named by their start.

    `dark_since_ms` is the first of the wholly dark hours that the period ends in, None where the node was seen last;
    `last_seen_hour_ms` is the last hour in which anything of it was observed, None where nothing was.
    """

    site: str
    node: str
    gpus: int
    dark_slice_ms: int
    installed_slice_ms: int
    first_dark_hour_ms: int
    last_seen_hour_ms: int | None
    dark_since_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DownGpu:
    """A GPU with down time."""

    site: str
    node: str
    gpu: str
    down_slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleList:
    """Where idle, dark and down time was: each list sums to the state's total, largest first."""

    free: tuple[FreeNode, ...]
    held: tuple[Holder, ...]
    held_without_holder_slice_ms: int
    """Held time for which no reading tells the workload."""
    dark: tuple[DarkNode, ...]
    down: tuple[DownGpu, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One printed figure in both weeks; the difference is in tenths of a percentage point, absent with either."""

    figure: str
    before: Share | None
    now: Share | None
    difference_tenths: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Change to the week before, or why there is none."""

    previous_week: str
    absent: NoComparison | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingGroup:
    """Findings of one kind about one subject; `text` is that of the first."""

    kind: str
    subject: str
    count: int
    first_ms: int
    last_ms: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What the figures rest on."""

    theta_ppm: int
    cell_ms: int
    coverage_floor_tenths: int
    intervals_ms: tuple[int, ...]
    are_intervals_mixed: bool
    activity_sources: tuple[str, ...]
    hang_suspicion_ms: int
    ledger_digest: str
    readings_trust: TrustLevel
    roster_trust: TrustLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A gauge of activity; `is_mean` says that a sample is the mean of an update interval, not a moment's value."""

    metric: str
    is_mean: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How finely one model at one site was sampled on one day; `site` and `model` as in places.

    `points` counts samples of all its GPUs; every change of state between two of them may be up to an interval off,
    `misplaced_slice_ms` in all.
    """

    day_ms: int
    site: str
    model: str | None
    points: int
    misplaced_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the figures are from where they are not from sealed readings, and what that does not tell.

    Gauges are sampled; with `is_counters` they are our own agents' counters, sampled too but exact between samples.
    """

    profile: str
    exporter: str
    is_counters: bool
    update_interval_ms: int
    gauges: tuple[Gauge, ...]
    intervals_ms: tuple[int, ...]
    """How often they were sampled; a sample stands for two of them at most."""
    memory_metric: str | None
    held_above_bytes: int | None
    """More memory in use is taken for a process."""
    untold: tuple[State, ...]
    """States that the source cannot tell, and that are in no figure."""
    knows_workloads: bool
    tallies: tuple[Tally, ...]
    changes: int
    points: int
    rejected_points: int
    contradicting_points: int
    points_without_memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weekly:
    """The weekly report; `headline` is None where the ledger holds no time of the week."""

    schema: str
    schema_version: int
    simulated: bool
    period: Period
    withheld: tuple[Withheld, ...]
    headline: Totals | None
    places: tuple[Place, ...]
    sites: tuple[Site, ...]
    days: tuple[Day, ...]
    sensitivity: tuple[Sensitivity, ...]
    idle_list: IdleList
    comparison: Comparison
    findings: tuple[FindingGroup, ...]
    method: Method
    source: Source | None = None
    """None: the ledger of sealed readings."""
