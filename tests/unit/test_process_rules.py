# SPDX-License-Identifier: Apache-2.0
"""The table of rules and a site's own: every example is tried, and what is wrong in a file is told by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger.process_matching import KIND_PREFIX, KINDS, make_table, match, match_one
from gpuledger.process_rules import RULES_VERSION, as_process, load_rules

TABLE = load_rules()
SITE_RULE = """
[[rule]]
id = "site-solver"
kind = "other"
tag = "hpc"
tier = 2
weight = 3
programs = ["solver"]
example = "/srv/bin/solver -n 4"
counterexample = "vim solver.c"
source = "our own"
"""


@pytest.mark.parametrize("rule", TABLE.rules.values(), ids=TABLE.rules.keys())
def test_a_rule_matches_its_example_and_not_its_counterexample(rule: object) -> None:
    own = TABLE.rules[rule.id]  # type: ignore[attr-defined]
    alone = make_table("0", [own])
    assert match_one(as_process(own.example), alone) == {own.id}
    assert match_one(as_process(own.counterexample), alone) == frozenset()


def test_no_example_of_a_rule_matches_a_rule_of_another_kind() -> None:
    for rule in TABLE.rules.values():
        found = [TABLE.rules[found] for found in match([as_process(rule.example)], TABLE)]
        assert {other.kind for other in found if other.weight > 0} <= {rule.kind}, rule.id


def test_every_rule_names_its_source() -> None:
    for rule in TABLE.rules.values():
        assert "https://" in rule.source or rule.tier == 3, rule.id
        assert any(character.isdigit() for character in rule.source) or rule.tier == 3, rule.id


def test_what_is_covered_is_in_the_table() -> None:
    legal = {*TABLE.rules, *(KIND_PREFIX + kind for kind in KINDS)}
    assert {covered for rule in TABLE.rules.values() for covered in rule.covers} <= legal


def test_a_rule_of_the_site_is_added_and_changes_the_version(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(SITE_RULE, encoding="utf-8")
    table = load_rules(file)
    assert match([as_process("/srv/bin/solver -n 4")], table) == ("site-solver",)
    assert set(table.rules) == {*TABLE.rules, "site-solver"}
    assert table.version.startswith(f"{RULES_VERSION}+")
    file.write_text(SITE_RULE.replace("weight = 3", "weight = 2"), encoding="utf-8")
    assert load_rules(file).version != table.version


def test_a_rule_of_the_site_takes_the_place_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(SITE_RULE.replace("site-solver", "torchrun"), encoding="utf-8")
    table = load_rules(file)
    assert match([as_process("python3 /venv/bin/torchrun train.py")], table) == ()
    assert len(table.rules) == len(TABLE.rules)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('kind = "other"', 'kind = "game"', "kind is none of training, inference, synthetic, other"),
        ("weight = 3", "weight = 3.5", "weight is not a number from 0 to 3, the most in tier 2"),
        ("tier = 2", "tier = 3", "weight is not a number from 0 to 1, the most in tier 3"),
        ("tier = 2", "tier = 1", "tier is none of 2, 3"),
        ("tier = 2", "tier = true", "tier is none of 2, 3"),
        ('programs = ["solver"]', "programs = []", "programs is not a list of 1 to 64 texts"),
        ('programs = ["solver"]', 'commands = ["x"]', "rule has none of programs, modules, scripts, titles, words"),
        ('programs = ["solver"]', 'program = ["solver"]', "'program' is not a field of a rule"),
        ('tag = "hpc"', 'tag = ""', "tag is not a printable text of 1 to 512 characters"),
        ('source = "our own"', "", "source is missing"),
        (
            'example = "/srv/bin/solver -n 4"',
            'example = "it\'s"',
            "example is not a command line (No closing quotation)",
        ),
        ('example = "/srv/bin/solver -n 4"', 'example = "python3 solver.py"', "example does not match the rule"),
        ('"vim solver.c"', '"solver -h"', "counterexample matches the rule, and it must not"),
        ('tag = "hpc"', 'world = { each = ["-n"] }', "world is not a table of total, per_node, nodes"),
        ('tag = "hpc"', "holds_gpu = 1", "holds_gpu is not true or false"),
    ],
)
def test_what_is_wrong_in_a_rule_is_told_by_file_rule_line_and_field(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    file = tmp_path / "rules.toml"
    first = SITE_RULE.replace("site-solver", "site-first")
    assert old in SITE_RULE
    file.write_text(first + SITE_RULE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_rules(file)
    assert str(caught.value).startswith(f"{file}: rule 2 ('site-solver') in line 13: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (SITE_RULE + SITE_RULE, "rule 2 ('site-solver') in line 13: id stands twice in one file"),
        (SITE_RULE.replace("site-solver", "Site Solver"), "id is not small letters, digits and hyphens, at most 40"),
        ("rules = 1", "'rules' is not known; a file of rules has only [[rule]]"),
        ("rule = 1", "rule is not a list of tables: each begins with [[rule]]"),
        (SITE_RULE.replace('tag = "hpc"', 'covers = ["vllm"]'), "covers 'vllm', which is no rule or kind:KIND"),
        ("x = [", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_of_rules_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_rules(file)
    assert str(file) in str(caught.value)
    assert sentence in str(caught.value)
