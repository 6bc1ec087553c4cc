# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown that also reads as plain text: padded tables, one sentence a line, ten rows a list."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from gpuledger_collector.report import words
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.layout import Cell, Table
from gpuledger_collector.report.method_words import method_lines
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.tables import headline_table, sections

_SPECIAL = re.compile(r"([\\`*\[\]<>|~#&])")
_EDGE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_EDGE_AT = re.compile(r"(?<!\w)@")


def weekly_to_markdown(report: Weekly, lang: Language = ENGLISH) -> str:
    """Return the report as Markdown text with a final line feed."""
    return "\n".join(_lines(report, lang)) + "\n"


def _lines(report: Weekly, lang: Language) -> Iterator[str]:
    mark = words.mark(report, lang)
    yield f"# {escape(words.title(report, lang))}"
    yield ""
    yield f"**{escape(words.headline(report, lang))}**"
    yield ""
    yield lang("period.label", span=words.period_text(report.period, lang))
    for notice in map(escape, words.notices(report, lang)):
        yield ""
        yield f"> {notice}"
    if report.headline is not None:
        yield ""
        yield from _table(headline_table(report, lang))
    for section in sections(report, lang):
        if not (section.lines or section.tables or section.notes):
            continue  # a section of drawings
        yield ""
        yield f"## {mark}{section.heading}"
        for line in section.lines:
            yield ""
            yield line
        for table in section.tables:
            yield ""
            if len(section.tables) > 1:
                yield f"### {mark}{table.caption}"
                yield ""
            yield from _table(table)
        if section.notes:
            yield ""
        for note in section.notes:
            yield f"- {escape(note)}"
    yield ""
    yield f"## {mark}{lang('method.heading')}"
    yield ""
    for term, text in method_lines(report, lang):
        yield "- " + lang("method.line", term=escape(term), text=escape(text))


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        yield table.empty
        return
    rows = [table.rows, ()] if table.total is None else [table.rows, (table.total,)]
    lines = [[escape(column.name) for column in table.columns]]
    lines += [[_cell(cell) for cell in row] for part in rows for row in part]
    widths = [max(3, *(_width(line[index]) for line in lines)) for index in range(len(table.columns))]
    is_number = [column.is_number for column in table.columns]
    yield _row(lines[0], widths, is_number)
    rules = ["-" * (width - 1) + (":" if number else "-") for width, number in zip(widths, is_number, strict=True)]
    yield _row(rules, widths, is_number)
    for line in lines[1:]:
        yield _row(line, widths, is_number)
    if table.note:
        yield ""
        yield table.note


def _row(cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    padded = []
    for cell, width, number in zip(cells, widths, is_number, strict=True):
        space = " " * (width - _width(cell))
        padded.append(space + cell if number else cell + space)
    return "| " + " | ".join(padded) + " |"


def _cell(cell: Cell) -> str:
    return escape(cell.text) + (f" ({escape(cell.small)})" if cell.small else "")


def escape(text: str) -> str:
    """Return text that Markdown shows as it is; underscores within words stay bare, for they mean nothing there."""
    text = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return _EDGE_AT.sub(r"\\@", _EDGE_UNDERSCORE.sub(r"\\_", text))


def _width(text: str) -> int:
    """Return how many columns the text takes in a terminal: none for combining marks, two for wide characters."""
    marks = [mark for mark in text if not unicodedata.combining(mark)]
    return len(marks) + sum(1 for mark in marks if unicodedata.east_asian_width(mark) in "WF")
