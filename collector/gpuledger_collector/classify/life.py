# SPDX-License-Identifier: Apache-2.0
"""A workload's life: its signs cell by cell, folded into sums and into what was asserted when. Pure.

A function of the set of signs: `fold` sorts them, and going on from where an earlier fold ended gives the same. A kind
is asserted when it had p >= 0.90 at the end of two cells in a row and retracted below 0.75; each cell is judged by all
that came up to it, so a verdict covers the workload's whole time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from gpuledger.cells import CELL_MS
from gpuledger.hints import Hints
from gpuledger_collector.classify.evidence import RULES_KEPT_MAX, Rules, Sums, odds_of, of_processes, probability
from gpuledger_collector.classify.kinds import KINDS, Item, Kind
from gpuledger_collector.classify.signs import CellSign, HourSigns, order
from gpuledger_collector.classify.telemetry import hints, suspicions

ASSERT_AT = 0.90
RETRACT_BELOW = 0.75
HELD_CELLS = 2
"""Seal intervals in a row for which a kind must be likely before it is asserted."""
REQUEUE_GAP_MS = 2 * CELL_MS
"""A job that nobody saw for so long and that then runs at other nodes alone was queued again."""
CHANGES_MAX = 50
"""Of kind, kept of one life: the first, and the last ones."""
NODES_MAX = 256
"""Nodes kept by name."""


@dataclass(slots=True)
class Life:
    """One run of a workload. `cells_ms` is the last cell that counts; times are POSIX ms.

    `hour` are the cells of the last hour that are counted already, and `hour_features` the features of that hour, which
    count for cells of later hours: an hour's sums are complete only when it is over.
    """

    sums: Sums = field(default_factory=Sums)
    first_ms: int = 0
    last_ms: int = -1
    cells: int = 0
    """With busy or held time."""
    asserted: Kind | None = None
    likely: Kind | None = None
    likely_cells: int = 0
    changes: list[tuple[int, Kind]] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    last_nodes: list[str] = field(default_factory=list)
    gpus_max: int = 0
    site: str = ""
    user: str | None = None
    source: str | None = None
    hour_ms: int = -1
    hour: tuple[CellSign, ...] = ()
    hour_features: dict[str, int] = field(default_factory=dict)
    hinted: tuple[Item, ...] | None = field(default=None, compare=False)
    """What the features of the hours before hint at; None: to be worked out."""
    told: tuple[Item, ...] | None = field(default=None, compare=False)
    """What its processes told up to the last cell, likewise."""
    only_hints: Hints | None = field(default=None, compare=False)
    """The hints of every cell so far, where `told` was worked out of those alone: another such cell tells the same."""

    @property
    def end_ms(self) -> int:
        return self.last_ms + CELL_MS

    def features(self) -> Mapping[str, int]:
        """Return the sums of features up to now, the last hour included."""
        if not self.sums.features:
            return self.hour_features
        total = dict(self.sums.features)
        for name, amount in self.hour_features.items():
            total[name] = total.get(name, 0) + amount
        return total


class SignsChangedError(Exception):
    """Signs that were counted already are different now: the life must be folded anew."""


def fold(signs: Iterable[HourSigns], rules: Rules, *, may_requeue: bool) -> list[Life]:
    """Return the runs of one workload from all of its signs, oldest first; more than one only if it may be requeued."""
    lives: list[Life] = []
    ordered = sorted(signs, key=lambda one: (one.hour_ms, one.node, one.workload))
    for _, hour in groupby(ordered, key=lambda one: one.hour_ms):
        extend(lives, list(hour), rules, may_requeue=may_requeue)
    return lives


def extend(lives: list[Life], hour: Sequence[HourSigns], rules: Rules, *, may_requeue: bool) -> None:
    """Go on with all signs of one hour that is none before the last one; raises SignsChangedError."""
    cells = merged(hour)
    features = dict(hour[0].features)
    for signs in hour[1:]:
        for name, amount in signs.features.items():
            features[name] = features.get(name, 0) + amount
    life = lives[-1] if lives else None
    hour_ms = hour[0].hour_ms
    counted: tuple[CellSign, ...] = ()
    if life is not None and life.hour_ms == hour_ms:
        counted = life.hour
        if cells[: len(counted)] != counted:
            raise SignsChangedError
    elif life is not None and life.hour_ms > hour_ms:
        raise SignsChangedError
    for cell_ms, group in groupby(cells[len(counted) :], key=lambda cell: cell.cell_ms):
        now = list(group)
        if life is not None and life.last_ms == cell_ms:
            raise SignsChangedError  # another node's part of a cell that is counted
        if life is None or (may_requeue and _is_requeued(life, cell_ms, now)):
            if life is not None:
                _close(life, hour_ms)
            life = Life(first_ms=cell_ms)
            lives.append(life)
        if life.hour_ms != hour_ms:
            life.sums.add_features(life.hour_features)
            life.hinted = None
            life.hour_ms, life.hour_features = hour_ms, {}
        _step(life, cell_ms, now, rules)
        _describe(life, [signs for signs in hour if signs.node in life.last_nodes])
    if life is not None:
        life.hour, life.hour_features = cells, features


def _close(life: Life, hour_ms: int) -> None:
    """End a run before another that begins in this hour."""
    life.hour = ()
    if life.hour_ms == hour_ms:
        life.hour_features = {}  # An hour's sums cannot be divided: they go to the run that it ends with.


def merged(hour: Sequence[HourSigns]) -> tuple[CellSign, ...]:
    """Return the cells of all nodes in one order."""
    if len(hour) == 1:
        return hour[0].cells
    cells = [cell for signs in hour for cell in signs.cells]
    return tuple(sorted(cells, key=lambda cell: (cell.cell_ms, cell.node, order(cell.hints), cell[3:])))


def _is_requeued(life: Life, cell_ms: int, cells: Iterable[CellSign]) -> bool:
    return cell_ms - life.end_ms >= REQUEUE_GAP_MS and not {cell.node for cell in cells} & set(life.last_nodes)


def _step(life: Life, cell_ms: int, cells: Sequence[CellSign], rules: Rules) -> None:
    life.last_ms = cell_ms
    life.last_nodes = sorted({cell.node for cell in cells})
    if not set(life.last_nodes) <= set(life.nodes) and len(life.nodes) < NODES_MAX:
        life.nodes = sorted({*life.nodes, *life.last_nodes})[:NODES_MAX]
    life.gpus_max = max(life.gpus_max, sum(cell.gpus for cell in cells))
    if not any(cell.busy_slice_ms or cell.held_slice_ms for cell in cells):
        return  # Allocated only: nothing was to be seen of what it is for.
    life.cells += 1
    for cell in cells:
        life.sums.add_cell(cell)
    _bound_rules(life.sums)
    _look(life, cells, rules)
    _judge(life, cell_ms)


def _look(life: Life, cells: Sequence[CellSign], rules: Rules) -> None:
    """Work out what processes told; shares do not move where each cell so far had the same hints."""
    first = cells[0].hints
    is_alike = first is not None and all(cell.hints == first for cell in cells)
    if is_alike and life.told is not None and life.only_hints == first:
        return
    life.told = of_processes(life.sums, rules)
    life.only_hints = first if is_alike and life.cells == 1 else None


def _bound_rules(sums: Sums) -> None:
    if len(sums.rules) > RULES_KEPT_MAX:
        kept = sorted(sums.rules.items(), key=lambda item: (-item[1], item[0]))[:RULES_KEPT_MAX]
        sums.rules = dict(sorted(kept))


def _judge(life: Life, cell_ms: int) -> None:
    """Take the cell's end into account: what is likely now, what is asserted, what is no longer."""
    if life.hinted is None:
        features = life.sums.features
        life.hinted = tuple(hints(features, tuple(suspicions(features))))
    odds = odds_of((*(life.told or ()), *life.hinted))
    best = max(KINDS, key=lambda kind: odds[kind])
    if life.asserted is not None and probability(odds[life.asserted]) < RETRACT_BELOW:
        _change(life, cell_ms, None)
    if probability(odds[best]) < ASSERT_AT:
        life.likely, life.likely_cells = None, 0
        return
    life.likely_cells = min(HELD_CELLS, life.likely_cells + 1) if life.likely is best else 1
    life.likely = best
    if life.likely_cells >= HELD_CELLS and life.asserted is not best:
        _change(life, cell_ms, best)


def _change(life: Life, cell_ms: int, kind: Kind | None) -> None:
    life.asserted = kind
    life.changes.append((cell_ms + CELL_MS, Kind.UNCLASSIFIED if kind is None else kind))
    if len(life.changes) > CHANGES_MAX:
        del life.changes[1]


def _describe(life: Life, hour: Sequence[HourSigns]) -> None:
    """Keep the least of what the signs say of the workload, so that it does not matter which came first."""
    life.site = min([signs.site for signs in hour] + ([life.site] if life.site else []))
    users = [signs.user for signs in hour if signs.user is not None] + ([] if life.user is None else [life.user])
    life.user = min(users, default=None)
    sources = [signs.source for signs in hour if signs.source is not None]
    life.source = min(sources + ([] if life.source is None else [life.source]), default=None)
