# SPDX-License-Identifier: Apache-2.0
"""A site's rules about what is declared, and every error in them with its place."""

from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger_collector.classify.declared import OWN_RULES, Facts, declared
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.declared_rules import load_declared_rules

GOOD = """
[[rule]]
id = "prod"
fact = "user"
pattern = "svc-.*"
kind = "inference"
weight = 3.5
"""


def test_a_rule_of_the_site_declares_a_kind_beside_ours(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(GOOD)
    rules = load_declared_rules(path)
    assert len(rules) == len(OWN_RULES) + 1
    (item,) = declared(Facts(user="svc-chat"), None, rules)
    assert (item.kind, item.weight, item.id) == (Kind.INFERENCE, 3.5, "prod")
    assert list(declared(Facts(user="nobody svc-chat"), None, rules)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"user"', '"shoe size"', "rules.toml:4: fact: 'shoe size' is none of"),
        ('"inference"', '"unclassified"', "rules.toml:6: kind: 'unclassified' is none of"),
        ("3.5", "9", "rules.toml:7: weight: 9 is not a number above 0, at most 4"),
        ("svc-.*", "(a+)+", "rules.toml:5: pattern: is longer than 200 or repeats a repetition"),
        ("svc-.*", "(", "rules.toml:5: pattern: '(' is not a regular expression"),
        ("weight", "wait", "rules.toml:7: wait: unknown key"),
        ('id = "prod"\n', "", "id: is missing"),
        ("[[rule]]", "[[rules]]", "rules: unknown key; legal keys: rule"),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigurationError) as failed:
        load_declared_rules(path)
    assert expected in str(failed.value)
