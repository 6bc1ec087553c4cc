# SPDX-License-Identifier: Apache-2.0
"""Log lines are logfmt: one line for one event, whatever the values hold."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger import logs
from tests.profiles import examples

PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)')


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def write(event: str, **facts: object) -> str:
    stream = io.StringIO()
    logs.configure("debug", stream)
    logging.getLogger("tests").info(event, extra=facts)
    return stream.getvalue()


def parse(line: str) -> dict[str, str]:
    """Read logfmt back, and insist that nothing but pairs is in the line."""
    found, position = {}, 0
    while position < len(line):
        match = PAIR.match(line, position)
        assert match is not None, line[position:]
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})|\\(.)", _unescape, value[1:-1])
        found[match[1]] = value
        position = match.end()
    return found


def _unescape(match: re.Match[str]) -> str:
    if match[3] is None:
        return chr(int(match[1] or match[2], 16))
    return {"n": "\n", "r": "\r", "t": "\t"}.get(match[3], match[3])


def test_a_line_says_when_how_bad_what_and_the_facts_in_order() -> None:
    line = write("gpu_found", uuid="GPU-0", count=0, model="NVIDIA H100", missing=None)
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} level=info event=gpu_found uuid=GPU-0 count=0 "
        r'model="NVIDIA H100" missing=None\n',
        line,
    )


@examples(5)
@given(st.text(st.characters(codec=None)))
def test_any_value_stays_in_one_line_and_reads_back(value: str) -> None:
    text = write("event", fact=value, last=1)
    assert text.endswith("\n")
    line = text[:-1]
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert line.encode("utf-8")
    found = parse(line)
    assert found["fact"] == value
    assert found["last"] == "1"


@pytest.mark.parametrize("value", ["", '"', "\\", "a=b", "a b", "x\ny", "\x1b[31m", "\u2028", "\x85", "\udcff", '\\"'])
def test_values_that_could_forge_a_line_are_escaped(value: str) -> None:
    line = write("event", fact=f"{value} level=error", last=1)[:-1]
    assert list(parse(line)) == ["time", "level", "event", "fact", "last"]
    assert parse(line)["fact"] == f"{value} level=error"


def test_only_lines_from_the_level_on_are_written() -> None:
    stream = io.StringIO()
    logs.configure("warning", stream)
    logging.getLogger("tests").info("quiet")
    logging.getLogger("tests").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "event=loud" in stream.getvalue()


def test_configuring_twice_writes_each_line_once() -> None:
    logs.configure("info", io.StringIO())
    assert write("once").count("event=once") == 1


def test_an_exception_follows_its_line() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    try:
        int("broken")
    except ValueError:
        logging.getLogger("tests").exception("bug")
    first, rest = stream.getvalue().split("\n", 1)
    assert parse(first)["event"] == "bug"
    assert "ValueError: invalid literal" in rest
