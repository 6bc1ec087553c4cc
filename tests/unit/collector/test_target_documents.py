# SPDX-License-Identifier: Apache-2.0
"""Lists of targets in JSON and in YAML, and what is no list."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.errors import ConfigurationError
from gpuledger_collector import target_documents
from gpuledger_collector.target_documents import Listed, parse_json, parse_yaml

NAMES = st.from_regex(r"\A[a-z_][a-z0-9_]{0,5}\Z")
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
GROUPS = st.lists(
    st.fixed_dictionaries(
        {"targets": st.lists(TEXTS, max_size=3), "labels": st.dictionaries(NAMES, TEXTS, max_size=3)}
    ),
    max_size=3,
)


def test_every_target_of_an_entry_has_its_labels() -> None:
    found = parse_json(b'[{"targets": ["a:1", "b:2"], "labels": {"rack": "r1"}}, {"targets": ["c:3"]}]', "list")
    assert found == [
        Listed(address="a:1", labels={"rack": "r1"}),
        Listed(address="b:2", labels={"rack": "r1"}),
        Listed(address="c:3", labels={}),
    ]


def test_in_yaml_every_scalar_is_the_text_that_stands_there() -> None:
    text = b"""
# a comment
- targets: [a:1, 'b:2']
  labels:
    rack: 07
    on: yes
    since: 2026-11-24
- targets:
    - c:3
  labels:
"""
    labels = {"rack": "07", "on": "yes", "since": "2026-11-24"}
    assert parse_yaml(text, "list") == [
        Listed(address="a:1", labels=labels),
        Listed(address="b:2", labels=labels),
        Listed(address="c:3", labels={}),
    ]


@given(GROUPS)
def test_json_and_yaml_of_one_list_are_one_list(groups: list[object]) -> None:
    assert parse_json(json.dumps(groups).encode(), "list") == parse_yaml(yaml.safe_dump(groups).encode(), "list")


@pytest.mark.parametrize("text", [b"", b"[]", b"# nothing\n", b"---\n"])
def test_a_list_may_be_empty(text: bytes) -> None:
    assert parse_yaml(text, "list") == []


BAD = [
    (b'{"targets": []}', "list: not a list of groups of targets"),
    (b"[3]", "list: entry 1: not an object with targets and labels"),
    (b'[{"targets": [], "extra": 1}]', "list: entry 1: not an object with targets and labels"),
    (b'[{"targets": []}, {"labels": {}}]', "list: entry 2: targets is not a list of texts"),
    (b'[{"targets": [["a"]]}]', "list: entry 1: targets is not a list of texts"),
    (b'[{"targets": "a:1"}]', "list: entry 1: targets is not a list of texts"),
    (b'[{"targets": [], "labels": ["a"]}]', "list: entry 1: labels is not an object of at most 64 texts by name"),
    (b'[{"targets": [], "labels": {"a-b": "c"}}]', "list: entry 1: labels is not an object of at most 64 texts"),
    (b'[{"targets": [], "labels": {"a": {}}}]', "list: entry 1: labels is not an object of at most 64 texts"),
    (b'[{"targets": [], "labels": {"a": "' + b"x" * 1025 + b'"}}]', "list: entry 1: labels is not an object"),
]


@pytest.mark.parametrize(("data", "said"), BAD)
def test_what_is_no_list_is_said_in_one_sentence(data: bytes, said: str) -> None:
    for parse in (parse_json, parse_yaml):
        with pytest.raises(ConfigurationError) as caught:
            parse(data, "list")
        assert said in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[", b"\x00", b"\xff\xfe", b"[" * 100_000, b'[{"targets": [1}]'])
def test_what_is_no_json_is_said_in_one_line(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="list: not JSON: ") as caught:
        parse_json(data, "list")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"[", b"a: b: c", b"\x00", b"!!python/object/apply:os.system ['true']", b"- *nobody", b"%BAD\n---\n[]"]
)
def test_what_is_no_yaml_is_said_in_one_line_and_makes_no_objects(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"list: (not YAML|not a list|entry 1: not an object)") as caught:
        parse_yaml(data, "list")
    assert "\n" not in str(caught.value)


def test_aliases_do_not_multiply_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_documents, "TARGETS_MAX", 10)
    text = b"- &a\n  targets: [a:1, a:2, a:3, a:4]\n" + b"- *a\n" * 5
    with pytest.raises(ConfigurationError, match="list: entry 3: more than 10 targets"):
        parse_yaml(text, "list")


def test_more_bytes_than_allowed_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_documents, "DOCUMENT_BYTES_MAX", 5)
    for parse in (parse_json, parse_yaml):
        with pytest.raises(ConfigurationError, match="list: larger than 5 bytes"):
            parse(b"[    ]", "list")


def test_one_entry_has_a_bound_on_labels() -> None:
    labels = {f"l{number}": "x" for number in range(65)}
    with pytest.raises(ConfigurationError, match="entry 1: labels is not an object of at most 64"):
        parse_json(json.dumps([{"targets": [], "labels": labels}]).encode(), "list")
