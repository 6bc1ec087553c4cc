# SPDX-License-Identifier: Apache-2.0
"""What a workload's processes tell of its kind: the part of a reading that leaves the node instead of command lines.

Command lines are read on the node, held against a table of rules (gpuledger.process_rules), and forgotten. What is
left are ids of rules and three facts, so nothing a user wrote can be in it.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from gpuledger.wire import Fields, fail, present, quote

RULES_MAX = 8
"""Ids in the hints of one workload."""
RULE_ID_CHARACTERS_MAX = 40
RULE_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
"""What an id of a rule looks like: words of small letters and digits, with hyphens."""
TABLE = re.compile(r"[0-9]+(?:\+[0-9a-f]{12})?")
"""What the version of a table looks like: a number, and 12 digits of the site's own rules where there are any."""
WORLD_SIZE_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the processes of a workload on one node told; None is unknown.

    `rules` are the ids of the rules that matched, sorted, at most RULES_MAX. `listens` says whether a process that
    holds a GPU, or one that it descends from within the workload, or a child of that, waits for TCP connections.
    `world_size` is what a launcher's command line tells, or how many processes of its workload hold a GPU here.
    `checkpoints` is always None in this version: files that grow cannot be seen cheaply enough. `table` is the version
    of the rules. Without a rule they say that somebody looked, and that nothing was known.
    """

    rules: tuple[str, ...] = ()
    listens: bool | None = None
    world_size: int | None = None
    checkpoints: int | None = None
    table: str


def encode(hints: Hints) -> dict[str, object]:
    """Return the JSON object of a workload's hints; what is unknown is left out."""
    return present(
        {
            "rules": list(hints.rules) or None,
            "listens": hints.listens,
            "world_size": hints.world_size,
            "checkpoints": hints.checkpoints,
            "table": hints.table,
        }
    )


def decode(value: object, where: str) -> Hints:
    """Return a workload's hints from their JSON object; raises ReadingError naming `where` and the field at fault."""
    fields = Fields(value, where)
    rules = fields.items("rules", RULES_MAX)
    listens = fields.take("listens", None)
    hints = Hints(
        rules=tuple(rules),
        listens=listens,
        world_size=fields.integer("world_size", None),
        checkpoints=fields.integer("checkpoints", None),
        table=fields.name("table"),
    )
    fields.end()
    if listens is not None and type(listens) is not bool:
        fail(where, "listens is not true or false")
    for rule in rules:
        if not is_rule_id(rule):
            fail(where, f"{quote(rule)} is not the id of a rule")
    if any(first >= second for first, second in itertools.pairwise(rules)):
        fail(where, "rules are not in order, each once")
    if hints.world_size is not None and not 1 <= hints.world_size <= WORLD_SIZE_MAX:
        fail(where, f"world_size is not from 1 to {WORLD_SIZE_MAX}")
    if TABLE.fullmatch(hints.table) is None:
        fail(where, f"table {quote(hints.table)} is not the version of a table of rules")
    return hints


def is_rule_id(value: object) -> bool:
    """Return whether the value may be the id of a rule."""
    return type(value) is str and len(value) <= RULE_ID_CHARACTERS_MAX and RULE_ID.fullmatch(value) is not None


def merge(first: Hints | None, second: Hints | None) -> Hints | None:
    """Return what both say together: every rule (the first RULES_MAX in order), the most of the rest.

    It does not matter which comes first, nor how often one is merged. Of two versions of the table it is the greater
    text.
    """
    if first is None or second is None or first == second:
        return second if first is None else first
    return Hints(
        rules=tuple(sorted({*first.rules, *second.rules})[:RULES_MAX]),
        listens=second.listens if first.listens is None else first.listens or bool(second.listens),
        world_size=_most(first.world_size, second.world_size),
        checkpoints=_most(first.checkpoints, second.checkpoints),
        table=max(first.table, second.table),
    )


def _most(first: int | None, second: int | None) -> int | None:
    if first is None or second is None:
        return second if first is None else first
    return max(first, second)
