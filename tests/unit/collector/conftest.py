# SPDX-License-Identifier: Apache-2.0
"""A collector's storage on a temporary directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with Storage(tmp_path / "state") as opened:
        yield opened
