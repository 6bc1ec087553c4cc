# SPDX-License-Identifier: Apache-2.0
"""The table of traps in README.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


README = (HERE / "README.md").read_text(encoding="utf-8")
TESTS = {path.stem: path.read_text(encoding="utf-8") for path in HERE.parent.rglob("test_*.py")}


def rows_of(title: str) -> list[str]:
    section = README.partition(f"\n## {title}")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| trap |")]


def test_every_trap_of_measuring_has_a_test_that_exists() -> None:
    rows = rows_of("Traps of measuring")
    assert len(rows) > 20
    known = {name for source in TESTS.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= known, row


@pytest.mark.parametrize(("title", "least"), [("Traps of NVML", 20), ("Traps of lists", 15)])
def test_every_trap_of_nvml_has_a_test_that_exists(title: str, least: int) -> None:
    rows = rows_of(title)
    assert len(rows) > least
    for row in rows:
        named = re.findall(r"(test_\w+): ([^,|]+)", row.split("|")[2])
        assert named, row
        for module, sentence in named:
            name = "test_" + re.sub(r"\W+", "_", sentence.removesuffix(" ").removesuffix("...").strip().lower())
            assert re.search(rf"^(async )?def {name}", TESTS[module], re.MULTILINE), (row, name)
