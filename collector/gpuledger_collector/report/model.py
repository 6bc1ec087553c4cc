# SPDX-License-Identifier: Apache-2.0
"""The report of a period as data: everything any form of it prints, and nothing that is not from the ledger.

Amounts are integer slice-ms (one GPU-hour is 25,200,000). Every list is whole and in a fixed order; forms cut it.
A figure without input is None. Adding a field keeps SCHEMA_VERSION; changing or removing one raises it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpuledger.states import State
from gpuledger_collector.report.given_model import Given
from gpuledger_collector.report.idle_model import Block, IdleList
from gpuledger_collector.report.market_model import Market
from gpuledger_collector.report.money_model import Money
from gpuledger_collector.report.periods import PeriodKind
from gpuledger_collector.report.shares import Range, Share
from gpuledger_collector.report.use_model import Use

SCHEMA = "gpuledger.report"
SCHEMA_VERSION = 2


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
    """Why there is no change to the period before."""

    NO_FIGURES = "no_figures"
    NOT_WHOLE = "not_whole"
    PREVIOUS_NOT_IN_LEDGER = "previous_not_in_ledger"
    PREVIOUS_NOT_WHOLE = "previous_not_whole"
    NONE_BEFORE = "none_before"
    NOT_ASKED_FOR = "not_asked_for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The period, and the part of it that the ledger accounts for (None: nothing of it)."""

    name: str
    kind: PeriodKind
    start_ms: int
    end_ms: int
    figures_from_ms: int | None
    figures_to_ms: int | None
    is_complete: bool
    """Whether the ledger reaches the period's end."""
    is_from_start: bool
    """Whether the ledger reaches back to the period's start."""
    ledger_from_ms: int | None
    ledger_to_ms: int | None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """One node on one day: at least idle, at most that and what is unknown (of it: dark)."""

    idle_slice_ms: int
    unknown_slice_ms: int
    dark_slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """One node's days, in the order of the report's days; None where it was not installed."""

    site: str
    node: str
    cells: tuple[HeatCell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HourOfWeek:
    """All time of one hour of the week (0 to 167, from Monday 00:00 UTC on); hours without time are not listed."""

    hour: int
    busy_slice_ms: int
    idle_slice_ms: int
    unknown_slice_ms: int
    dark_slice_ms: int
    installed_slice_ms: int


class Demand(str, Enum):
    """How much of a node a workload had."""

    WHOLE_NODE = "whole_node"
    SEVERAL = "several"
    ONE = "one"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandRow:
    """Workloads on one node that had so much of it: what buyers ask for."""

    demand: Demand
    workloads: int
    busy_slice_ms: int
    held_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeItem:
    """What an extract is restricted to: a field (site, tenant, model, pool) and its value."""

    field: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A section that is not there, and the input that it would need."""

    section: str
    needs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One printed figure in both periods; the difference is in tenths of a percentage point, absent with either."""

    figure: str
    before: Share | None
    now: Share | None
    difference_tenths: int | None
    mean: Share | None = None
    """That of the four weeks before as one; None where the ledger does not hold them whole."""
    mean_difference_tenths: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Change to the period before or one that was named, or why there is none; `previous` is its name."""

    previous: str | None
    previous_kind: PeriodKind
    absent: NoComparison | None
    changes: tuple[Change, ...]
    mean_of: tuple[str, ...] = ()
    """The weeks of the mean, oldest first."""


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
    is_digest_of_rows: bool
    """Where there are too many rows it is that of the files (docs/report.md)."""
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
class Issue:
    """Under which number a report was issued, and which one it replaces (None: it is the first of its period)."""

    number: int
    restates: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weekly:
    """The report; `headline` is None where the ledger holds no time of the period."""

    schema: str
    schema_version: int
    simulated: bool
    period: Period
    scope: tuple[ScopeItem, ...]
    withheld: tuple[Withheld, ...]
    headline: Totals | None
    places: tuple[Place, ...]
    sites: tuple[Site, ...]
    days: tuple[Day, ...]
    heat_days: tuple[HeatRow, ...]
    heat_hours: tuple[HourOfWeek, ...]
    sensitivity: tuple[Sensitivity, ...]
    idle_list: IdleList
    blocks: tuple[Block, ...]
    demand: tuple[DemandRow, ...]
    market: Market
    money: Money | None
    """None: there is no price book."""
    absent: tuple[Absent, ...]
    comparison: Comparison
    findings: tuple[FindingGroup, ...]
    method: Method
    source: Source | None = None
    """None: the ledger of sealed readings."""
    use: Use | None = None
    """What GPU time was used for; None: nobody judged workloads, or not of this extract."""
    issue: Issue | None = None
    """None: written because somebody asked, and not issued."""
    given: Given | None = None
    """What could be sold, and leases; None for a part of the fleet, of which no lease tells."""
