# SPDX-License-Identifier: Apache-2.0
"""The process suite: documented and recorded trees, wrapped, renamed, and hundreds that must match nothing.

Accuracy is counted on trees, none of which is the example of a rule. A tree's kind is that with the most weight of its
rules of tier 2; without any, and where two kinds are equal, nothing is asserted.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.cells import CELL_SLICE_MS
from gpuledger.hints import Hints
from gpuledger.process_matching import PROCESS_TIER, ProcessFact, match, match_one, program_of, world_size
from gpuledger.process_rules import as_process, load_rules
from gpuledger_collector.classify.evidence import Sums, leading, log_odds, of_processes, probability, support
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import ASSERT_AT
from gpuledger_collector.classify.signs import CellSign
from tests.fakes.process_trees import FOLDER, Tree, everything, positives

TABLE = load_rules()
POSITIVES = positives()
EXAMPLES = {as_process(rule.example).argv for rule in TABLE.rules.values()}
PROGRAMS = sorted({name for rule in TABLE.rules.values() if rule.tier == PROCESS_TIER for name in rule.programs})
MODULES = sorted({name for rule in TABLE.rules.values() if rule.tier == PROCESS_TIER for name in rule.modules})


def told(processes: tuple[ProcessFact, ...]) -> tuple[str | None, frozenset[str]]:
    """Return the kind with the most weight and the tags of its rules; None where tier 2 does not tell."""
    matched = [TABLE.rules[rule] for rule in match(processes, TABLE)]
    rules = [rule for rule in matched if rule.tier == PROCESS_TIER]
    weights: dict[str, float] = {}
    for rule in rules:
        weights[rule.kind] = weights.get(rule.kind, 0.0) + rule.weight
    best = sorted(weights, key=lambda kind: weights[kind], reverse=True)
    if not best or (len(best) > 1 and weights[best[0]] == weights[best[1]]):
        return None, frozenset()
    return best[0], frozenset(rule.tag for rule in rules if rule.kind == best[0] and rule.tag is not None)


HIDDEN = [
    ("verl generation", 0, "training"),
    ("ms-swift GRPO", 1, "inference"),
    ("MLPerf Training", 0, "training"),
    ("lm-eval-accelerate", 1, "training"),
]
"""Trees of which one process, by position, says what the others are for: hidden alone, what is left tells its own kind.
This is what rules cannot know; it must not become more."""


def shift(processes: tuple[ProcessFact, ...]) -> tuple[ProcessFact, ...]:
    """Return the processes under a parent with pid 2, which the caller adds."""
    return tuple(replace(one, pid=one.pid + 1, parent=2 if one.parent == 1 else one.parent + 1) for one in processes)


def under(*line: str) -> Callable[[Tree], tuple[ProcessFact, ...]]:
    """Return what wraps a tree: a parent that has the whole command line of what it starts in its own."""

    def wrap(tree: Tree) -> tuple[ProcessFact, ...]:
        first = next(one for one in tree.processes if one.parent == 1)
        text = shlex.join(first.argv)
        argv = tuple(text if part == "TEXT" else part for part in line if part != "ARGV")
        return (
            ProcessFact(pid=2, parent=1, argv=(*argv, *first.argv) if "ARGV" in line else argv),
            *shift(tree.processes),
        )

    return wrap


WRAPPERS = {
    "bash -c": under("bash", "-c", "TEXT"),
    "login shell": under("-bash"),
    "uv run": under("/usr/local/bin/uv", "run", "ARGV"),
    "conda run": under("python3.11", "/usr/conda/bin/conda", "run", "-n", "env", "ARGV"),
    "poetry run": under("python3.11", "/usr/local/bin/poetry", "run", "ARGV"),
    "tini": under("/usr/bin/tini", "-g", "--", "ARGV"),
    "dumb-init": under("/usr/bin/dumb-init", "--", "ARGV"),
    "containerd-shim": under("/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-id", "0123"),
    "docker-init": under("/sbin/docker-init", "--", "ARGV"),
    "enroot": under("bash", "/usr/bin/enroot", "start", "image", "ARGV"),
    "apptainer": under("Apptainer runtime parent"),
    "slurm_script": under("/bin/bash", "/var/spool/slurmd/job00042/slurm_script"),
    "srun": under("srun", "--mpi=pmix", "ARGV"),
    "nohup": under("nohup", "ARGV"),
    "timeout": under("timeout", "3600", "ARGV"),
    "numactl": under("numactl", "--cpunodebind=0", "ARGV"),
    "nsys": under("/usr/local/cuda/bin/nsys", "profile", "-o", "out", "ARGV"),
    "ray job": under("ray::JobSupervisor"),
    "supervisord": under("python3", "/usr/bin/supervisord", "-n"),
    "s6": under("s6-supervise", "app"),
    "tmux": under("tmux", "new", "-d", "TEXT"),
    "screen": under("SCREEN", "-dmS", "job", "ARGV"),
    "sudo": under("sudo", "-u", "mei", "ARGV"),
    "env": under("env", "A=1", "ARGV"),
}


def other_python(tree: Tree) -> tuple[ProcessFact, ...]:
    """Return the tree with another interpreter, flags before the script, and scripts in another bin/."""
    processes = []
    for one in tree.processes:
        argv = one.argv
        if argv[0].rpartition("/")[2] in {"python", "python3", "python3.11"}:
            rest = [part.replace("/usr/local/bin/", "/srv/env-3.12/bin/") for part in argv[1:]]
            argv = ("/srv/env-3.12/bin/python3.12", "-u", "-Wignore", "-X", "faulthandler", *rest)
        processes.append(replace(one, argv=argv))
    return tuple(processes)


def renamed(one: ProcessFact) -> ProcessFact:
    """Return the process with what it runs under a name that says nothing."""
    program = program_of(one)
    if program.module is not None:
        return replace(one, argv=("python3", "-m", "app.main", *program.arguments))
    if program.script is not None:
        return replace(one, argv=(one.argv[0], "/srv/app/main.py", *program.arguments))
    if one.exe is not None:
        return replace(one, argv=("worker",))
    return replace(one, argv=("/srv/app/a.out", *one.argv[1:]), exe="/srv/app/a.out")


# ------------------------------------------------------------------------------------------------------ positives


def test_the_suite_is_as_large_as_it_should_be() -> None:
    assert len(POSITIVES) >= 60
    assert {tree.kind for tree in POSITIVES} == {"training", "inference", "synthetic", "other"}
    assert len(NEGATIVES) >= 200
    assert len({tree.program for tree in POSITIVES}) >= 60


def test_every_tree_names_program_version_and_source() -> None:
    for tree in everything():
        assert any(character.isdigit() for character in tree.version), tree.program
        assert tree.source.startswith("https://") or tree.is_recorded, tree.program


def test_no_tree_is_told_by_nothing_but_examples_of_rules() -> None:
    for tree in POSITIVES:
        telling = {one.argv for one in tree.processes if match_one(one, TABLE) and one.exe is None}
        assert not telling or not telling <= EXAMPLES, tree.program


@pytest.mark.parametrize("tree", POSITIVES, ids=lambda tree: tree.program)
def test_a_tree_tells_its_kind_and_its_tag(tree: Tree) -> None:
    kind, tags = told(tree.processes)
    assert kind == tree.kind, match(tree.processes, TABLE)
    if tree.tag is not None:
        assert tree.tag in tags
    assert ("rollout" in tags) == (tree.tag == "rollout")
    assert ("batch" in tags) == (tree.tag == "batch")


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_tree_tells_the_same(wrapper: Callable[[Tree], tuple[ProcessFact, ...]]) -> None:
    for tree in POSITIVES:
        assert told(wrapper(tree)) == told(tree.processes), tree.program


def test_another_interpreter_tells_the_same() -> None:
    for tree in POSITIVES:
        assert told(other_python(tree)) == told(tree.processes), tree.program


def test_what_is_renamed_tells_nothing_rather_than_something_wrong() -> None:
    for tree in POSITIVES:
        assert told(tuple(renamed(one) for one in tree.processes)) == (None, frozenset()), tree.program


def test_what_is_renamed_in_part_tells_its_kind_or_nothing() -> None:
    wrong = []
    for tree in POSITIVES:
        for position in range(len(tree.processes)):
            processes = list(tree.processes)
            processes[position] = renamed(processes[position])
            kind, _ = told(tuple(processes))
            if kind not in {None, tree.kind}:
                wrong.append((tree.program, position, kind))
    assert wrong == HIDDEN


# ------------------------------------------------------------------------------------------------------ verdicts


def asserted(processes: Sequence[ProcessFact], *, listens: bool) -> Kind | None:
    """Return the kind that the collector would assert on these hints alone; None where it abstains."""
    rules = match(processes, TABLE)
    size = world_size(processes, TABLE)
    sums = Sums()
    hints = Hints(rules=rules, listens=listens, world_size=size, table=TABLE.version)
    sums.add_cell(CellSign(0, "node", hints, CELL_SLICE_MS, 0, 1))
    total = support(of_processes(sums, TABLE.rules))
    kind = leading(total)
    return kind if kind is not None and probability(log_odds(total)[kind]) >= ASSERT_AT else None


def test_verdicts_on_the_suite_keep_their_bars() -> None:
    right = wrong = abstained = 0
    for tree in POSITIVES:
        variants = [tree.processes, other_python(tree), *(wrap(tree) for wrap in WRAPPERS.values())]
        for processes in variants:
            kind = asserted(processes, listens=tree.listens)
            right += kind == tree.kind
            wrong += kind not in {None, tree.kind}
            abstained += kind is None
        wrong += asserted(tuple(renamed(one) for one in tree.processes), listens=tree.listens) is not None
    for tree in everything():
        wrong += tree.kind == "none" and asserted(tree.processes, listens=tree.listens) is not None
    for line in NEGATIVES:
        wrong += asserted([as_process(line)], listens=True) is not None
    assert wrong == 0
    assert right / (right + abstained) >= 0.9


# ------------------------------------------------------------------------------------------------------ negatives


def _negatives() -> list[str]:
    lines = [line for line in (FOLDER / "negatives.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("#")]
    for number, name in enumerate(PROGRAMS):
        lines += [
            (f"vim /venv/bin/{name}", f"grep -rn {name} .", f"tail -f /var/log/{name}.log")[number % 3],
            (f"python3 job.py --engine {name}", f"bash -c 'which {name}'", f"man {name}")[number % 3],
            f"python3 /srv/{name}/main.py run serve train",
            f"/srv/users/{name}/bin/solver --input {name}",
            f"pip install {name}",
        ]
    for module in MODULES:
        lines += [f"python3 job.py -m {module}", f"python3 -c 'import {module.removesuffix('.*')}'"]
    return list(dict.fromkeys(lines))


NEGATIVES = _negatives()


def test_no_negative_matches_a_rule_of_tier_2() -> None:
    wrong = {}
    for line in NEGATIVES:
        found = [rule for rule in match([as_process(line)], TABLE) if TABLE.rules[rule].tier == PROCESS_TIER]
        if found:
            wrong[line] = found
    assert wrong == {}


def test_a_recorded_tree_without_a_kind_matches_no_rule_of_tier_2() -> None:
    for tree in everything():
        if tree.kind == "none":
            assert told(tree.processes)[0] is None, tree.program


def test_files_of_trees_keep_what_this_machine_is_called_out() -> None:
    for file in Path(FOLDER).rglob("*.toml"):
        text = file.read_text(encoding="utf-8")
        assert "--api-key" not in text
