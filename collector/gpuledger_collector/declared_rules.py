# SPDX-License-Identifier: Apache-2.0
"""A site's file of rules about what is declared: which partition, account, user or name means which kind.

[[rule]] with id, fact, pattern (a regular expression for the whole text), kind, and weight (log-odds, at most 4). A
rule with the id of one of ours takes its place. Every error is a ConfigurationError that names file, line and field.
"""

from __future__ import annotations

import re
from pathlib import Path

from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.classify.declared import FACTS, OWN_RULES, DeclaredRule
from gpuledger_collector.classify.identity import LABELS
from gpuledger_collector.classify.kinds import CAPS, Kind, Tier
from gpuledger_collector.declared_files import Record, line_of, tables

RULES_MAX = 256
PATTERN_CHARACTERS_MAX = 200
_KEYS = ("id", "fact", "pattern", "kind", "weight")
_BACKTRACKING = re.compile(r"[*+}]\)?[*+{]")
"""A repetition of a repetition, which can take for ever."""


def load_declared_rules(path: Path) -> tuple[DeclaredRule, ...]:
    """Return our rules with the site's; raises ConfigurationError."""
    document = read_toml(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    unknown = sorted(document.keys() - {"rule"})
    if unknown:
        raise ConfigurationError(f"{path}:{line_of(lines, unknown[0])}: {unknown[0]}: unknown key; legal keys: rule")
    records = tables(path, lines, "rule", document.get("rule", []))
    if len(records) > RULES_MAX:
        raise ConfigurationError(f"{path}: {len(records)} rules, and at most {RULES_MAX} are allowed")
    rules = {rule.id: rule for rule in OWN_RULES}
    seen: set[str] = set()
    for record in records:
        rule = _rule(record)
        if rule.id in seen:
            raise record.fail("id", f"{rule.id} stands twice")
        seen.add(rule.id)
        rules[rule.id] = rule
    return tuple(rules.values())


def _rule(record: Record) -> DeclaredRule:
    for key in record.values:
        if key not in _KEYS:
            raise record.fail(key, f"unknown key; legal keys: {', '.join(_KEYS)}")
    fact, kind = record.required("fact"), record.required("kind")
    if fact not in FACTS:
        raise record.fail("fact", f"{fact!r} is none of {', '.join(FACTS)}")
    if kind not in LABELS:
        raise record.fail("kind", f"{kind!r} is none of {', '.join(LABELS)}")
    most = CAPS[Tier.DECLARED]
    weight = record.values.get("weight", most)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= most:
        raise record.fail("weight", f"{weight!r} is not a number above 0, at most {most:g}")
    return DeclaredRule(
        id=record.required("id"), fact=fact, pattern=_pattern(record), kind=Kind(kind), weight=float(weight)
    )


def _pattern(record: Record) -> re.Pattern[str]:
    text = record.required("pattern")
    if len(text) > PATTERN_CHARACTERS_MAX or _BACKTRACKING.search(text):
        raise record.fail("pattern", f"is longer than {PATTERN_CHARACTERS_MAX} or repeats a repetition")
    try:
        return re.compile(text)
    except re.error as exc:
        raise record.fail("pattern", f"{text!r} is not a regular expression: {exc}") from exc
