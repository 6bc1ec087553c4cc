# SPDX-License-Identifier: Apache-2.0
"""Relabelling of discovered targets, as Prometheus does it: a list of rules that change, keep or drop a set of labels.

Pure. Regular expressions are Python's and match the whole text, as Prometheus' do; in replacements `$1`, `${1}` and
`${name}` stand for groups and `$$` for a dollar.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuledger.errors import ConfigurationError

RULES_MAX = 100
TEXT_CHARACTERS_MAX = 1024
_KEYS = ("source_labels", "separator", "regex", "target_label", "replacement", "action", "modulus")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)

Labels = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; the fields are those of Prometheus' relabel_config, with its defaults."""

    action: str = "replace"
    source_labels: tuple[str, ...] = ()
    separator: str = ";"
    regex: re.Pattern[str] = re.compile(r"(.*)", re.DOTALL)
    target_label: str = ""
    replacement: str = "$1"
    modulus: int = 0

    def value(self, labels: Mapping[str, str]) -> str:
        return self.separator.join(labels.get(name, "") for name in self.source_labels)


def relabel(labels: Mapping[str, str], rules: Sequence[Rule]) -> Labels | None:
    """Return the labels after all rules; None where one of them drops the target."""
    found = dict(labels)
    for rule in rules:
        after = _ACTIONS[rule.action](rule, found)
        if after is None:
            return None
        found = after
    return found


def _replace(rule: Rule, labels: Labels) -> Labels:
    match = rule.regex.fullmatch(rule.value(labels))
    if match is None:
        return labels
    name = _expand(rule.target_label, match)
    return _with(labels, name, _expand(rule.replacement, match)) if is_label_name(name) else labels


def _with(labels: Labels, name: str, value: str) -> Labels:
    """Return the labels with one more; without a value it is none."""
    without = {key: text for key, text in labels.items() if key != name}
    return {**without, name: value[:TEXT_CHARACTERS_MAX]} if value else without


def _keep(rule: Rule, labels: Labels) -> Labels | None:
    return labels if rule.regex.fullmatch(rule.value(labels)) is not None else None


def _drop(rule: Rule, labels: Labels) -> Labels | None:
    return None if rule.regex.fullmatch(rule.value(labels)) is not None else labels


def _label_map(rule: Rule, labels: Labels) -> Labels:
    found = labels
    for name, value in labels.items():
        match = rule.regex.fullmatch(name)
        if match is not None and is_label_name(new := _expand(rule.replacement, match)):
            found = _with(found, new, value)
    return found


def _label_drop(rule: Rule, labels: Labels) -> Labels:
    return {name: value for name, value in labels.items() if rule.regex.fullmatch(name) is None}


def _label_keep(rule: Rule, labels: Labels) -> Labels:
    return {name: value for name, value in labels.items() if rule.regex.fullmatch(name) is not None}


def _lower(rule: Rule, labels: Labels) -> Labels:
    return _with(labels, rule.target_label, rule.value(labels).lower())


def _upper(rule: Rule, labels: Labels) -> Labels:
    return _with(labels, rule.target_label, rule.value(labels).upper())


def _hash_mod(rule: Rule, labels: Labels) -> Labels:
    """Spread targets over so many collectors: the lower eight bytes of MD5, as Prometheus takes them."""
    data = hashlib.md5(rule.value(labels).encode("utf-8", "replace"), usedforsecurity=False).digest()
    return _with(labels, rule.target_label, str(int.from_bytes(data[8:], "big") % rule.modulus))


_ACTIONS: Mapping[str, Callable[[Rule, Labels], Labels | None]] = {
    "replace": _replace,
    "keep": _keep,
    "drop": _drop,
    "labelmap": _label_map,
    "labeldrop": _label_drop,
    "labelkeep": _label_keep,
    "lowercase": _lower,
    "uppercase": _upper,
    "hashmod": _hash_mod,
}


def _expand(template: str, match: re.Match[str]) -> str:
    """Return the template with its references filled in; a group that is not there is empty."""

    def fill(reference: re.Match[str]) -> str:
        if reference[1] is not None:
            return "$"
        name = reference[2] if reference[2] is not None else reference[3]
        try:
            found: str | None = match[int(name) if name.isdecimal() else name]
        except (IndexError, OverflowError):
            return ""
        return "" if found is None else found

    return _REFERENCE.sub(fill, template)


def is_label_name(text: str) -> bool:
    """Return whether a label may have this name."""
    return len(text) <= TEXT_CHARACTERS_MAX and _NAME.fullmatch(text) is not None


# ---------------------------------------------------------------------------------------------- reading


def read_rules(value: object, where: str) -> tuple[Rule, ...]:
    """Return the rules of a list of tables; raises ConfigurationError, which begins with `where`."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigurationError(f"{where}: not a list of tables")
    if len(value) > RULES_MAX:
        raise ConfigurationError(f"{where}: more than {RULES_MAX} rules")
    return tuple(_read_rule(item, f"{where} {number}") for number, item in enumerate(value, start=1))


def _read_rule(table: Mapping[str, Any], where: str) -> Rule:
    for key, text in table.items():
        if key not in _KEYS:
            raise ConfigurationError(f"{where}: unknown key {key!r}; legal keys: {', '.join(_KEYS)}")
        if key not in {"source_labels", "modulus"} and not (isinstance(text, str) and len(text) <= TEXT_CHARACTERS_MAX):
            raise ConfigurationError(f"{where}: {key}: not a text of at most {TEXT_CHARACTERS_MAX} characters")
    names, modulus = table.get("source_labels", []), table.get("modulus", 0)
    if not isinstance(names, list) or not all(isinstance(name, str) and is_label_name(name) for name in names):
        raise ConfigurationError(f"{where}: source_labels: {names!r} is not a list of names of labels")
    if not isinstance(modulus, int) or isinstance(modulus, bool) or not 0 <= modulus < 2**63:
        raise ConfigurationError(f"{where}: modulus: {modulus!r} is not an integer from 0 to 2^63 - 1")
    action = table.get("action", "replace").lower()
    if action not in _ACTIONS:
        raise ConfigurationError(f"{where}: action: {action!r} is not one of {', '.join(_ACTIONS)}")
    pattern = table.get("regex", "(.*)")
    try:
        regex = re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as exc:
        raise ConfigurationError(f"{where}: regex: {pattern!r} is not a regular expression: {exc}") from exc
    rule = Rule(
        action=action,
        source_labels=tuple(names),
        separator=table.get("separator", ";"),
        regex=regex,
        target_label=table.get("target_label", ""),
        replacement=table.get("replacement", "$1"),
        modulus=modulus,
    )
    _check(rule, where)
    return rule


def _check(rule: Rule, where: str) -> None:
    if rule.action in {"replace", "lowercase", "uppercase", "hashmod"} and not rule.target_label:
        raise ConfigurationError(f"{where}: target_label is missing; {rule.action} needs it")
    if rule.action in {"lowercase", "uppercase", "hashmod"} and not is_label_name(rule.target_label):
        raise ConfigurationError(f"{where}: target_label: {rule.target_label!r} is not a name of a label")
    if rule.action == "hashmod" and rule.modulus == 0:
        raise ConfigurationError(f"{where}: modulus is missing; hashmod needs it")
