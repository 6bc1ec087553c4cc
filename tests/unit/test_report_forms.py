# SPDX-License-Identifier: Apache-2.0
"""The forms of the weekly report: golden files, words withheld, simulated data, hostile names."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from gpuledger.cells import HOUR_MS
from gpuledger.states import State
from gpuledger_collector.ledger import Finding
from gpuledger_collector.report.json_schema import schema
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import week_named
from gpuledger_collector.report.to_csv import BYTE_ORDER_MARK, days_to_csv, idle_list_to_csv, states_to_csv
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.to_markdown import escape, weekly_to_markdown
from gpuledger_collector.report.weekly import build_weekly
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import MONDAY_MS, OPENINGS, holder_row, hour_row, two_weeks

W47 = week_named("2026-W47")
FORMS: dict[str, Callable[[Weekly], str]] = {
    "weekly.md": weekly_to_markdown,
    "weekly.html": weekly_to_html,
    "weekly.csv": states_to_csv,
    "weekly-idle.csv": idle_list_to_csv,
    "weekly-days.csv": days_to_csv,
    "weekly.json": weekly_to_json,
}


class Page(HTMLParser):
    """What a reader sees of a page, by element; scripts, handlers and addresses are collected as dangers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.dangers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "img", "iframe", "object", "link", "a"}:
            self.dangers.append(tag)
        self.dangers += [name for name, _ in attrs if name.startswith("on") or name in {"src", "href"}]
        if tag not in {"meta", "rect", "line", "circle"}:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip() and self.stack:
            self.texts.setdefault(self.stack[-1], []).append(data.strip())

    def seen(self) -> str:
        return "\n".join(text for tag, texts in self.texts.items() if tag != "style" for text in texts)


@cache
def fleet_report(*, simulated: bool = False) -> Weekly:
    hours, holders, findings = two_weeks(simulated=simulated)
    return build_weekly(FakeLedger(hours, holders, findings, openings=OPENINGS), W47)


@cache
def observed_report() -> Weekly:
    """A fleet of which enough was observed: 4 of 5 nodes, without the south."""
    hours, holders, findings = two_weeks()
    kept = [row for row in hours if row.site == "north"]
    return build_weekly(FakeLedger(kept, holders, findings, openings=OPENINGS), W47)


@pytest.mark.golden
@pytest.mark.parametrize("name", FORMS)
def test_the_simulated_fleet_is_reported_as_in_the_golden_files(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"simulated-{name}", FORMS[name](fleet_report(simulated=True)).replace("\r\n", "\n"))


@pytest.mark.golden
def test_the_observed_fleet_is_reported_as_in_the_golden_file(golden: Callable[[str, str], None]) -> None:
    golden("observed-weekly.md", weekly_to_markdown(observed_report()))


# ------------------------------------------------------------------------------------------------ words withheld


def without_notices(text: str) -> str:
    """Cut what says that a word is withheld, which has to name it."""
    return re.sub(r"the words? “[^.)]*withheld", "", text)


@pytest.mark.parametrize("form", ["weekly.md", "weekly.html"])
def test_withheld_words_stand_nowhere_but_where_they_are_said_to_be_withheld(form: str) -> None:
    text = FORMS[form](fleet_report())
    seen = Page(text).seen() if form.endswith("html") else text
    for word in ("occupancy", "used", "busy"):
        assert f"“{word}”" in seen
        assert re.search(rf"\b{word}\b", without_notices(seen), re.IGNORECASE) is None
    title = seen.splitlines()[0]
    assert "withheld" in title


@pytest.mark.parametrize("form", ["weekly.md", "weekly.html"])
def test_words_are_said_where_enough_was_observed(form: str) -> None:
    text = FORMS[form](observed_report())
    assert "GPU occupancy and idle time, week 2026-W47" in text
    assert "was busy" in text
    assert "withheld" not in (Page(text).seen() if form.endswith("html") else text)


def test_the_title_of_the_page_says_what_is_withheld() -> None:
    page = Page(weekly_to_html(fleet_report()))
    assert "withheld" in page.texts["title"][0]
    assert "withheld" in page.texts["h1"][0]


# ------------------------------------------------------------------------------------------------ simulated data


def test_every_heading_caption_and_figure_of_a_simulated_page_says_so() -> None:
    page = Page(weekly_to_html(fleet_report(simulated=True)))
    for tag in ("h1", "h2", "caption", "figcaption"):
        assert page.texts[tag]
        assert [text for text in page.texts[tag] if not text.startswith("SIMULATED")] == []
    assert page.texts["title"][0].startswith("SIMULATED")
    assert page.texts["text"].count("SIMULATED") == 4
    assert sum("SIMULATED: Week" in text for text in page.texts["p"]) == 1


def test_every_heading_and_the_headline_of_simulated_markdown_says_so() -> None:
    lines = weekly_to_markdown(fleet_report(simulated=True)).splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert len(headings) > 8
    assert [line for line in headings if not re.match(r"#+ SIMULATED: ", line)] == []
    assert lines[2].startswith("**SIMULATED: Week")


def test_every_row_of_simulated_csv_and_the_json_say_so() -> None:
    report = fleet_report(simulated=True)
    for text in (states_to_csv(report), idle_list_to_csv(report), days_to_csv(report)):
        rows = list(csv.DictReader(io.StringIO(text.removeprefix(BYTE_ORDER_MARK))))
        assert rows
        assert {row["simulated"] for row in rows} == {"SIMULATED"}
    document = json.loads(weekly_to_json(report))
    assert document["simulated"] is True
    assert document["title"].startswith("SIMULATED")
    assert document["sentence"].startswith("SIMULATED")


def test_one_simulated_reading_in_the_week_before_marks_the_report() -> None:
    hours, _, _ = two_weeks()
    simulated = hour_row(MONDAY_MS - HOUR_MS, "sim-1", "GPU-sim", {State.FREE: 60}, simulated=True)
    assert build_weekly(FakeLedger([*hours, simulated]), W47).simulated


@pytest.mark.parametrize("name", FORMS)
def test_a_real_fleet_is_not_called_simulated(name: str) -> None:
    assert "SIMULATED" not in FORMS[name](fleet_report())


# ------------------------------------------------------------------------------------------------- hostile names

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><script>alert(1)</script>",
    '=HYPERLINK("http://x","y")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "  =1+1",
    "＝1+1",
    "a|b `c` *d* [e](http://x) ![f](http://x) _g_ <b>h</b>",
    "# heading\n## more\n- list",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe",
    "\ud800lone",
    "x" * 10_000,
    "",
    "\x00\x1b[31mred",
]


def hostile_report(name: str) -> Weekly:
    hours = [
        hour_row(MONDAY_MS, name, name, {State.HELD: 20, State.FREE: 20, State.DARK: 10, State.DOWN: 10}, site=name,
                 model=name, source=name)
    ]  # fmt: skip
    holders = [holder_row(hours[0], "w" * 64, "u" * 64)]
    findings = [Finding(at_ms=MONDAY_MS, kind=name, subject=name, text=name)]
    return build_weekly(FakeLedger(hours, holders, findings, openings={"w" * 64: name, "u" * 64: name}), W47)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_adds_nothing_to_the_page_but_text(name: str) -> None:
    text = weekly_to_html(hostile_report(name))
    text.encode("utf-8")
    page, plain = Page(text), Page(weekly_to_html(hostile_report("plain")))
    assert page.dangers == []
    assert {tag: len(found) for tag, found in page.texts.items()}.keys() == plain.texts.keys()
    assert "\u202e" not in text
    assert len(text) < 90_000


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_adds_nothing_to_the_markdown_but_text(name: str) -> None:
    text = weekly_to_markdown(hostile_report(name))
    text.encode("utf-8")
    kinds = [token.type for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text)]
    plain = MarkdownIt("gfm-like", {"linkify": False}).parse(weekly_to_markdown(hostile_report("plain")))
    assert kinds == [token.type for token in plain]
    inline = [
        child.type
        for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text)
        for child in (token.children or [])
    ]
    assert set(inline) <= {"text", "strong_open", "strong_close", "softbreak"}
    assert len(text) < 30_000


@pytest.mark.parametrize("name", HOSTILE)
def test_no_cell_of_the_csv_is_a_formula_and_rows_stay_rows(name: str) -> None:
    report = hostile_report(name)
    for text in (states_to_csv(report), idle_list_to_csv(report), days_to_csv(report)):
        text.encode("utf-8")
        assert text.startswith(BYTE_ORDER_MARK)
        rows = list(csv.reader(io.StringIO(text.removeprefix(BYTE_ORDER_MARK), newline=""), strict=True))
        assert {len(row) for row in rows} == {len(rows[0])}
        for value in (value for row in rows[1:] for value in row):
            assert not value.lstrip().startswith(("=", "+", "-", "@", "＝"))
        assert text.replace("\r\n", "").count("\n") == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_the_json_keeps_a_hostile_name_whole_and_is_ascii(name: str) -> None:
    text = weekly_to_json(hostile_report(name))
    text.encode("ascii")
    assert json.loads(text)["sites"][0]["site"] == name


def test_the_json_is_as_its_schema_says() -> None:
    schemas = pytest.importorskip("jsonschema_rs")
    validator = schemas.validator_for(schema())
    for report in (fleet_report(simulated=True), observed_report(), build_weekly(FakeLedger([]), W47)):
        document = json.loads(weekly_to_json(report))
        assert [error.message for error in validator.iter_errors(document)] == []
        del document["period"]["name"]
        assert not validator.is_valid(document)


def test_numbers_stay_numbers_in_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(states_to_csv(fleet_report()).removeprefix(BYTE_ORDER_MARK))))
    assert len(rows) == 2 * 10
    busy = next(row for row in rows if (row["site"], row["state"]) == ("north", "busy"))
    assert (busy["gpus"], busy["gpu_hours"], busy["percent"]) == ("32", "1881.6", "35.0")
    assert busy["withheld"] == ""
    assert next(row for row in rows if row["site"] == "south")["withheld"] == "occupancy used busy"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("gpu_node_1", "gpu_node_1"), ("_x_", "\\_x\\_"), ("a@b.c", "a@b.c"), ("@all", "\\@all"), ("a\nb", "a b")],
)
def test_markdown_escapes_no_more_than_it_must(text: str, escaped: str) -> None:
    assert escape(text) == escaped
