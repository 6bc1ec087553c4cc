# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures of every test."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import tests.profiles  # noqa: F401 - registers "ci" and "deep"

GOLDEN = Path(__file__).parent / "golden"

settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="rewrite tests/golden instead of comparing with it")


@pytest.fixture(autouse=True)
def _root_logger_as_found() -> Iterator[None]:
    """A program that a test runs configures logging for its process; the next test must not see that."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text is that of tests/golden/NAME. `make golden` rewrites the file.

    Mark the test `golden`, so that `make golden` finds it.
    """

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--write-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"tests/golden/{name} does not exist: write it with `make golden`"
        assert text == path.read_text(encoding="utf-8"), f"tests/golden/{name} differs: see `make golden`"

    return compare
