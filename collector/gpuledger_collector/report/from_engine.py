# SPDX-License-Identifier: Apache-2.0
"""The report of a fleet that an engine knows: its gauges into a ledger that lives as long as the report is made."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from gpuledger.states import State
from gpuledger_collector.engine import promql
from gpuledger_collector.engine.client import EngineClient
from gpuledger_collector.engine.config import EngineConfig
from gpuledger_collector.engine.fleet import SETTLE_MS, FleetReader, Found, Wanted
from gpuledger_collector.engine.profile import ActivityKind, Profile
from gpuledger_collector.engine.profile_files import load_profile
from gpuledger_collector.engine.readings import Names
from gpuledger_collector.finance.book import PriceBook
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.report.model import Gauge, Source, Tally, TrustLevel, Weekly
from gpuledger_collector.report.periods import WEEK_MS, PeriodKind, Span, week_at, week_before
from gpuledger_collector.report.weekly import build_weekly

_UNTOLD = (State.STANDBY, State.OPERATOR, State.MAINTENANCE, State.DOWN)


def read_from_engine(
    config: EngineConfig,
    week: Span | None,
    *,
    is_compared: bool,
    horizon_ms: int | None = None,
    book: PriceBook | None = None,
) -> Weekly:
    """Return the report of a week, by default of the last whole one that the engine has anything of.

    Cells up to `horizon_ms` are accounted for, by default up to a little before the engine's own time. Raises
    EngineError where the engine cannot be asked, or does not answer everything.
    """
    profile = load_profile(config.profile, config.profile_file)
    with tempfile.TemporaryDirectory(prefix="gpuledger-") as directory:
        names = Names()
        files = LedgerFiles(Path(directory), names)
        chosen, found = asyncio.run(_read(config, profile, files, names, week, horizon_ms, is_compared=is_compared))
        return build_weekly(
            files,
            chosen,
            readings_trust=TrustLevel.L0,
            source=_source(profile, found),
            is_compared=is_compared,
            book=book,
        )


async def _read(
    config: EngineConfig,
    profile: Profile,
    files: LedgerFiles,
    names: Names,
    week: Span | None,
    horizon_ms: int | None,
    *,
    is_compared: bool,
) -> tuple[Span, Found]:
    async with EngineClient(config) as client:
        now_ms = await client.now_ms()
        chosen = await _last_week(client, config, profile, now_ms) if week is None else week
        wanted = Wanted(
            listed_ms=chosen.start_ms - WEEK_MS,
            before_ms=chosen.start_ms - (WEEK_MS if is_compared and chosen.kind is PeriodKind.WEEK else 0),
            start_ms=chosen.start_ms,
            end_ms=chosen.end_ms,
        )
        reader = FleetReader(client, config, profile, files, names)
        return chosen, await reader.read(wanted, now_ms - SETTLE_MS if horizon_ms is None else horizon_ms)


async def _last_week(client: EngineClient, config: EngineConfig, profile: Profile, now_ms: int) -> Span:
    """Return the last whole week if the engine has series of it, else the one that is going on."""
    current = week_at(now_ms)
    last = week_before(current)
    matchers = {label: (value,) for label, value in config.match}
    selectors = [promql.selector(metric, matchers) for metric in profile.metrics]
    return last if await client.label_sets(selectors, last.start_ms, last.end_ms) else current


def _source(profile: Profile, found: Found) -> Source:
    notes = found.notes
    is_counters = profile.counters is not None
    untold: tuple[State, ...] = () if is_counters else _UNTOLD
    if not found.knows_workloads and not is_counters:
        untold = (State.RESERVED, *untold)
    return Source(
        profile=profile.name,
        exporter=profile.exporter,
        is_counters=is_counters,
        update_interval_ms=profile.update_interval_ms,
        gauges=tuple(
            Gauge(metric=activity.metric, is_mean=activity.kind is ActivityKind.MEAN) for activity in profile.activities
        ),
        intervals_ms=tuple(sorted(found.intervals_ms)),
        memory_metric=None if profile.memory is None else profile.memory.metric,
        held_above_bytes=None if profile.memory is None else profile.memory.held_above_bytes,
        untold=untold,
        knows_workloads=found.knows_workloads,
        tallies=tuple(
            Tally(
                day_ms=day_ms,
                site=site,
                model=model or None,
                points=tally.points,
                misplaced_slice_ms=tally.misplaced_slice_ms,
            )
            for (day_ms, site, model), tally in sorted(found.tallies.items())
        ),
        changes=notes.changes,
        points=notes.points,
        rejected_points=notes.rejected,
        contradicting_points=notes.contradictions,
        points_without_memory=notes.without_memory,
    )
