# SPDX-License-Identifier: Apache-2.0
"""One fleet, two ways: what its agents sealed for the ledger, and what real engines scraped of their counters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from random import Random

import pytest

from gpuledger.cells import CELL_MS, DAY_MS, HOUR_MS, SLICES_PER_GPU, floor_to
from gpuledger.states import State
from gpuledger_collector.engine.client import EngineClient
from gpuledger_collector.engine.config import EngineConfig
from gpuledger_collector.engine.fleet import FleetReader, Found, Wanted
from gpuledger_collector.engine.profile_files import load_profile
from gpuledger_collector.engine.readings import Names
from gpuledger_collector.figures import Key
from gpuledger_collector.ledger import build
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.roster import Entry, Roster
from tests.fakes.counting import Life, scraped, sealed, some_life
from tests.fakes.programs import run_python
from tests.integration.engines import Past, prometheus_with, victoria_metrics_with

pytestmark = [pytest.mark.slow, pytest.mark.prometheus]

MONDAY_MS = 1_794_787_200_000
SUNDAY_MS = MONDAY_MS + 7 * DAY_MS
INTERVAL_MS = 30_000
WEEK = Wanted(listed_ms=MONDAY_MS - 7 * DAY_MS, before_ms=MONDAY_MS, start_ms=MONDAY_MS, end_ms=SUNDAY_MS)
_CRASH = MONDAY_MS + DAY_MS + 11_832_500
_OUTAGE = (MONDAY_MS + 2 * DAY_MS + 36_003_000, MONDAY_MS + 2 * DAY_MS + 52_220_000)
"""An agent that is killed and back after 38 s; a node that is off for four and a half hours."""


def lives() -> list[Life]:
    rng = Random(7)
    crashed = ((MONDAY_MS, _CRASH), (_CRASH + 38_000, SUNDAY_MS))
    was_off = ((MONDAY_MS, _OUTAGE[0]), (_OUTAGE[1], SUNDAY_MS))
    late_ms = MONDAY_MS + 3 * DAY_MS + 7_777_000
    return [
        some_life(rng, "GPU-00000000-0000-4000-8000-000000000000", "a", "fra", MONDAY_MS, SUNDAY_MS, sessions=crashed),
        some_life(rng, "GPU-00000001-0000-4000-8000-000000000001", "a", "fra", MONDAY_MS, SUNDAY_MS, sessions=crashed),
        some_life(rng, "GPU-00000002-0000-4000-8000-000000000000", "b", "ber", MONDAY_MS, SUNDAY_MS, sessions=was_off),
        some_life(
            rng,
            "GPU-00000003-0000-4000-8000-000000000000",
            "c",
            "ber",
            late_ms,
            SUNDAY_MS,
            sessions=((late_ms, SUNDAY_MS),),
        ),
    ]


@cache
def past() -> Past:
    return scraped(lives(), INTERVAL_MS, 11_400)


def embedded(fleet: Sequence[Life], folder: Path) -> LedgerFiles:
    """The ledger that a collector makes of what the agents sealed."""
    entries = tuple(
        Entry(gpu=life.uuid, node=life.node, from_ms=floor_to(life.sessions[0][0], CELL_MS), site=life.site)
        for life in fleet
    )
    ledger = build(sealed(fleet), Roster(entries=entries), MONDAY_MS, SUNDAY_MS)
    files = LedgerFiles(folder, Names())
    files.write_hours(ledger, range(MONDAY_MS, SUNDAY_MS, HOUR_MS))
    files.write_extent(MONDAY_MS, SUNDAY_MS)
    return files


def from_engine(url: str, folder: Path, **settings: object) -> tuple[LedgerFiles, Found]:
    names = Names()
    files = LedgerFiles(folder, names)

    async def read() -> Found:
        config = EngineConfig(url=url, profile="gpuledger", **settings)  # type: ignore[arg-type]
        async with EngineClient(config) as client:
            reader = FleetReader(client, config, load_profile("gpuledger"), files, names)
            return await reader.read(WEEK, SUNDAY_MS + DAY_MS)

    return files, asyncio.run(read())


def spent(files: LedgerFiles, *keys: Key) -> dict[tuple[str | int, ...], Mapping[State, float]]:
    """Seconds by state and group."""
    return {
        group.key: {state: group.account.slice_ms(state) / SLICES_PER_GPU / 1000 for state in State}
        for group in files.sum_by(keys, MONDAY_MS, SUNDAY_MS)
    }


ENGINES = {"prometheus": prometheus_with, "victoria-metrics": victoria_metrics_with}
Engine = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="module", params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ENGINES[request.param](past(), tmp_path_factory.mktemp("engine")) as found:
        yield found


GROUPS: tuple[tuple[Key, ...], ...] = (
    ("day_ms",),
    ("site", "day_ms"),
    ("gpu", "day_ms"),
    (),
    ("site",),
    ("gpu",),
    ("node",),
)


def test_figures_agree_with_the_ledger_of_sealed_readings_within_a_thousandth(url: str, tmp_path: Path) -> None:
    ledger = embedded(lives(), tmp_path / "embedded")
    files, _ = from_engine(url, tmp_path / "engine")
    for keys in GROUPS:
        expected, found = spent(ledger, *keys), spent(files, *keys)
        assert found.keys() == expected.keys()
        for key, states in expected.items():
            installed = sum(states.values())
            assert sum(found[key].values()) == pytest.approx(installed, abs=0.001)
            for state, seconds in states.items():
                assert found[key][state] == pytest.approx(seconds, abs=installed / 1000), (key, state)


def test_integrals_and_bins_agree_too(url: str, tmp_path: Path) -> None:
    (expected,) = embedded(lives(), tmp_path / "embedded").sum_by([], MONDAY_MS, SUNDAY_MS)
    files, found = from_engine(url, tmp_path / "engine")
    (group,) = files.sum_by([], MONDAY_MS, SUNDAY_MS)
    assert expected.account.active_ns is not None
    assert group.account.active_ns == pytest.approx(expected.account.active_ns, rel=0.001)
    assert group.account.bin_slice_ms == pytest.approx(expected.account.bin_slice_ms, rel=0.001)
    assert found.intervals_ms == {INTERVAL_MS}
    assert not group.simulated


def test_the_command_reports_it_and_says_what_it_is_from(url: str, tmp_path: Path) -> None:
    source = ("--source", "prometheus", "--profile", "gpuledger", "--url", url)
    done = run_python("-m", "gpuledger", "report", "weekly", *source, "--week", "2026-W47", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "weekly-2026-W47.json").read_text(encoding="utf-8"))
    assert found["sampling_error_points"] == 0.1
    assert found["title"] == "GPU occupancy and idle time, week 2026-W47, sampled from gpuledger agent"
    assert found["headline"]["out"]["percent"] > 0
    assert (found["method"]["readings_trust"], found["source"]["is_counters"]) == ("L0", True)
    assert "From counters in an engine, not from sealed readings" in found["notices"][0]
    assert {node["node"] for node in found["idle_list"]["dark"]} == {"a", "b", "c"}


def test_queries_that_are_refused_are_asked_in_halves(url: str, tmp_path: Path) -> None:
    whole, _ = from_engine(url, tmp_path / "whole")
    parts, _ = from_engine(url, tmp_path / "parts", query_points=1000, concurrent_queries=1)
    assert parts.digest(MONDAY_MS, SUNDAY_MS) == whole.digest(MONDAY_MS, SUNDAY_MS)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_scrapes_that_failed_for_less_than_an_hour_lose_nothing_and_longer_gaps_are_dark(
    engine: Engine, tmp_path: Path
) -> None:
    rng = Random(11)
    uuid = "GPU-00000000-0000-4000-8000-000000000000"
    fleet = [some_life(rng, uuid, "a", "fra", MONDAY_MS, MONDAY_MS + DAY_MS)]
    short = (MONDAY_MS + 3 * HOUR_MS + 1_000_000, MONDAY_MS + 4 * HOUR_MS)
    long = (MONDAY_MS + 10 * HOUR_MS + 600_000, MONDAY_MS + 14 * HOUR_MS + 1_200_000)
    (tmp_path / "data").mkdir()
    with engine(scraped(fleet, INTERVAL_MS, 4_000, gaps=(short, long)), tmp_path / "data") as url:
        files, _ = from_engine(url, tmp_path / "engine")
    (found,) = files.sum_by([], MONDAY_MS, MONDAY_MS + DAY_MS)
    dark_s = found.account.slice_ms(State.DARK) / SLICES_PER_GPU / 1000
    assert dark_s == pytest.approx((long[1] - long[0]) / 1000, abs=3 * INTERVAL_MS / 1000)
