# SPDX-License-Identifier: Apache-2.0
"""A collector's storage on a temporary directory: empty, and with days of readings."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.retention import LATER_MS, fill, node_with
from tests.fakes.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with Storage(tmp_path / "state") as opened:
        yield opened


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with three days of two nodes."""
    directory = tmp_path_factory.mktemp("filled") / "state"
    with Storage(directory) as storage:
        fill(storage, node_with("node-1"), node_with("node-2"))
    return directory


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of one node, days later."""
    directory = tmp_path_factory.mktemp("small") / "state"
    with Storage(directory) as storage:
        fill(storage, node_with("node-1"))
        storage.now_ms = LATER_MS
        storage.refresh()
    return directory


@pytest.fixture
def old(filled: Path, tmp_path: Path) -> Iterator[Storage]:
    """The same, days later."""
    shutil.copytree(filled, tmp_path / "state")
    with Storage(tmp_path / "state") as storage:
        storage.now_ms = LATER_MS
        storage.refresh()
        yield storage
