# SPDX-License-Identifier: Apache-2.0
"""The ledger's rows as plain columns, and back without loss: None stays None, integers stay exact.

Each state, bin, energy key and reason has a column of its own, so that sums are sums of columns. A state that is absent
from a row is null there, which is not 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gpuledger.accounting import Account
from gpuledger.gpu_time import MIG_ENERGY, UNCOVERED_ENERGY
from gpuledger.states import ACTIVITY_EDGES_PPM, OBSERVED, State, Uncovered
from gpuledger_collector.ledger import Finding, HolderRow, HourRow
from gpuledger_collector.spare import FreeTags

SCHEMA = 3
"""Version of the columns, kept in every file's metadata."""

ColumnKind = Literal["integer", "text", "flag"]

STATES = {f"state_{state.value}": state for state in State}
BINS = tuple(f"bin_{index}" for index in range(len(ACTIVITY_EDGES_PPM)))
ENERGY = {f"energy_{key}": key for key in (*(state.value for state in OBSERVED), MIG_ENERGY, UNCOVERED_ENERGY)}
REASONS = {f"reason_{reason.value}": reason for reason in Uncovered}
TAGS = ("not_schedulable_slice_ms", "stranded_node_slice_ms", "stranded_mig_slice_ms")

HOURS: dict[str, ColumnKind] = {
    "hour_ms": "integer",
    "gpu": "text",
    "serial": "text",
    "model": "text",
    "site": "text",
    "cluster": "text",
    "pool": "text",
    "node": "text",
    "simulated": "flag",
    **dict.fromkeys(STATES, "integer"),
    **dict.fromkeys(BINS, "integer"),
    "active_ns": "integer",
    **dict.fromkeys(ENERGY, "integer"),
    "declared_uncovered_slice_ms": "integer",
    **dict.fromkeys(REASONS, "integer"),
    "active_known_ms": "integer",
    "memory_used_bytes_max": "integer",
    "hang_suspicion_ms": "integer",
    "intervals_ms": "text",
    "activity_sources": "text",
    **dict.fromkeys(TAGS, "integer"),
}
HOLDERS: dict[str, ColumnKind] = {
    "hour_ms": "integer",
    "gpu": "text",
    "node": "text",
    "site": "text",
    "workload": "text",
    "user": "text",
    "busy_slice_ms": "integer",
    "held_slice_ms": "integer",
    "memory_bytes_max": "integer",
}
FINDINGS: dict[str, ColumnKind] = {
    "hour_ms": "integer",
    "at_ms": "integer",
    "kind": "text",
    "subject": "text",
    "text": "text",
}

ADDED: dict[int, dict[str, int | None]] = {3: dict.fromkeys(TAGS, 0)}
"""Version -> the columns of HOURS that it added, and what final hours of an earlier one have in them: nobody had said
that any free time was of no use."""

Record = dict[str, Any]


def added_since(version: int) -> dict[str, int | None]:
    """Return the columns that are not in rows of a version, with what rows of it have in their place."""
    return {name: value for since, added in ADDED.items() if since > version for name, value in added.items()}


def hour_record(row: HourRow) -> Record:
    """Return the row as a record of HOURS."""
    account = row.account
    record: Record = {
        "hour_ms": row.hour_ms,
        "gpu": row.gpu,
        "serial": row.serial,
        "model": row.model,
        "site": row.site,
        "cluster": row.cluster,
        "pool": row.pool,
        "node": row.node,
        "simulated": row.simulated,
        "active_ns": account.active_ns,
        "declared_uncovered_slice_ms": account.declared_uncovered_slice_ms,
        "active_known_ms": row.active_known_ms,
        "memory_used_bytes_max": row.memory_used_bytes_max,
        "hang_suspicion_ms": row.hang_suspicion_ms,
        "intervals_ms": json.dumps(row.intervals_ms),
        "activity_sources": json.dumps(row.activity_sources),
    }
    record.update(zip(BINS, account.bin_slice_ms, strict=True))
    record.update({name: getattr(row.tags, name) for name in TAGS})
    record.update({f"state_{state.value}": amount for state, amount in account.state_slice_ms.items()})
    record.update({f"energy_{key}": amount for key, amount in account.energy_mj.items()})
    record.update({f"reason_{reason.value}": amount for reason, amount in row.uncovered_slice_ms.items()})
    if not record.keys() <= HOURS.keys():
        raise AssertionError(f"columns without a place: {sorted(record.keys() - HOURS.keys())}")
    return record


def hour_row(record: Mapping[str, Any]) -> HourRow:
    """Return the row of a record of HOURS, or of one with sums in their places."""
    return HourRow(
        hour_ms=record["hour_ms"],
        gpu=record["gpu"],
        serial=record["serial"],
        model=record["model"],
        site=record["site"],
        cluster=record["cluster"],
        pool=record["pool"],
        node=record["node"],
        simulated=record["simulated"],
        account=account_of(record),
        uncovered_slice_ms={REASONS[name]: record[name] for name in REASONS if record[name] is not None},
        active_known_ms=record["active_known_ms"],
        memory_used_bytes_max=record["memory_used_bytes_max"],
        hang_suspicion_ms=record["hang_suspicion_ms"],
        intervals_ms=tuple(json.loads(record["intervals_ms"])),
        activity_sources=tuple(json.loads(record["activity_sources"])),
        tags=tags_of(record),
    )


def tags_of(record: Mapping[str, Any]) -> FreeTags:
    """Return the tags of free time in a record's columns."""
    return FreeTags(**{name: record[name] for name in TAGS})


def account_of(record: Mapping[str, Any]) -> Account:
    """Return the account in a record's columns."""
    return Account(
        state_slice_ms={state: record[name] for name, state in STATES.items() if record[name] is not None},
        bin_slice_ms=tuple(record[name] for name in BINS),
        active_ns=record["active_ns"],
        energy_mj={key: record[name] for name, key in ENERGY.items() if record[name] is not None},
        declared_uncovered_slice_ms=record["declared_uncovered_slice_ms"],
    )


def merge_lists(texts: Sequence[str]) -> list[Any]:
    """Return the sorted union of lists kept as JSON texts."""
    return sorted({item for text in texts for item in json.loads(text)})


def holder_record(row: HolderRow, site: str) -> Record:
    """Return the row as a record of HOLDERS; the site is that of the GPU's hour."""
    return {
        "hour_ms": row.hour_ms,
        "gpu": row.gpu,
        "node": row.node,
        "site": site,
        "workload": row.workload,
        "user": row.user,
        "busy_slice_ms": row.busy_slice_ms,
        "held_slice_ms": row.held_slice_ms,
        "memory_bytes_max": row.memory_bytes_max,
    }


def holder_row(record: Mapping[str, Any]) -> HolderRow:
    """Return the row of a record of HOLDERS."""
    return HolderRow(**{name: value for name, value in record.items() if name != "site"})


def finding_record(finding: Finding, hour_ms: int) -> Record:
    """Return the finding as a record of FINDINGS."""
    return {
        "hour_ms": hour_ms,
        "at_ms": finding.at_ms,
        "kind": finding.kind,
        "subject": finding.subject,
        "text": finding.text,
    }


def finding_of(record: Mapping[str, Any]) -> Finding:
    """Return the finding of a record of FINDINGS."""
    return Finding(**{name: value for name, value in record.items() if name != "hour_ms"})
