# SPDX-License-Identifier: Apache-2.0
"""Leases, schedulers and tags agree with a second implementation that was written from accounting.md alone."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpuledger.states import State
from gpuledger_collector.leases import STATES_OF, Lease, LeaseBook
from gpuledger_collector.ledger import build
from gpuledger_collector.scheduling import Grant, Scheduling, Seen, Watched
from tests.fakes import reference_given, reference_ledger
from tests.fakes.fleets import Fleet, fleets
from tests.fakes.surroundings import lease_book, views
from tests.profiles import examples
from tests.unit.collector.test_leases import CELL as AT
from tests.unit.collector.test_leases import entry, lease, whole
from tests.unit.test_reference_ledger import plain_reading, plain_roster

SEEDS = st.integers(0, 2**32 - 1)


def plain_lease(lease: Lease) -> dict[str, Any]:
    return {
        "name": lease.name,
        "kind": lease.kind.value,
        "from": lease.from_ms,
        "to": lease.to_ms,
        "signed": lease.signed_ms,
        "gpus": lease.gpus,
        "nodes": lease.nodes,
        "pool": lease.pool,
        "site": lease.site,
        "count": lease.count,
    }


def plain_look(watched: Watched) -> dict[str, Any]:
    return {"cluster": watched.cluster, "from": watched.from_ms, "to": watched.to_ms}


def plain_fact(seen: Seen) -> dict[str, Any]:
    fact = seen.fact
    plain = {"cluster": seen.cluster, "from": seen.from_ms, "to": seen.to_ms, "node": fact.node}
    if isinstance(fact, Grant):
        return {**plain, "job": fact.job, "indices": fact.indices, "why": None}
    return {**plain, "job": None, "indices": None, "why": None if fact.why is None else fact.why.value}


def expect(fleet: Fleet, book: LeaseBook, watched: list[Watched], seen: list[Seen]) -> Any:
    entries, windows = plain_roster(fleet.roster)
    for plain, declared in zip(entries, fleet.roster.entries, strict=True):
        plain |= {"site": declared.site, "pool": declared.pool}
    leases = [plain_lease(lease) for lease in book.leases]
    looks, facts = [plain_look(one) for one in watched], [plain_fact(one) for one in seen]
    readings = [plain_reading(accepted) for accepted in fleet.readings]
    found = reference_ledger.ledger(
        readings,
        entries,
        windows,
        fleet.start_ms,
        fleet.end_ms,
        lambda entry, good, cell: reference_given.is_given(entry, good, leases, facts, looks, cell),
    )
    found["shares"] = reference_given.shares(found["cells"], leases, book.from_ms)
    found["tags"] = reference_given.tags(found["cells"], facts, looks)
    return found


@examples(1)
@given(fleets(), SEEDS)
def test_states_shares_and_tags_agree_with_the_plain_reference(fleet: Fleet, seed: int) -> None:
    book, (watched, seen) = lease_book(fleet, seed), views(fleet, seed + 1)
    ledger = build(
        fleet.readings,
        fleet.roster,
        fleet.start_ms,
        fleet.end_ms,
        leases=book,
        scheduling=Scheduling(watched, seen),
    )
    expected = expect(fleet, book, watched, seen)
    states: dict[Any, int] = {}
    for row in ledger.hours:
        for state, amount in row.account.state_slice_ms.items():
            reference_ledger.put(states, (row.hour_ms, row.gpu, row.node, state.value), amount)
    wanted: dict[Any, int] = {}
    for (hour, gpu, node, _), account in expected["hours"].items():
        for state, amount in account["states"].items():
            reference_ledger.put(wanted, (hour, gpu, node, state), amount)
    assert states == wanted
    shares = {
        (row.hour_ms, row.site, row.pool, row.kind.value, row.lease): {
            "time": row.slice_ms,
            "low": {state.value: amount for state, amount in row.low_slice_ms.items()},
            "high": {state.value: amount for state, amount in row.high_slice_ms.items()},
        }
        for row in ledger.commerce
    }
    assert shares == expected["shares"]
    tags: dict[Any, list[int]] = {}
    for row in ledger.hours:
        sums = tags.setdefault((row.hour_ms, row.gpu, row.node), [0, 0])
        sums[0] += row.tags.not_schedulable_slice_ms
        sums[1] += row.tags.stranded_node_slice_ms
    for (gpu, cell), own in expected["tags"].items():
        key = cell // reference_ledger.HOUR * reference_ledger.HOUR, gpu, expected["cells"][gpu, cell]["entry"]["node"]
        tags[key][0] -= own["closed"]
        tags[key][1] -= own["stranded"]
    assert not any(amount for sums in tags.values() for amount in sums)


@examples(1)
@given(st.lists(st.sampled_from(sorted(State)), min_size=1, max_size=6), st.integers(1, 6))
def test_the_bounds_of_several_states_are_those_of_the_best_and_the_worst_choice(states: list[State], n: int) -> None:
    count = min(n, len(states))
    book = LeaseBook([lease("A", pool="h100", count=count)], 0)
    shares, _ = book.share_cell(AT, [(entry(number), whole(state)) for number, state in enumerate(states)])
    members = [{state.value: reference_ledger.WHOLE} for state in states]
    share = next(share for share in shares if share.lease == "A")
    for several, some in STATES_OF.items():
        least, most = reference_given.by_choice(members, count, {state.value for state in some})
        assert (share.low_of_slice_ms[several], share.high_of_slice_ms[several]) == (least, most)
