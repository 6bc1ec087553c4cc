# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/api.md are what the interface answers."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from gpuledger import __version__
from gpuledger_collector.api import answers
from gpuledger_collector.api.operations import OPERATIONS, ROOT
from gpuledger_collector.api.parameters import CURSOR_CHARACTERS_MAX, LIMIT_DEFAULT, LIMIT_MAX, TEXT_CHARACTERS_MAX
from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.selection import LOOKED_AT_MAX
from tests.fakes.glance import a_published

PAGE = Path(__file__).resolve().parents[3] / "docs/api.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^    curl -s '([^']+)'$\n\n```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def answer(address: str) -> Document:
    """Return the answer at an address of the page, with what stands in its path found by the routes' own names."""
    parts = urlsplit(address)
    query = tuple(parse_qsl(parts.query, keep_blank_values=True))
    for path, route in answers.routes().items():
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path), parts.path)
        if found is not None:
            return route(a_published(), Asked(path=found.groupdict(), query=query))
    raise AssertionError(f"{address}: no such address")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
    assert TEXT.count("```json") == len(EXAMPLES)


@pytest.mark.parametrize(("address", "shown"), EXAMPLES, ids=[address for address, _ in EXAMPLES])
def test_an_example_shows_what_is_answered(address: str, shown: str) -> None:
    told = json.dumps(json.loads(answer(address).body), indent=2)
    assert shown.strip().replace("VERSION", __version__) == told


def test_every_address_is_in_the_table() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE)
    assert [row for row in rows if row.startswith(ROOT)] == [
        *(f"{ROOT}{operation.path}" for operation in OPERATIONS),
        f"{ROOT}/openapi.json",
    ]


@pytest.mark.parametrize(
    "number", [LIMIT_DEFAULT, LIMIT_MAX, TEXT_CHARACTERS_MAX, CURSOR_CHARACTERS_MAX, LOOKED_AT_MAX]
)
def test_the_limits_are_those_of_the_code(number: int) -> None:
    assert f"{number:,}" in TEXT
