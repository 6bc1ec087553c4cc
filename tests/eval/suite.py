# SPDX-License-Identifier: Apache-2.0
"""Verdicts on the suite of process trees and on hard cases; needs nothing but this checkout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from gpuledger.hints import Hints
from gpuledger.process_matching import ProcessFact, match, program_of, world_size
from gpuledger.process_rules import load_rules
from gpuledger_collector.classify.evidence import Rules
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import fold
from gpuledger_collector.classify.verdict import Context, Verdict, judge
from tests.eval.hard_cases import HARD_CASES, INTERVALS_S, RENAMED, HardCase, signs
from tests.eval.scores import TRAINING, Case, score
from tests.fakes.process_trees import FOLDER, Tree, parse, positives
from tests.fakes.signs import hours

ACCURACY_MIN, COVERAGE_MIN = 0.98, 0.9
CELLS = 12
TABLE = load_rules()
PROCESS_TIER = 2

Processes = Callable[[Tree], tuple[ProcessFact, ...]]


def as_they_are(tree: Tree) -> tuple[ProcessFact, ...]:
    return tree.processes


def renamed(tree: Tree) -> tuple[ProcessFact, ...]:
    """The tree with whatever it runs under names that say nothing."""
    processes = []
    for one in tree.processes:
        program = program_of(one)
        if program.module is not None:
            argv: tuple[str, ...] = ("python3", "-m", "app.main", *program.arguments)
        elif program.script is not None:
            argv = (one.argv[0], "main.py", *program.arguments)
        else:
            argv = ("a.out", *one.argv[1:]) if one.exe is None else ("worker",)
        processes.append(replace(one, argv=argv, exe=None))
    return tuple(processes)


def hints_of(processes: Sequence[ProcessFact], *, listens: bool) -> Hints:
    return Hints(
        rules=match(processes, TABLE), listens=listens, world_size=world_size(processes, TABLE), table=TABLE.version
    )


def verdict_of(hints: Hints | None, rules: Rules) -> Verdict:
    """The verdict after an hour of it."""
    (life,) = fold(hours(*[hints] * CELLS), rules, may_requeue=True)
    return judge("w", life, Context(rules=rules, calibration={}, facts={}, labels={}))


def as_case(label: str, group: str, verdict: Verdict) -> Case:
    named = verdict.lean if verdict.kind is Kind.UNCLASSIFIED else verdict.kind
    training = 0.5
    if named is not None and verdict.probability is not None:
        training = verdict.probability if named.value == TRAINING else 1 - verdict.probability
    asserted = None if verdict.kind is Kind.UNCLASSIFIED else verdict.kind.value
    return Case(group=group, label=label, asserted=asserted, training=training, gpu_hours=1.0)


def cases(rules: Rules, processes: Processes = as_they_are, *, are_seen: bool = True) -> list[Case]:
    """One case for each tree whose processes tell a kind."""
    found = []
    for tree in positives():
        hints = hints_of(processes(tree), listens=tree.listens) if are_seen else None
        found.append(as_case(tree.kind, tree.program, verdict_of(hints, rules)))
    return found


def negatives() -> list[Case]:
    """Processes that must match nothing: whatever is asserted of them is wrong."""
    found = []
    for number, line in enumerate((FOLDER / "negatives.txt").read_text(encoding="utf-8").splitlines()):
        if line and not line.startswith("#"):
            hints = hints_of([parse(f"2 1 g {line}")], listens=False)
            found.append(as_case("none", str(number), verdict_of(hints, TABLE.rules)))
    return found


def hard(which: Sequence[HardCase], interval_s: int) -> list[Case]:
    """One case for each hard case, looked at every so many seconds."""
    context = Context(rules=TABLE.rules, calibration={}, facts={}, labels={})
    found = []
    for case in which:
        (life,) = fold(signs(case, TABLE, interval_s), TABLE.rules, may_requeue=True)
        found.append(as_case(case.kind, case.name, judge("w", life, context)))
    return found


def part(
    head: Sequence[str], line: Callable[[str, Sequence[Case]], str], table: Callable[[Sequence[Case]], Iterator[str]]
) -> Iterator[str]:
    """The section about the suite."""
    suite = cases(TABLE.rules)
    without_environment = {name: rule for name, rule in TABLE.rules.items() if rule.tier == PROCESS_TIER}
    yield "### On the process suite"
    yield ""
    yield (
        f"{len(suite)} trees of processes of real programs, documented or recorded, none of them an example of a rule; "
        f"{len(negatives())} that must tell nothing; {len(HARD_CASES)} hard cases with processes and made-up signals. "
        "Nobody declared or labelled anything. Every case weighs one GPU-hour. Intervals are of whole programs drawn "
        "again."
    )
    yield ""
    yield from head
    yield line("processes as they are", suite)
    yield line("without what programs run in (tier 3)", cases(without_environment))
    yield line("without any process evidence", cases(TABLE.rules, are_seen=False))
    yield line("every program renamed", cases(TABLE.rules, renamed))
    yield line("processes that must tell nothing", negatives())
    for interval_s in INTERVALS_S:
        yield line(f"hard cases, looked at every {interval_s} s", hard(HARD_CASES, interval_s))
        yield line(f"hard cases renamed, every {interval_s} s", hard(RENAMED, interval_s))
    yield ""
    yield from table(suite)


def missed_bars() -> list[str]:
    """What is worse than it must be, a sentence each."""
    found = score(cases(TABLE.rules))
    missed = []
    if found.accuracy is None or found.accuracy < ACCURACY_MIN:
        missed.append(f"right among asserted on the process suite: {found.accuracy}, and {ACCURACY_MIN} is the least")
    if found.coverage < COVERAGE_MIN:
        missed.append(f"asserted on the process suite: {found.coverage}, and {COVERAGE_MIN} is the least")
    told = {interval_s: hard((*HARD_CASES, *RENAMED), interval_s) for interval_s in INTERVALS_S}
    for interval_s, some in told.items():
        wrong = [case.group for case in some if case.asserted not in (None, case.label)]
        if wrong:
            missed.append(f"asserted wrong, looked at every {interval_s} s: {', '.join(wrong)}")
    if len({tuple(case.asserted for case in some) for some in told.values()}) > 1:
        missed.append("verdicts on hard cases depend on how often nodes are looked at")
    return missed
