# SPDX-License-Identifier: Apache-2.0
"""docs/reliability.md names tests for each fault: they exist, and each row names one."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
CITED = re.findall(r"`(tests/\S+?\.py)::(\w+)`", PAGE)


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    assert len(CITED) > 30
    assert [f"{path}::{name}" for path, name in CITED if name not in functions_of(path)] == []


def test_every_fault_names_a_test_that_has_seen_it() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "|---"))]
    assert len(rows) > 25
    assert [row for row in rows if "`tests/" not in row] == []
