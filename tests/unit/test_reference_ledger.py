# SPDX-License-Identifier: Apache-2.0
"""The ledger agrees, row by row, with a second implementation that was written from accounting.md alone."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given

from gpuledger.reading import encode, encode_workloads
from gpuledger_collector.ledger import Accepted, HourRow, Ledger, build
from gpuledger_collector.roster import Roster
from tests.fakes import reference_ledger
from tests.fakes.fleets import Fleet, fleets
from tests.profiles import examples


def plain_reading(accepted: Accepted) -> dict[str, Any]:
    core = json.loads(encode(accepted.reading))
    return {**core, "digest": accepted.digest, "parts": json.loads(encode_workloads(accepted.workloads))}


def plain_roster(roster: Roster) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    entries = [
        {"gpu": entry.gpu, "node": entry.node, "from": entry.from_ms, "to": entry.to_ms, "serial": entry.serial}
        for entry in roster.entries
    ]
    windows = [
        {
            "kind": window.kind.value,
            "start": window.start_ms,
            "end": window.end_ms,
            "declared": window.declared_ms,
            "node": window.node,
            "gpu": window.gpu,
        }
        for window in roster.windows
    ]
    return entries, windows


def plain_row(row: HourRow) -> dict[str, Any]:
    account = row.account
    return {
        "states": {state.value: amount for state, amount in account.state_slice_ms.items()},
        "bins": {index: amount for index, amount in enumerate(account.bin_slice_ms) if amount > 0},
        "energy": {key: amount for key, amount in account.energy_mj.items() if amount > 0},
        "active": account.active_ns,
        "declared": account.declared_uncovered_slice_ms,
        "hang": row.hang_suspicion_ms,
    }


def plain_holders(ledger: Ledger) -> dict[Any, int]:
    sums: dict[Any, int] = {}
    for row in ledger.holders:
        for name, amount in (("busy", row.busy_slice_ms), ("held", row.held_slice_ms)):
            key = (row.hour_ms, row.gpu, row.node, row.workload, row.user, name)
            reference_ledger.put(sums, key, amount)
    return sums


def compare(fleet: Fleet) -> None:
    ledger = build(fleet.readings, fleet.roster, fleet.start_ms, fleet.end_ms)
    entries, windows = plain_roster(fleet.roster)
    readings = [plain_reading(accepted) for accepted in fleet.readings]
    expected = reference_ledger.ledger(readings, entries, windows, fleet.start_ms, fleet.end_ms)
    # A GPU that left a node and came back within an hour has two rows there, in order of time.
    wanted: dict[Any, list[dict[str, Any]]] = {}
    holders: dict[Any, int] = {}
    for key in sorted(expected["hours"]):
        row = expected["hours"][key]
        for holder, times in row.pop("holders").items():
            for name, amount in times.items():
                reference_ledger.put(holders, (*key[:3], *holder, name), amount)
        wanted.setdefault(key[:3], []).append(row)
    found: dict[Any, list[dict[str, Any]]] = {}
    for hour in ledger.hours:
        found.setdefault((hour.hour_ms, hour.gpu, hour.node), []).append(plain_row(hour))
    assert found == wanted
    assert plain_holders(ledger) == holders
    assert {(finding.at_ms, finding.kind, finding.subject) for finding in ledger.findings} == expected["findings"]


@examples(2)
@given(fleets(has_retirements=False))
def test_the_ledger_agrees_with_the_plain_reference_on_every_row_and_finding(fleet: Fleet) -> None:
    compare(fleet)


@examples(1)
@given(fleets(has_retirements=True, has_moves=False))
def test_the_ledger_agrees_with_the_plain_reference_where_gpus_leave_service(fleet: Fleet) -> None:
    compare(fleet)


@examples(1)
@given(fleets(has_windows=True, has_overlaps=False, has_equivocation=False, has_foreign_claims=False))
def test_the_ledger_agrees_with_the_plain_reference_under_declarations(fleet: Fleet) -> None:
    compare(fleet)
