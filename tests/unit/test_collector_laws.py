# SPDX-License-Identifier: Apache-2.0
"""Whatever the order of arrival, the ledger on disk is the ledger of what arrived: law 3 through log, index and files.

The collector redoes only the hours that a new reading, roster or declaration touches; this compares them with all hours
computed at once by the pure ledger.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import CELL_MS, HOUR_MS, ceil_to, floor_to
from gpuledger.reading import PAYLOAD_TYPE, digest, encode, encode_workloads
from gpuledger.sealing import SigningKey
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.enrolment_book import EnrolmentBook
from gpuledger_collector.entries import DeclarationEntry, EnrolmentEntry, OwnEntry, ReadingEntry, RosterEntry
from gpuledger_collector.figures import SideReader
from gpuledger_collector.given_entries import Closed, Opened, pack_leases, pack_schedule
from gpuledger_collector.keeper import Keeper
from gpuledger_collector.ledger import Accepted, Ledger, build
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.roster import Claim, discover
from gpuledger_collector.roster_book import RosterBook
from gpuledger_collector.scheduling import Grant, Scheduling, Seen, Watched
from gpuledger_collector.store import Store
from gpuledger_collector.workload_book import WorkloadBook
from tests.fakes.fleets import Fleet, fleets
from tests.fakes.logs import open_log
from tests.fakes.side_rows import SideRows
from tests.fakes.surroundings import lease_book, views
from tests.profiles import examples

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


class Logged:
    """A roster book for one that the test itself brings into the log."""

    def sync(self, now_ms: int) -> bool:
        return False


def entry_of(accepted: Accepted, *, with_workloads: bool) -> ReadingEntry:
    envelope = KEY.seal(PAYLOAD_TYPE, encode(accepted.reading))
    blob = encode_workloads(accepted.workloads) if accepted.workloads and with_workloads else None
    return ReadingEntry(envelope=envelope, workloads=blob, digest=digest(envelope), reading=accepted.reading)


def enrolments(fleet: Fleet) -> list[EnrolmentEntry]:
    nodes = {(accepted.reading.node_id, accepted.reading.node_name) for accepted in fleet.readings}
    return [
        EnrolmentEntry(node_id=node_id, public_key=KEY.public_bytes, node=node, how="listed", at_ms=0)
        for node_id, node in sorted(nodes)
    ]


def arrivals(fleet: Fleet, rng: Random) -> list[ReadingEntry | OwnEntry]:
    """Return every reading, roster entry and declaration at least once, in any order, some without workloads first."""
    entries: list[ReadingEntry | OwnEntry] = [entry_of(accepted, with_workloads=True) for accepted in fleet.readings]
    entries += [
        entry_of(accepted, with_workloads=rng.random() < 0.5) for accepted in fleet.readings if rng.random() < 0.4
    ]
    if fleet.roster.is_declared:
        entries += [RosterEntry(is_declared=True, added=(entry,)) for entry in fleet.roster.entries]
        entries += [DeclarationEntry(window=window) for window in fleet.roster.windows]
    rng.shuffle(entries)
    return entries


def told(fleet: Fleet, seed: int) -> tuple[list[Watched], list[Seen]]:
    """Return what schedulers said; of one node and job one fact, as a scheduler has it."""
    watched, seen = views(fleet, seed)
    return watched, list({(one.cluster, one.fact.node, job_of(one)): one for one in seen}.values())


def job_of(seen: Seen) -> str | None:
    return seen.fact.job if isinstance(seen.fact, Grant) else None


def given_entries(fleet: Fleet, seed: int) -> list[OwnEntry]:
    """Return a lease book that changes once, and every stretch of looks at schedulers, in the order of their time."""
    first, book = lease_book(fleet, seed + 1), lease_book(fleet, seed)
    entries: list[OwnEntry] = [*pack_leases(first.from_ms, (), first.leases)]
    entries += pack_leases(book.from_ms, [lease.name for lease in first.leases], book.leases)
    watched, seen = told(fleet, seed)
    for stretch in watched:
        own = [one for one in watched if one.cluster == stretch.cluster]
        opened, closed = [], []
        for one in seen:
            if one.cluster != stretch.cluster:
                continue
            if stretch is next((some for some in own if some.to_ms > one.from_ms), None):
                grant, node = (one.fact, None) if isinstance(one.fact, Grant) else (None, one.fact)
                opened.append(Opened(from_ms=one.from_ms, grant=grant, node=node))
            if one.to_ms is not None:
                begun = [some for some in own if some.from_ms <= one.to_ms and some.to_ms > one.from_ms]
                if stretch is (begun[-1] if begun else None):
                    closed.append(Closed(node=one.fact.node, job=job_of(one), to_ms=one.to_ms))
        span = stretch.from_ms, stretch.to_ms
        entries += pack_schedule(stretch.cluster, span, (), (), opened)
        entries += pack_schedule(stretch.cluster, span, stretch.queues, closed, ())
    return entries


def woven(some: list[ReadingEntry | OwnEntry], others: list[OwnEntry], rng: Random) -> list[ReadingEntry | OwnEntry]:
    """Return both, in any order; the others stay in theirs."""
    places = sorted(rng.randint(0, len(some)) for _ in others)
    found = list(some)
    for place, other in reversed(list(zip(places, others, strict=True))):
        found.insert(place, other)
    return found


def play(fleet: Fleet, seed: int, directory: Path) -> tuple[Ledger, Ledger, tuple[int, int] | None, list[list[str]]]:
    """Return the ledger after all arrived in random batches, and again after it was rebuilt from the log alone."""
    rng = Random(seed)
    with Store(directory) as store, open_log(directory / "log") as log:
        catalog = Catalog(log, store, now_ms=fleet.start_ms)
        files = LedgerFiles(directory / "ledger", store)
        book = cast("RosterBook", Logged()) if fleet.roster.is_declared else RosterBook(catalog, None)
        enrolled = EnrolmentBook(catalog, None)
        keeper = Keeper(catalog, files, book, enrolled, WorkloadBook(store, {}), settle_grace_ms=0)
        catalog.commit(enrolments(fleet), now_ms=fleet.start_ms)
        waiting = woven(arrivals(fleet, rng), given_entries(fleet, seed), rng)
        now_ms = fleet.start_ms
        while waiting:
            size = rng.randint(1, len(waiting))
            batch, waiting = waiting[:size], waiting[size:]
            catalog.commit(batch, now_ms=now_ms)
            if rng.random() < 0.6:
                now_ms = min(fleet.end_ms, now_ms + rng.randint(0, 3) * CELL_MS)
                keeper.refresh(now_ms)
        keeper.refresh(fleet.end_ms)
        first, extent = read(files), files.extent()
        made = files.digest(0, fleet.end_ms)
        sides = side_texts(files, fleet.end_ms)
        keeper.rebuild()
        assert files.digest(0, fleet.end_ms) == made
        assert side_texts(files, fleet.end_ms) == sides
        return first, read(files), extent, sides


def side_texts(reader: SideReader, end_ms: int) -> list[list[str]]:
    span = 0, end_ms
    return [
        sorted(json.dumps(asdict(one), sort_keys=True) for one in found)
        for found in (
            reader.commerce(*span),
            reader.allotments(*span),
            reader.not_schedulable(*span),
            reader.queues(*span),
            reader.clusters(*span),
        )
    ]


def read(files: LedgerFiles) -> Ledger:
    extent = files.extent()
    if extent is None:
        return Ledger(hours=(), holders=(), findings=())
    span = floor_to(extent[0], HOUR_MS), ceil_to(extent[1], HOUR_MS)
    return Ledger(
        hours=tuple(files.rows(*span)),
        holders=tuple(files.holder_rows(*span)),
        findings=tuple(files.findings(*span)),
    )


def expect(fleet: Fleet, seed: int, extent: tuple[int, int] | None) -> Ledger:
    """Return the pure ledger of everything, over the extent that the collector came to."""
    if extent is None:
        return Ledger(hours=(), holders=(), findings=())
    readings: Sequence[Accepted] = [
        replace(accepted, digest=entry_of(accepted, with_workloads=False).digest) for accepted in fleet.readings
    ]
    roster = fleet.roster
    if not roster.is_declared:
        claims = [
            Claim(
                gpu=gpu.uuid,
                node=accepted.reading.node_name,
                first_ms=accepted.reading.cell_ms,
                serial=gpu.serial,
                model=gpu.model,
            )
            for accepted in readings
            for gpu in accepted.reading.gpus
        ]
        roster = discover(claims, {}, {})
    return build(
        readings,
        roster,
        floor_to(extent[0], HOUR_MS),
        extent[1],
        leases=lease_book(fleet, seed),
        scheduling=Scheduling(*told(fleet, seed)),
    )


@examples(0.4)
@given(fleets(has_retirements=False), st.integers(0, 2**32 - 1))
def test_the_ledger_on_disk_is_that_of_all_readings_whatever_order_they_came_in(fleet: Fleet, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        found, rebuilt, extent, sides = play(fleet, seed, Path(directory))
    expected = expect(fleet, seed, extent)
    assert found.hours == expected.hours
    assert set(found.holders) == set(expected.holders)
    assert len(found.holders) == len(expected.holders)
    assert set(found.findings) == set(expected.findings)
    assert rebuilt == found
    assert sides == side_texts(SideRows(expected.commerce, expected.allotted), fleet.end_ms)
