# SPDX-License-Identifier: Apache-2.0
"""The ledger's tables beside the hours of GPUs, as columns and as sums: commerce, allotments, nodes, queues, clusters.

Rows become records and SQL says how they add up; only `ledger_files` touches a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from gpuledger.states import State
from gpuledger_collector.columns import ColumnKind, Record
from gpuledger_collector.commerce import CommerceRow
from gpuledger_collector.figures import Allotted, ClusterSum, CommerceSum, NotSchedulable, QueueSum
from gpuledger_collector.leases import Commercial, Several
from gpuledger_collector.ledger import Ledger
from gpuledger_collector.schedulers.view import Unschedulable

LOW = {f"low_{state.value}": state for state in State}
HIGH = {f"high_{state.value}": state for state in State}
LOW_OF = {f"low_of_{several.value}": several for several in Several}
HIGH_OF = {f"high_of_{several.value}": several for several in Several}
_Name = TypeVar("_Name", State, Several)
Names = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideTable:
    """One table: its columns, by which of them its rows are in order, and how its rows are summed over hours."""

    columns: Mapping[str, ColumnKind]
    order: tuple[str, ...]
    sql: str


def _columns(integers: Iterable[str], texts: Iterable[str]) -> dict[str, ColumnKind]:
    found: dict[str, ColumnKind] = {"hour_ms": "integer"}
    found |= dict.fromkeys(texts, "text")
    found |= dict.fromkeys(integers, "integer")
    return found


def _sums(*names: str) -> str:
    return ", ".join(f'sum("{name}") AS "{name}"' for name in names)


def _sql(keys: tuple[str, ...], sums: str, order: str) -> str:
    named = ", ".join(f'"{key}"' for key in keys)
    span = "min(hour_ms) AS first_hour_ms, max(hour_ms) AS last_hour_ms"
    tail = ", ".join(f'"{key}" NULLS FIRST' for key in keys)
    return f"SELECT {named}, {sums}, {span} FROM rows GROUP BY {named} ORDER BY {order}{tail}"  # noqa: S608 - ours


_COMMERCE_KEYS = ("kind", "lease", "tenant", "pool", "site")
_JOB_KEYS = ("cluster", "site", "node", "job", "user", "account", "partition")
_JOB_SUMS = ("slice_ms", "busy_slice_ms", "held_slice_ms", "reserved_slice_ms", "untold_slice_ms")
_NODE_KEYS = ("cluster", "site", "node", "why", "reason", "by", "since_ms")
_QUEUE_KEYS = ("cluster", "partition", "reason")
_CLUSTER_SUMS = ("known_ms", "free_slice_ms", "wanted_slice_ms", "idle_wanted_slice_ms")

SIDE_TABLES: dict[str, SideTable] = {
    "commerce": SideTable(
        columns=_columns(("slice_ms", *LOW, *HIGH, *LOW_OF, *HIGH_OF), ("site", "pool", "kind", "lease", "tenant")),
        order=("hour_ms", "site", "pool", "kind", "lease"),
        sql=_sql(_COMMERCE_KEYS, _sums("slice_ms", *LOW, *HIGH, *LOW_OF, *HIGH_OF), ""),
    ),
    "allotments": SideTable(
        columns=_columns(("gpus", *_JOB_SUMS), _JOB_KEYS),
        order=("hour_ms", *_JOB_KEYS),
        sql=_sql(_JOB_KEYS, f"max(gpus) AS gpus, {_sums(*_JOB_SUMS)}", "reserved_slice_ms DESC, slice_ms DESC, "),
    ),
    "unschedulable": SideTable(
        columns=_columns(("since_ms", "slice_ms", "free_slice_ms"), _NODE_KEYS[:-1]),
        order=("hour_ms", *_NODE_KEYS),
        sql=_sql(_NODE_KEYS, _sums("slice_ms", "free_slice_ms"), "free_slice_ms DESC, slice_ms DESC, "),
    ),
    "queues": SideTable(
        columns=_columns(("jobs_max", "wanted_slice_ms"), _QUEUE_KEYS),
        order=("hour_ms", *_QUEUE_KEYS),
        sql=_sql(_QUEUE_KEYS, f"max(jobs_max) AS jobs_max, {_sums('wanted_slice_ms')}", "wanted_slice_ms DESC, "),
    ),
    "clusters": SideTable(
        columns=_columns(_CLUSTER_SUMS, ("cluster",)),
        order=("hour_ms", "cluster"),
        sql=_sql(("cluster",), _sums(*_CLUSTER_SUMS), ""),
    ),
}


def side_records(ledger: Ledger) -> dict[str, list[Record]]:
    """Return a ledger's rows as records of SIDE_TABLES."""
    allotted = ledger.allotted
    return {
        "commerce": [_commerce_record(row) for row in ledger.commerce],
        "allotments": [asdict(row) for row in allotted.allotments],
        "unschedulable": [asdict(row) | {"why": row.why.value} for row in allotted.unschedulable],
        "queues": [asdict(row) for row in allotted.queues],
        "clusters": [asdict(row) for row in allotted.clusters],
    }


def _commerce_record(row: CommerceRow) -> Record:
    record: Record = {
        "hour_ms": row.hour_ms,
        "site": row.site,
        "pool": row.pool,
        "kind": row.kind.value,
        "lease": row.lease,
        "tenant": row.tenant,
        "slice_ms": row.slice_ms,
    }
    record.update({f"low_{state.value}": amount for state, amount in row.low_slice_ms.items()})
    record.update({f"high_{state.value}": amount for state, amount in row.high_slice_ms.items()})
    record.update({f"low_of_{several.value}": amount for several, amount in row.low_of_slice_ms.items()})
    record.update({f"high_of_{several.value}": amount for several, amount in row.high_of_slice_ms.items()})
    return record


# ---------------------------------------------------------------------------------------------- sums


def _amounts(record: Mapping[str, Any], columns: Mapping[str, _Name]) -> dict[_Name, int]:
    return {state: record[name] for name, state in columns.items() if record[name] is not None}


def commerce_sum(record: Mapping[str, Any], names: Names) -> CommerceSum:
    """Return the sum in a record of the query of `commerce`."""
    return CommerceSum(
        site=record["site"],
        pool=record["pool"],
        kind=Commercial(record["kind"]),
        lease=record["lease"],
        tenant=record["tenant"],
        tenant_name=names.get(record["tenant"]),
        slice_ms=record["slice_ms"],
        low_slice_ms=_amounts(record, LOW),
        high_slice_ms=_amounts(record, HIGH),
        low_of_slice_ms=_amounts(record, LOW_OF),
        high_of_slice_ms=_amounts(record, HIGH_OF),
    )


def allotted(record: Mapping[str, Any], names: Names) -> Allotted:
    """Return the sum in a record of the query of `allotments`."""
    return Allotted(
        **record,
        job_name=names.get(record["job"]),
        user_name=names.get(record["user"]),
        account_name=names.get(record["account"]),
    )


def not_schedulable(record: Mapping[str, Any], names: Names) -> NotSchedulable:
    """Return the sum in a record of the query of `unschedulable`."""
    return NotSchedulable(**(dict(record) | {"why": Unschedulable(record["why"])}), by_name=names.get(record["by"]))


def queue_sum(record: Mapping[str, Any]) -> QueueSum:
    """Return the sum in a record of the query of `queues`."""
    return QueueSum(**record)


def cluster_sum(record: Mapping[str, Any]) -> ClusterSum:
    """Return the sum in a record of the query of `clusters`."""
    return ClusterSum(**{name: value for name, value in record.items() if not name.endswith("_hour_ms")})


NAMED: dict[str, tuple[str, ...]] = {
    "commerce": ("tenant",),
    "allotments": ("job", "user", "account"),
    "unschedulable": ("by",),
    "queues": (),
    "clusters": (),
}
"""Columns that hold digests of names."""
