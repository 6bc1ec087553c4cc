# SPDX-License-Identifier: Apache-2.0
"""The house rules that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON_FOLDERS = ("common", "agent", "collector", "tests", "tools", "dashboards")
NODE_FOLDERS = ("common", "agent")
SOURCE_SUFFIXES = {".py", ".c", ".h", ".sh", ".js", ".css"}
TEXT_SUFFIXES = {"", ".html", ".in", ".j2", ".json", ".md", ".service", ".toml", ".txt", ".yaml", ".yml"}
CACHES = {"__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache"}
RECORDED = ROOT / "tests/data/stores"
"""State directories as programs wrote them: bytes without suffixes."""
SPDX = "SPDX-License-Identifier: Apache-2.0"
MODULE_LINES = 400
FUNCTION_LINES = 70
FOREIGN_ADDRESSES = [
    re.compile(r"(?<![\w.$})~-])/(?:work|opt|root|home)/"),
    re.compile(r"pypi\.|pythonhosted|deb\.debian|registry\.npm|snapshot\.debian"),
]


def python_files(folders: tuple[str, ...] = PYTHON_FOLDERS) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[Path]:
    for folder in (*PYTHON_FOLDERS, "docs", "deploy", "requirements", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if CACHES & set(path.parts) or RECORDED in path.parents:
                continue
            if path.is_file() and path.suffix in TEXT_SUFFIXES | SOURCE_SUFFIXES:
                yield path
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and path.suffix in TEXT_SUFFIXES | SOURCE_SUFFIXES and path.name != ".git":
            yield path


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_house_rules_look_at_files_that_exist() -> None:
    assert ROOT / "common/gpuledger/__init__.py" in set(python_files())
    assert ROOT / "Makefile" in set(text_files())


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_no_function_is_longer_than_70_lines() -> None:
    long = []
    for path in python_files():
        for node in functions(ast.parse(path.read_text(encoding="utf-8"))):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                long.append(f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines")
    assert long == []


def test_what_runs_on_a_node_parses_as_python_3_10() -> None:
    for path in python_files(NODE_FOLDERS):
        ast.parse(path.read_text(encoding="utf-8"), filename=name_of(path), feature_version=(3, 10))


def test_every_source_file_names_its_licence_in_its_first_three_lines() -> None:
    sources = [path for path in text_files() if path.suffix in SOURCE_SUFFIXES]
    sources += [ROOT / "Makefile", ROOT / ".ci/run", ROOT / "tools/bootstrap", ROOT / "tools/lock"]
    heads = {path: path.read_text(encoding="utf-8").split("\n", 3)[:3] for path in sources}
    without = [name_of(path) for path, lines in heads.items() if not any(SPDX in line for line in lines)]
    assert without == []


def test_only_two_modules_import_by_name_where_no_contract_can_see_it() -> None:
    pattern = re.compile(r"\b(?:import_module|__import__|exec_module)\(")
    programs = python_files(("common", "agent", "collector"))
    found = {name_of(path) for path in programs if pattern.search(path.read_text(encoding="utf-8"))}
    assert found == {"agent/gpuledger_agent/nvml.py", "common/gpuledger/cli.py"}


def test_no_test_uses_mocks() -> None:
    mock = re.compile(r"^\s*(?:import|from)\s+(?:unittest\.mock|unittest import mock|mock|pytest_mock)\b", re.MULTILINE)
    assert [name_of(path) for path in python_files() if mock.search(path.read_text(encoding="utf-8"))] == []


def test_no_file_names_a_path_of_one_machine_or_the_address_of_a_package_index() -> None:
    found = []
    for path in text_files():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if any(pattern.search(line) for pattern in FOREIGN_ADDRESSES):
                found.append(f"{name_of(path)}:{number}: {line.strip()}")
    assert found == []
