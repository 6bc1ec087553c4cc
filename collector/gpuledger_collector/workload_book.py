# SPDX-License-Identifier: Apache-2.0
"""Keeps every workload's verdict up to date: signs in as the ledger's hours are made, lives carried on, labels weighed.

What an hour says anew is compared with what is known of it. Where it only goes on, the life is carried on; where the
past changed (a reading that came late, a name that was opened), all signs of that workload are folded again. So what
stands here is what folding everything at once would give. One transaction for each batch of hours.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence

from gpuledger_collector import workload_rows
from gpuledger_collector.allotment import AllotmentRow
from gpuledger_collector.classify.calibration import Counts, calibrate
from gpuledger_collector.classify.declared import OWN_RULES, DeclaredRule, Facts
from gpuledger_collector.classify.evidence import Rules
from gpuledger_collector.classify.identity import base_of, is_better, may_requeue, run_id
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import Life, SignsChangedError, extend, fold
from gpuledger_collector.classify.signs import HourSigns, to_bytes
from gpuledger_collector.classify.verdict import Context, Verdict, judge
from gpuledger_collector.indexed import Database
from gpuledger_collector.store import Store
from gpuledger_collector.workload_facts import Told, digests_of, facts_of, least, told_by
from gpuledger_collector.workload_rows import Judged

LIVES_MAX = 20_000
"""Lives kept in memory, those that went on last; the others are read from the store when they go on."""

logger = logging.getLogger(__name__)

_Calibration = dict[tuple[str, str], Counts]


class WorkloadBook:
    """Verdicts on all workloads of one store; used by the ledger's keeper, one thread at a time."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        declared_rules: Sequence[DeclaredRule] = OWN_RULES,
        *,
        lives_max: int = LIVES_MAX,
    ) -> None:
        self._store = store
        self._rules = rules
        self._declared_rules = declared_rules
        self._lives_max = lives_max
        self._lives: OrderedDict[str, tuple[int, Life, Facts]] = OrderedDict()
        """By base: the last run's number and life, and facts."""
        self._calibration: _Calibration | None = None
        self._labels: dict[str, Kind] = {}

    def clear(self) -> None:
        """Forget what is in memory: the store was emptied, or is to be read again."""
        self._lives.clear()
        self._calibration = None

    # ------------------------------------------------------------------------------------------ signs

    def take(self, hours: Collection[int], signs: Sequence[HourSigns], allotments: Sequence[AllotmentRow] = ()) -> int:
        """Replace all signs of these hours; return how many workloads changed. Raises StorageError, all or nothing."""
        digests = {one.workload for one in signs} | {one.user for one in signs if one.user is not None}
        names = self._store.names(digests | digests_of(allotments))
        told = told_by(allotments, names)
        self._load_context()
        try:
            with self._store.writing() as db:
                changed, facts = self._replace(db, sorted(hours), signs, names, told)
                judged: list[Judged] = []
                known: dict[str, Facts] = {}
                context = self._context(known)
                for base in sorted(changed):
                    for run, life, found in self._bring_up(db, base, changed[base], facts.get(base, Facts())):
                        name = run_id(base, run)
                        known[name] = found
                        verdict = judge(name, life, context)
                        judged.append(Judged(base=base, run=run, life=life, verdict=verdict, facts=found))
                workload_rows.put_runs(db, judged)
        except BaseException:
            self.clear()
            raise
        self._forget()
        if changed:
            self.weigh()
        return len(changed)

    def _replace(
        self, db: Database, hours: Sequence[int], signs: Sequence[HourSigns], names: Mapping[str, str], told: Told
    ) -> tuple[dict[str, dict[int, list[HourSigns]] | None], dict[str, Facts]]:
        """Store what is new; return the signs of changed hours by workload (None: fold anew), and facts."""
        known = workload_rows.known_signs(db, hours)
        changed: dict[str, set[int] | None] = {}
        by_base: dict[str, dict[int, list[HourSigns]]] = {}
        facts: dict[str, Facts] = {}
        rows = []
        for one in signs:
            name = names.get(one.workload)
            found = facts_of(name, None if one.user is None else names.get(one.user), one.node, told)
            old_base, old_body = known.pop((one.hour_ms, one.node, one.workload), (None, None))
            if old_base is None:
                old_base = workload_rows.member(db, one.node, one.workload)
            base = base_of(one.workload, name, node=one.node, cluster=one.cluster, facts=found)
            if old_base is not None and is_better(old_base, base):
                base = old_base  # What made a pod stays known when the scheduler is not heard for a while.
            facts[base] = least(facts.get(base), found)
            by_base.setdefault(base, {}).setdefault(one.hour_ms, []).append(one)
            body = to_bytes(one)
            if old_base != base:
                workload_rows.put_member(db, one.node, one.workload, base, old_base)
                if old_base is not None:
                    changed[old_base] = changed[base] = None  # It goes by another id now, with all of its past.
            if old_body != body:
                rows.append(workload_rows.sign_row(one, base, body))
                new = changed.setdefault(base, set())
                if new is not None:
                    new.add(one.hour_ms)
        for base, new in changed.items():
            if new is not None and base not in self._lives and (last := workload_rows.last_run(db, base)) is not None:
                self._lives[base] = last  # as it was counted, before its last hour gets new signs
        workload_rows.put_signs(db, rows)
        workload_rows.drop_signs(db, known)
        changed |= dict.fromkeys({base for base, _ in known.values()})
        hours_of = {
            base: None if new is None else {hour_ms: by_base[base][hour_ms] for hour_ms in new}
            for base, new in changed.items()
        }
        return hours_of, facts

    def _bring_up(
        self, db: Database, base: str, hours: dict[int, list[HourSigns]] | None, facts: Facts
    ) -> list[tuple[int, Life, Facts]]:
        """Carry a workload on, or fold it anew; return its runs that changed."""
        last = self._lives.pop(base, None)
        facts = least(workload_rows.known_facts(db, base) if last is None else last[2], facts)
        requeues = may_requeue(base)
        if last is not None and hours is not None:
            run, life, _ = last
            lives = [life]
            try:
                for hour_ms in sorted(hours):
                    extend(lives, hours[hour_ms], self._rules, may_requeue=requeues)
            except SignsChangedError:
                lives, run = self._fold(db, base), 1
        else:
            lives, run = self._fold(db, base), 1
        if lives:
            self._lives[base] = run + len(lives) - 1, lives[-1], facts
        return [(number, life, facts) for number, life in enumerate(lives, run)]

    def _fold(self, db: Database, base: str) -> list[Life]:
        workload_rows.drop_runs(db, base)
        return fold(workload_rows.signs_of(db, base), self._rules, may_requeue=may_requeue(base))

    def _forget(self) -> None:
        while len(self._lives) > self._lives_max:
            self._lives.popitem(last=False)

    # ------------------------------------------------------------------------------------------ labels

    def verdict(self, row: workload_rows.WorkloadRow) -> Verdict:
        """Return the verdict on a run that was read with its life, as it stands now."""
        if row.life is None:
            raise AssertionError(f"{row.id} was read without its life")
        self._load_context()
        return judge(row.id, row.life, self._context({row.id: row.facts}))

    def _context(self, facts: Mapping[str, Facts]) -> Context:
        return Context(
            rules=self._rules,
            calibration=self._calibration or {},
            facts=facts,
            labels=self._labels,
            declared_rules=self._declared_rules,
        )

    def _load_context(self) -> None:
        if self._calibration is None:
            self._labels = workload_rows.labels(self._store)
            self._calibration = self._calibrate()

    def _calibrate(self) -> _Calibration:
        names = self._store.names(workload_rows.owners(self._store, self._labels))
        return calibrate(workload_rows.confirmed(self._store, self._labels, names))

    def weigh(self) -> int:
        """Judge anew what labels change: the workloads labelled, and those with evidence that was calibrated by them.

        Return how many were judged. Raises StorageError.
        """
        self._load_context()
        before_labels, before = self._labels, self._calibration or {}
        self._labels = workload_rows.labels(self._store)
        self._calibration = self._calibrate()
        workloads = {
            name
            for name in before_labels.keys() | self._labels.keys()
            if before_labels.get(name) is not self._labels.get(name)
        }
        patterns = {
            key for key in before.keys() | self._calibration.keys() if before.get(key) != self._calibration.get(key)
        }
        rows = [row for name in sorted(workloads) for row in self._rows("WHERE id = ?", name)]
        for site, pattern in sorted(patterns):
            rows += self._rows("WHERE site = ? AND pattern = ?", site, pattern)
        if rows:
            self._judge_again(rows)
        return len(rows)

    def _rows(self, clause: str, *values: str) -> list[workload_rows.WorkloadRow]:
        return workload_rows.runs(self._store, clause, *values, with_life=True)

    def _judge_again(self, rows: Iterable[workload_rows.WorkloadRow]) -> None:
        judged = [
            Judged(base=row.base, run=row.run, life=row.life, verdict=self.verdict(row), facts=row.facts)
            for row in rows
            if row.life is not None
        ]
        with self._store.writing() as db:
            workload_rows.put_runs(db, judged)
