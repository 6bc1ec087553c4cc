# SPDX-License-Identifier: Apache-2.0
"""The table of rules that tell programs by their processes: data, not code (process_rules.toml, and a site's own file).

A rule of the site with the id of one of ours takes its place.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from gpuledger.errors import ConfigurationError
from gpuledger.hints import RULE_ID_CHARACTERS_MAX, is_rule_id
from gpuledger.process_matching import (
    KIND_PREFIX,
    KINDS,
    WEIGHT_MAX,
    ProcessFact,
    Rule,
    RuleTable,
    World,
    make_table,
    match_one,
)
from gpuledger.settings import read_toml

RULES_VERSION = 1
"""Raised with every change to the table that may change what matches."""
SITE_RULES_MAX = 256
_TABLE = Path(__file__).with_name("process_rules.toml")
_TEXTS = ("id", "kind", "tag", "example", "counterexample", "source")
_LISTS = ("programs", "modules", "scripts", "titles", "words", "commands", "arguments", "without", "covers")
_NAMING = ("programs", "modules", "scripts", "titles", "words")
_WORLD = ("total", "per_node", "nodes")
_REQUIRED = ("id", "kind", "tier", "weight", "example", "counterexample", "source")
_TEXT_CHARACTERS_MAX = 512
_LIST_MAX = 64


def load_rules(extra: Path | None = None) -> RuleTable:
    """Return the table, with the site's rules in `extra`; raises ConfigurationError naming file, rule and field.

    The examples of a site's rules are tried: one that does not match, or a counterexample that does, is an error.
    """
    document = read_toml(_TABLE)
    if document.pop("version", None) != RULES_VERSION:
        raise AssertionError("the table and RULES_VERSION change together")
    rules = list(_rules(_TABLE, document, len_max=None))
    version = str(RULES_VERSION)
    if extra is not None:
        site = list(_rules(extra, read_toml(extra), len_max=SITE_RULES_MAX))
        for number, rule in enumerate(site):
            _try_examples(_Place(extra, number, rule.id), rule)
        rules += site
        version += "+" + hashlib.sha256(repr(site).encode("utf-8")).hexdigest()[:12]
    table = make_table(version, rules)
    if extra is not None:
        _check_covers(extra, table)
    return table


def as_process(line: str, *, holds_gpu: bool = True) -> ProcessFact:
    """Return the process that a command line in a rule's example stands for; raises ValueError where it is none."""
    return ProcessFact(pid=1, parent=0, argv=tuple(shlex.split(line)), holds_gpu=holds_gpu)


class _Place:
    """Where in a file a rule stands, for a sentence about it."""

    def __init__(self, path: Path, number: int, rule: object = None) -> None:
        self._path, self._number, self._rule = path, number, rule

    def fail(self, field: str, why: str) -> NoReturn:
        name = "" if not isinstance(self._rule, str) else f" ({self._rule[:RULE_ID_CHARACTERS_MAX]!a})"
        line = _line_of(self._path, self._number)
        raise ConfigurationError(f"{self._path}: rule {self._number + 1}{name} in line {line}: {field} {why}")


def _line_of(path: Path, number: int) -> int:
    """Return the line in which the rule begins; the last line of the file where it cannot be told."""
    headers = -1
    lines = path.read_text(encoding="utf-8").splitlines()
    for position, line in enumerate(lines, 1):
        headers += line.replace(" ", "").replace("\t", "").startswith("[[rule]]")
        if headers == number:
            return position
    return len(lines)


def _rules(path: Path, document: Mapping[str, Any], len_max: int | None) -> Iterator[Rule]:
    for key in document:
        if key != "rule":
            raise ConfigurationError(f"{path}: {key[:40]!a} is not known; a file of rules has only [[rule]]")
    rows = document.get("rule", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigurationError(f"{path}: rule is not a list of tables: each begins with [[rule]]")
    if len_max is not None and len(rows) > len_max:
        raise ConfigurationError(f"{path}: {len(rows)} rules, and at most {len_max} are allowed")
    seen: set[str] = set()
    for number, row in enumerate(rows):
        rule = _rule(_Place(path, number, row.get("id")), row)
        if rule.id in seen:
            _Place(path, number, rule.id).fail("id", "stands twice in one file")
        seen.add(rule.id)
        yield rule


def _rule(place: _Place, row: Mapping[str, Any]) -> Rule:
    for name in row:
        if name not in {*_TEXTS, *_LISTS, "tier", "weight", "holds_gpu", "world"}:
            place.fail(f"{name[:40]!a}", "is not a field of a rule")
    for name in _REQUIRED:
        if name not in row:
            place.fail(name, "is missing")
    texts = {name: _text(place, name, row[name]) for name in _TEXTS if name in row}
    lists = {name: _list(place, name, row[name]) for name in _LISTS if name in row}
    if not is_rule_id(texts["id"]):
        place.fail("id", f"is not small letters, digits and hyphens, at most {RULE_ID_CHARACTERS_MAX}")
    if texts["kind"] not in KINDS:
        place.fail("kind", f"is none of {', '.join(KINDS)}")
    tier, weight = row["tier"], row["weight"]
    if type(tier) is not int or tier not in WEIGHT_MAX:
        place.fail("tier", f"is none of {', '.join(map(str, WEIGHT_MAX))}")
    if type(weight) not in {int, float} or not 0 <= weight <= WEIGHT_MAX[tier]:
        place.fail("weight", f"is not a number from 0 to {WEIGHT_MAX[tier]:g}, the most in tier {tier}")
    if not any(name in lists for name in _NAMING):
        place.fail("rule", f"has none of {', '.join(_NAMING)}, so it names no program")
    holds_gpu = row.get("holds_gpu", False)
    if type(holds_gpu) is not bool:
        place.fail("holds_gpu", "is not true or false")
    world = None if "world" not in row else _world(place, row["world"])
    return Rule(tier=tier, weight=float(weight), holds_gpu=holds_gpu, world=world, **texts, **lists)


def _text(place: _Place, name: str, value: object) -> Any:
    if type(value) is not str or not 0 < len(value) <= _TEXT_CHARACTERS_MAX or not value.isprintable():
        place.fail(name, f"is not a printable text of 1 to {_TEXT_CHARACTERS_MAX} characters")
    if name in {"example", "counterexample"}:
        try:
            shlex.split(value)
        except ValueError as exc:
            place.fail(name, f"is not a command line ({exc})")
    return value


def _list(place: _Place, name: str, value: object) -> Any:
    if type(value) is not list or not 0 < len(value) <= _LIST_MAX:
        place.fail(name, f"is not a list of 1 to {_LIST_MAX} texts")
    for text in value:
        _text(place, name, text)
    return tuple(value)


def _world(place: _Place, value: object) -> World:
    if type(value) is not dict or not value or not set(value) <= set(_WORLD):
        place.fail("world", f"is not a table of {', '.join(_WORLD)}")
    return World(**{name: _list(place, f"world.{name}", options) for name, options in value.items()})


def _try_examples(place: _Place, rule: Rule) -> None:
    alone = make_table("0", [rule])
    if not match_one(as_process(rule.example), alone):
        place.fail("example", "does not match the rule")
    if match_one(as_process(rule.counterexample), alone):
        place.fail("counterexample", "matches the rule, and it must not")


def _check_covers(path: Path, table: RuleTable) -> None:
    legal = {*table.rules, *(KIND_PREFIX + kind for kind in KINDS)}
    for rule in table.rules.values():
        for covered in rule.covers:
            if covered not in legal:
                raise ConfigurationError(f"{path}: rule {rule.id!a}: covers {covered!a}, which is no rule or kind:KIND")
