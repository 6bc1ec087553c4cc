# SPDX-License-Identifier: Apache-2.0
"""The languages of a report: the same keys and fields in each, house rules of words, and every form in Chinese."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from string import Formatter

import pytest

from gpuledger.states import State
from gpuledger_collector.report.languages import ENGLISH, TAGS, Language, language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import week_named
from gpuledger_collector.report.to_csv import days_to_csv, idle_list_to_csv, states_to_csv
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.to_markdown import weekly_to_markdown
from gpuledger_collector.report.weekly import build_weekly
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import MONDAY_MS, OPENINGS, hour_row, two_weeks
from tests.unit.test_house import ROOT

CHINESE = language("zh-CN")
FORMS: dict[str, Callable[[Weekly, Language], str]] = {
    "md": weekly_to_markdown,
    "html": weekly_to_html,
    "csv": states_to_csv,
    "idle.csv": idle_list_to_csv,
    "days.csv": days_to_csv,
    "json": weekly_to_json,
}
FORBIDDEN = {
    "en": r"certif|audit|guarant|nvidia.verified",
    "zh-CN": r"认证|审计|担保|保证|英伟达验证|NVIDIA ?验证",
}
REPORT = ROOT / "collector/gpuledger_collector/report"
ISSUE = REPORT.parent / "issue"


def plain(key: str) -> str:
    return re.sub(r"\.(one|other)$", "", key)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def fields_by_key(lang: Language) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for key, text in lang.texts.items():
        found.setdefault(plain(key), set()).update(fields(text))
    return found


@cache
def fleet_report() -> Weekly:
    hours, holders, findings = two_weeks()
    return build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), week_named("2026-W47"))


@pytest.mark.parametrize("tag", TAGS[1:])
def test_every_language_has_the_keys_of_english(tag: str) -> None:
    assert fields_by_key(language(tag)).keys() == fields_by_key(ENGLISH).keys()


@pytest.mark.parametrize("tag", TAGS[1:])
def test_every_text_has_the_fields_of_the_english_one(tag: str) -> None:
    other, english = fields_by_key(language(tag)), fields_by_key(ENGLISH)
    assert {key: found for key, found in other.items() if found != english[key]} == {}


@pytest.mark.parametrize("tag", TAGS)
def test_every_plural_has_the_form_for_many(tag: str) -> None:
    texts = language(tag).texts
    assert [key for key in texts if key.endswith(".one") and key.replace(".one", ".other") not in texts] == []


@pytest.mark.parametrize("tag", TAGS)
def test_no_text_says_what_only_a_person_may_sign(tag: str) -> None:
    texts = language(tag).texts
    assert {key: text for key, text in texts.items() if re.search(FORBIDDEN[tag], text, re.IGNORECASE)} == {}


def test_no_template_says_what_only_a_person_may_sign() -> None:
    for path in (REPORT / "templates").iterdir():
        assert re.search(FORBIDDEN["en"], path.read_text(encoding="utf-8"), re.IGNORECASE) is None


def test_every_text_is_used_somewhere() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in [*REPORT.rglob("*.py"), *ISSUE.rglob("*.py"), *REPORT.rglob("*.j2")]
    )
    literals = set(re.findall(r"\"([a-z_]+\.[a-z_0-9]+)\"", source))
    starts = tuple(re.findall(r"f\"([a-z_]+\.[a-z_]*)\{", source))
    nouns = {f"count.{noun}" for noun in re.findall(r"\"([a-z_]+)\"\)?", source)}
    unused = {plain(key) for key in ENGLISH.texts} - literals - nouns
    assert sorted(key for key in unused if not key.startswith(starts)) == []


def test_csv_headings_are_identifiers_in_english() -> None:
    columns = {key: text for key, text in ENGLISH.texts.items() if key.startswith("csv.")}
    assert {key for key, text in columns.items() if key != f"csv.{text}"} == set()


@pytest.mark.parametrize("form", FORMS)
def test_a_chinese_form_has_no_english_sentence(form: str) -> None:
    text = FORMS[form](fleet_report(), CHINESE)
    assert text != FORMS[form](fleet_report(), ENGLISH)
    without = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    if form in {"md", "html"}:
        own = "south-1 claims GPU-free-1-0, which the roster has at free-1; the claim does not count"
        words = re.sub(r"<[^>]*>", " ", without.replace(own, ""))
        assert re.findall(r"\b[a-z]{3,} [a-z]{2,} [a-z]{3,}", words) == []


def test_the_chinese_headline_says_bounds_coverage_and_free_nodes() -> None:
    text = weekly_to_markdown(fleet_report(), CHINESE)
    expected = (
        "2026-W47 周：40 块 GPU、装机 6,720.0 卡时之中，闲置最少 63.9%、最多 71.2%，监测覆盖率 92.8%；"
        "停止服务 0.9%，以申报代替观测 0.0%。"
    )
    assert expected in text


@pytest.mark.parametrize("form", ["md", "html"])
def test_withheld_words_stand_nowhere_in_chinese_but_where_they_are_said_to_be_withheld(form: str) -> None:
    assert fleet_report().withheld
    text = FORMS[form](fleet_report(), CHINESE)
    assert "不使用“占用率”、“在用率”和“忙碌”的表述" in text
    rest = re.sub(r"不使用[^）。]*的表述", "", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    for word in ("占用率", "出租率", "在用率", "利用率", "忙碌"):
        assert word not in rest


def test_words_are_said_in_chinese_where_enough_was_observed() -> None:
    rows = [hour_row(MONDAY_MS, "n1", "GPU-1", {State.BUSY: 30, State.FREE: 30})]
    text = weekly_to_markdown(build_weekly(FakeLedger(rows), week_named("2026-W47")), CHINESE)
    assert "GPU 占用率与闲置报告" in text
    assert "忙碌最少 0.2%" not in text
    assert "忙碌最少 50.0%、最多 50.0%" in text


def test_one_and_many_are_told_apart_in_english_only() -> None:
    assert [ENGLISH.count(number, "node") for number in (0, 1, 2, 1000)] == [
        "0 nodes",
        "1 node",
        "2 nodes",
        "1,000 nodes",
    ]
    assert [CHINESE.count(number, "node") for number in (1, 1000)] == ["1 个节点", "1,000 个节点"]


def test_times_are_written_as_each_language_does() -> None:
    assert ENGLISH.utc(MONDAY_MS) == "Mon 16 Nov 2026 00:00 UTC"
    assert CHINESE.utc(MONDAY_MS) == "2026年11月16日 周一 00:00 UTC"


def test_a_name_from_outside_is_never_a_format_string() -> None:
    assert ENGLISH("idle.on_node", node="{0.__class__}") == "on {0.__class__}"
