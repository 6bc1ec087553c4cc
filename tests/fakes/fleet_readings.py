# SPDX-License-Identifier: Apache-2.0
"""A fleet read from a fake engine into a ledger, and its hours by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gpuledger.accounting import Account
from gpuledger.cells import DAY_MS, HOUR_MS, SLICES_PER_GPU
from gpuledger.states import State
from gpuledger_collector.engine.client import EngineClient
from gpuledger_collector.engine.config import EngineConfig
from gpuledger_collector.engine.fleet import FleetReader, Found, Wanted
from gpuledger_collector.engine.profile_files import load_profile
from gpuledger_collector.engine.readings import Names
from gpuledger_collector.ledger_files import LedgerFiles
from tests.fakes.engines import FakeEngine
from tests.fakes.gauges import MONDAY_MS

SIX = Wanted(listed_ms=MONDAY_MS - 7 * DAY_MS, before_ms=MONDAY_MS, start_ms=MONDAY_MS, end_ms=MONDAY_MS + 6 * HOUR_MS)
LATER_MS = MONDAY_MS + DAY_MS


class FleetReading:
    """One fleet, read from a fake engine into a ledger below `folder`."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.names = Names()
        self.files = LedgerFiles(folder / "ledger", self.names)
        self.settings = settings

    async def of(
        self, engine: FakeEngine, wanted: Wanted = SIX, *, profile: str = "dcgm", horizon_ms: int = LATER_MS
    ) -> Found:
        async with engine.serving() as url:
            config = replace(EngineConfig(url=url), **self.settings)  # type: ignore[arg-type]
            async with EngineClient(config) as client:
                reader = FleetReader(client, config, load_profile(profile), self.files, self.names)
                return await reader.read(wanted, horizon_ms)

    def hours(self, *keys: str, wanted: Wanted = SIX) -> Mapping[tuple[str | int, ...], dict[State, float]]:
        """GPU-hours by state, by the given keys, rounded to seconds."""
        groups = self.files.sum_by(keys, wanted.start_ms, wanted.end_ms)  # type: ignore[arg-type]
        return {group.key: in_hours(group.account) for group in groups}


def in_hours(account: Account) -> dict[State, float]:
    return {
        state: round(amount / SLICES_PER_GPU / HOUR_MS, 4) for state, amount in account.state_slice_ms.items() if amount
    }


def about(hours: dict[State, float]) -> object:
    """The hours, give or take two samples: one stands for a time after its own."""
    return pytest.approx(hours, abs=0.02)
