# SPDX-License-Identifier: Apache-2.0
"""Relabelling as Prometheus documents it: each action, anchoring, references, defaults, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.errors import ConfigurationError
from gpuledger_collector.relabel import Rule, is_label_name, read_rules, relabel

LABELS = {"__address__": "node-017:9400", "__meta_dc": "FRA1", "__meta_row_7": "a", "__meta_row_8": "b", "pool": "h100"}


def apply(*rules: dict[str, Any], **more: str) -> dict[str, str] | None:
    return relabel({**LABELS, **more}, read_rules(list(rules), "rules"))


def changed(*rules: dict[str, Any], **more: str) -> dict[str, str | None]:
    """Return what the rules change: new values, and None for what is gone."""
    before, after = {**LABELS, **more}, apply(*rules, **more)
    assert after is not None
    names = before.keys() | after.keys()
    return {name: after.get(name) for name in names if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        # The defaults: the whole value of the source, copied.
        ({"source_labels": ["__meta_dc"], "target_label": "site"}, {"site": "FRA1"}),
        # The expression is anchored at both ends.
        ({"source_labels": ["__meta_dc"], "regex": "FRA", "target_label": "site"}, {}),
        (
            {"source_labels": ["__address__"], "regex": r"node-(\d+):.*", "target_label": "rack", "replacement": "r$1"},
            {"rack": "r017"},
        ),
        (
            {
                "source_labels": ["__meta_dc", "pool"],
                "separator": "/",
                "regex": "(?P<dc>[^/]+)/(.*)",
                "target_label": "cluster",
                "replacement": "${2}-${dc}$$",
            },
            {"cluster": "h100-FRA1$"},
        ),
        # `$1x` is the group "1x", which is not there.
        ({"source_labels": ["__meta_dc"], "target_label": "site", "replacement": "<$1x>"}, {"site": "<>"}),
        ({"source_labels": ["__meta_dc"], "target_label": "site", "replacement": "$7"}, {}),
        # A rule without sources sees an empty text and sets a constant.
        ({"target_label": "cluster", "replacement": "train"}, {"cluster": "train"}),
        ({"target_label": "pool", "replacement": ""}, {"pool": None}),
        ({"source_labels": ["nothing"], "target_label": "pool"}, {"pool": None}),
        # The name may come from the source, if it then is one.
        (
            {"source_labels": ["pool"], "regex": "(h)(.*)", "target_label": "x_$1", "replacement": "$2"},
            {"x_h": "100"},
        ),
        ({"source_labels": ["__address__"], "target_label": "$1", "replacement": "v"}, {}),
        ({"action": "labelmap", "regex": "__meta_row_(.*)", "replacement": "row$1"}, {"row7": "a", "row8": "b"}),
        ({"action": "labelmap", "regex": "__meta_(dc)"}, {"dc": "FRA1"}),
        ({"action": "labelmap", "regex": "__meta_row_(.*)", "replacement": "$1"}, {}),
        ({"action": "labeldrop", "regex": "__meta_row.*"}, {"__meta_row_7": None, "__meta_row_8": None}),
        (
            {"action": "labelkeep", "regex": "__address__|pool"},
            {"__meta_dc": None, "__meta_row_7": None, "__meta_row_8": None},
        ),
        ({"action": "lowercase", "source_labels": ["__meta_dc"], "target_label": "site"}, {"site": "fra1"}),
        ({"action": "UpperCase", "source_labels": ["pool"], "target_label": "pool"}, {"pool": "H100"}),
        # As Prometheus computes it: the last eight bytes of the MD5 of "node-017:9400", modulo 4.
        (
            {"action": "hashmod", "source_labels": ["__address__"], "target_label": "shard", "modulus": 4},
            {"shard": "0"},
        ),
    ],
)
def test_each_action_changes_what_it_says_and_nothing_else(rule: dict[str, Any], change: dict[str, str | None]) -> None:
    assert changed(rule) == change


@pytest.mark.parametrize(
    ("action", "regex", "is_there"),
    [
        ("keep", "h1.*", True),
        ("keep", "h1", False),
        ("drop", "h1.*", False),
        ("drop", "h1", True),
        ("keep", ".+", True),
    ],
)
def test_targets_are_kept_and_dropped_by_the_whole_value(action: str, regex: str, *, is_there: bool) -> None:
    assert (apply({"action": action, "source_labels": ["pool"], "regex": regex}) is not None) == is_there


def test_rules_follow_each_other_and_none_comes_after_a_drop() -> None:
    first = {"source_labels": ["__meta_dc"], "regex": "(...).*", "target_label": "site"}
    second = {"action": "lowercase", "source_labels": ["site"], "target_label": "site"}
    assert changed(first, second) == {"site": "fra"}
    assert apply({"action": "drop", "source_labels": ["pool"]}, first) is None


def test_a_line_break_is_a_character_like_any_other() -> None:
    assert changed({"source_labels": ["x"], "regex": "a(.*)c", "target_label": "y"}, x="a\nc") == {"y": "\n"}


def test_a_value_that_would_be_too_long_is_cut() -> None:
    rule = {"source_labels": ["x"], "target_label": "y", "replacement": "$1$1"}
    assert len(changed(rule, x="v" * 1000)["y"] or "") == 1024


@given(
    st.dictionaries(st.from_regex(r"\A[a-z_]{1,4}\Z"), st.text(max_size=6), max_size=4),
    st.sampled_from(
        ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep", "lowercase", "uppercase", "hashmod"]
    ),
    st.sampled_from(["(.*)", "a(b)?", "", "[a-z]+", "(x)|(y)"]),
    st.text(alphabet="$1{}ax", max_size=6),
)
def test_whatever_the_labels_are_rules_give_labels_or_nothing(
    labels: dict[str, str], action: str, regex: str, replacement: str
) -> None:
    (rule,) = read_rules(
        [
            {
                "action": action,
                "regex": regex,
                "replacement": replacement,
                "source_labels": ["a"],
                "target_label": "t",
                "modulus": 3,
            }
        ],
        "rules",
    )
    found = relabel(labels, [rule])
    assert found is None or all(is_label_name(name) for name in found)
    if found is not None and action not in {"replace", "labelmap"}:
        assert found.keys() <= labels.keys() | {"t"}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "rules: not a list of tables"),
        ([3], "rules: not a list of tables"),
        ([{}] * 101, "rules: more than 100 rules"),
        ([{"regexp": "x"}], "rules 1: unknown key 'regexp'; legal keys: source_labels, separator, regex"),
        ([{"target_label": 7}], "rules 1: target_label: not a text of at most 1024 characters"),
        ([{"regex": "x" * 1025}], "rules 1: regex: not a text of at most 1024 characters"),
        ([{"source_labels": "x"}], "rules 1: source_labels: 'x' is not a list of names of labels"),
        ([{"source_labels": ["a b"]}], "rules 1: source_labels: ['a b'] is not a list of names"),
        ([{"target_label": "a"}, {"action": "kep"}], "rules 2: action: 'kep' is not one of replace, keep, drop"),
        ([{"target_label": "a", "regex": "("}], "rules 1: regex: '(' is not a regular expression"),
        ([{}], "rules 1: target_label is missing; replace needs it"),
        ([{"action": "hashmod", "target_label": "a"}], "rules 1: modulus is missing; hashmod needs it"),
        ([{"action": "lowercase", "target_label": "$1"}], "rules 1: target_label: '$1' is not a name of a label"),
        ([{"action": "hashmod", "target_label": "a", "modulus": True}], "rules 1: modulus: True is not an integer"),
    ],
)
def test_a_rule_that_is_none_is_said_in_one_sentence(rules: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_rules(rules, "rules")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_rules_nothing_changes() -> None:
    assert relabel(LABELS, ()) == LABELS
    assert Rule() == Rule(action="replace", separator=";", replacement="$1")
