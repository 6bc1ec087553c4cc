# SPDX-License-Identifier: Apache-2.0
"""A ledger on a temporary directory, to read fleets into."""

from pathlib import Path

import pytest

from tests.fakes.fleet_readings import FleetReading


@pytest.fixture
def reading(tmp_path: Path) -> FleetReading:
    return FleetReading(tmp_path)
