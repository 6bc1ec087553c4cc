# SPDX-License-Identifier: Apache-2.0
"""Holds processes against rules: which programs does a workload consist of? Pure; nothing here is a regex over text.

What counts is the program that a process runs, never a word somewhere in its command line: the executable, or what an
interpreter was told to run. `python train.py --model vllm` is train.py, `grep torchrun` is grep, and whatever lies in a
folder "inference" is not inference for it. Wrappers (shells, `uv run`, `conda run`, srun, tini, containers) are not
looked through: what they start is a process of the same workload with a command line of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuledger.hints import RULES_MAX, WORLD_SIZE_MAX

KINDS = ("training", "inference", "synthetic", "other")
PROCESS_TIER, ENVIRONMENT_TIER = 2, 3
WEIGHT_MAX = {PROCESS_TIER: 3.0, ENVIRONMENT_TIER: 1.0}
"""The greatest weight (log-odds) of a rule, by tier."""
KIND_PREFIX = "kind:"
"""In what a rule covers: every rule of a kind."""

_PYTHONS = ("python", "pypy")
_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "ksh"})
_PYTHON_OPTIONS_WITH_VALUE = frozenset({"--check-hash-based-pycs"})
_SHELL_OPTIONS_WITH_VALUE = frozenset({"-o", "-O", "+o", "+O", "--rcfile", "--init-file"})
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFact:
    """One process of a workload: `exe` is the path of its executable (None: not to be read), `argv` its command line.

    `holds_gpu` says whether it is among those that the driver lists.
    """

    pid: int
    parent: int
    argv: tuple[str, ...]
    exe: str | None = None
    holds_gpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Options of a launcher that tell how many processes it starts: in all, or on each of so many nodes."""

    total: tuple[str, ...] = ()
    per_node: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table; docs/classification.md says what each field is.

    A process matches where one of `programs`, `modules`, `scripts`, `titles`, `words` names what it runs, and
    `commands`, `arguments`, `without` and `holds_gpu`, where they are there, hold too. `covers` are rules that count
    for nothing beside this one: ids, or "kind:KIND". `weight` is in log-odds for `kind`.
    """

    id: str
    kind: str
    tag: str | None = None
    tier: int
    weight: float
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    holds_gpu: bool = False
    covers: tuple[str, ...] = ()
    world: World | None = None
    example: str
    counterexample: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a process runs.

    `name` is the base name of a program or of a script without a suffix; `script` the path of what an interpreter runs;
    `module` what it was told to run by -m; `title` what a process calls itself where that is no command line.
    """

    name: str | None = None
    module: str | None = None
    script: str | None = None
    title: str | None = None
    arguments: tuple[str, ...] = ()


def program_of(process: ProcessFact) -> Program:
    """Return what a process runs; nothing at all where its command line does not tell."""
    argv = process.argv
    if not argv or not argv[0]:
        return Program()
    called = _base(argv[0])
    exe = None if process.exe is None else _base(process.exe.removesuffix(_DELETED))
    if exe is not None and (_is_python(exe) or exe in _SHELLS) and not _is_interpreter(called):
        return Program(title=argv[0])  # an interpreter that goes by another name was given a title
    if _is_python(called):
        return _python(argv)
    if called.removeprefix("-") in _SHELLS:
        return _script(argv, _SHELL_OPTIONS_WITH_VALUE)
    return Program(name=called, title=argv[0], arguments=argv[1:])


def _python(argv: tuple[str, ...]) -> Program:
    position = 1
    while position < len(argv) and argv[position].startswith("-") and argv[position] not in {"-", "--"}:
        option = argv[position]
        position += 1
        if option.startswith("--"):
            position += option in _PYTHON_OPTIONS_WITH_VALUE
            continue
        # Short options run together, as in -um MODULE; what follows c, m, W or X is that one's value.
        taker = next((index for index, letter in enumerate(option) if letter in "cmWX"), None)
        if taker is None:
            continue
        if option[taker] == "c":
            return Program()  # code on the command line is text: it names no program
        value = option[taker + 1 :]
        if not value:
            value = argv[position] if position < len(argv) else ""
            position += 1
        if option[taker] == "m":
            return Program(module=value or None, arguments=argv[position:])
    return _script(argv[:1] + argv[position:], frozenset())


def _script(argv: tuple[str, ...], with_value: frozenset[str]) -> Program:
    position = 1
    while position < len(argv) and argv[position].startswith(("-", "+")):
        option = argv[position]
        if option in {"-", "--"}:
            position += 1
            break
        if not option.startswith("--") and "c" in option[1:]:
            return Program()
        position += 2 if option in with_value else 1
    if position >= len(argv) or not argv[position]:
        return Program()
    path = argv[position]
    name = _base(path)
    return Program(name=None if "." in name else name, script=path, arguments=argv[position + 1 :])


def _is_interpreter(name: str) -> bool:
    return _is_python(name) or name.removeprefix("-") in _SHELLS


def _is_python(name: str) -> bool:
    for python in _PYTHONS:
        if name.startswith(python):
            return all(character.isdigit() or character in ".t" for character in name[len(python) :])
    return False


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


# ---------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTable:
    """Rules by id, and where to look for those that may match; `version` goes into hints beside what matched."""

    version: str
    rules: Mapping[str, Rule]
    by_name: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    by_module: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    by_script: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    by_word: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    by_title: tuple[tuple[str, Rule], ...] = field(repr=False)


def make_table(version: str, rules: Iterable[Rule]) -> RuleTable:
    """Return the table of these rules; the last of two with the same id is the one that counts."""
    by_id = {rule.id: rule for rule in rules}
    names: dict[str, tuple[Rule, ...]] = {}
    modules: dict[str, tuple[Rule, ...]] = {}
    scripts: dict[str, tuple[Rule, ...]] = {}
    words: dict[str, tuple[Rule, ...]] = {}
    for rule in by_id.values():
        for index, keys in (
            (names, rule.programs),
            (modules, rule.modules),
            (scripts, tuple(_base(script) for script in rule.scripts)),
            (words, rule.words),
        ):
            for key in keys:
                index[key] = (*index.get(key, ()), rule)
    return RuleTable(
        version=version,
        rules=by_id,
        by_name=names,
        by_module=modules,
        by_script=scripts,
        by_word=words,
        by_title=tuple((title, rule) for rule in by_id.values() for title in rule.titles),
    )


def match_one(process: ProcessFact, table: RuleTable) -> frozenset[str]:
    """Return the ids of the rules that a process matches by itself; what covers what is not looked at.

    Words of a name count only where no rule knows the program: they would say the same again.
    """
    program = program_of(process)
    found = frozenset(rule.id for rule in _candidates(program, table) if _holds(rule, program, process))
    if found:
        return found
    return frozenset(rule.id for rule in _by_words(program, table) if _holds(rule, program, process))


def match(processes: Sequence[ProcessFact], table: RuleTable) -> tuple[str, ...]:
    """Return the ids of the rules that a workload's processes match: sorted, at most RULES_MAX, none covered."""
    found: set[str] = set()
    for process in processes:
        found |= match_one(process, table)
    return settle(found, table)


def settle(found: Iterable[str], table: RuleTable) -> tuple[str, ...]:
    """Return the ids without those that others cover, sorted; of too many those with more weight."""
    rules = [table.rules[rule] for rule in set(found) if rule in table.rules]
    covered = {key for rule in rules for key in rule.covers}
    kept = [rule for rule in rules if not _is_covered(rule, rules, covered)]
    kept.sort(key=lambda rule: (rule.tier, -abs(rule.weight), rule.id))
    return tuple(sorted(rule.id for rule in kept[:RULES_MAX]))


def _is_covered(rule: Rule, rules: Sequence[Rule], covered: set[str]) -> bool:
    if rule.id not in covered and KIND_PREFIX + rule.kind not in covered:
        return False
    return any(_covers(other, rule) and not _covers(rule, other) for other in rules if other is not rule)


def _covers(rule: Rule, other: Rule) -> bool:
    return other.id in rule.covers or KIND_PREFIX + other.kind in rule.covers


def _candidates(program: Program, table: RuleTable) -> Iterable[Rule]:
    if program.name is not None:
        yield from table.by_name.get(program.name, ())
    if program.module is not None:
        parts = program.module.split(".")
        yield from table.by_module.get(program.module, ())
        for length in range(len(parts), 0, -1):
            yield from table.by_module.get(".".join(parts[:length]) + ".*", ())
    if program.script is not None:
        for rule in table.by_script.get(_base(program.script), ()):
            if any(_ends_in(program.script, script) for script in rule.scripts):
                yield rule
    if program.title is not None:
        for title, rule in table.by_title:
            if program.title.startswith(title):
                yield rule


def _by_words(program: Program, table: RuleTable) -> Iterable[Rule]:
    if program.module is not None:
        name = program.module.rpartition(".")[2]
    elif program.script is not None:
        name = _base(program.script).partition(".")[0]
    else:
        return
    for word in name.lower().replace("-", "_").split("_"):
        yield from table.by_word.get(word, ())


def _ends_in(path: str, end: str) -> bool:
    return path == end or path.endswith("/" + end)


def _holds(rule: Rule, program: Program, process: ProcessFact) -> bool:
    if rule.holds_gpu and not process.holds_gpu:
        return False
    arguments = program.arguments
    if rule.commands and _command(arguments) not in rule.commands:
        return False
    if rule.arguments and not any(_has(arguments, wanted) for wanted in rule.arguments):
        return False
    return not any(_has(arguments, unwanted) for unwanted in rule.without)


def _command(arguments: tuple[str, ...]) -> str | None:
    """Return the first argument that is no option; a program with commands has it before all else as a rule."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _has(arguments: tuple[str, ...], wanted: str) -> bool:
    return wanted in arguments or any(argument.startswith(wanted + "=") for argument in arguments)


# ---------------------------------------------------------------------------------------------- the size of the world


def world_size(processes: Iterable[ProcessFact], table: RuleTable) -> int | None:
    """Return how many processes the launchers among these say they start, the most of them; None where none tells."""
    sizes: list[int] = []
    for process in processes:
        told = match_one(process, table)
        arguments = program_of(process).arguments
        worlds = [table.rules[rule].world for rule in told]
        sizes += [size for world in worlds if world is not None and (size := _size(arguments, world)) is not None]
    return max(sizes, default=None)


def _size(arguments: tuple[str, ...], world: World) -> int | None:
    total = _number(arguments, world.total)
    if total is not None:
        return total
    per_node = _number(arguments, world.per_node)
    if per_node is None:
        return None
    nodes = _number(arguments, world.nodes)
    size = per_node * (1 if nodes is None else nodes)
    return size if size <= WORLD_SIZE_MAX else None


def _number(arguments: tuple[str, ...], options: tuple[str, ...]) -> int | None:
    """Return the value of the first of these options that has a number ("2:4", for a range, is its least)."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in options:
            if not equals:
                value = arguments[position + 1] if position + 1 < len(arguments) else ""
            value = value.partition(":")[0]
            if value.isascii() and value.isdigit() and len(value) <= 7 and 1 <= int(value) <= WORLD_SIZE_MAX:
                return int(value)
            return None
    return None
