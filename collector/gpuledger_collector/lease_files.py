# SPDX-License-Identifier: Apache-2.0
"""The lease book's file, TOML or CSV: who leases what, from when to when, and at which price.

Every error is a ConfigurationError that names file, line and field. The formats are described in docs/leases.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.declared_files import Record, line_of, read_csv, tables
from gpuledger_collector.leases import LEASE_KINDS, Lease, LeaseBook
from gpuledger_collector.roster import Entry

LEASE_KEYS = ("id", "tenant", "kind", "gpus", "nodes", "pool", "site", "count", "signed", "from", "to", "price")
BOOK_KEYS = ("from",)
NAMES_MAX = 4096
"""GPUs, or nodes, of one lease."""
COUNT_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredBook:
    """What the file says; `files` are all that were read for it."""

    book: LeaseBook
    files: tuple[Path, ...]


def load_leases(path: Path, entries: Sequence[Entry] = ()) -> DeclaredBook:
    """Return what the lease book says; with roster entries, that every GPU, node and pool is one of theirs is checked.

    CSV if it is named so, else TOML, which may name a CSV file of leases. Lists in CSV are separated by spaces.
    """
    from_record, records, files = _read(path)
    place = _Places(entries)
    leases: dict[str, tuple[Lease, Record]] = {}
    for record in records:
        lease = _lease(record, place)
        if lease.name in leases:
            where = f"{leases[lease.name][1].path.name}:{leases[lease.name][1].line}"
            raise record.fail("id", f"{lease.name} stands twice ({where})")
        leases[lease.name] = (lease, record)
    found = [lease for lease, _ in leases.values()]
    _check_pools(list(leases.values()))
    from_ms = None if from_record is None else from_record.time_ms("from")
    if from_ms is None:
        from_ms = min(lease.from_ms if lease.signed_ms is None else lease.signed_ms for lease in found)
    return DeclaredBook(book=LeaseBook(found, from_ms), files=tuple(files))


def _read(path: Path) -> tuple[Record | None, list[Record], list[Path]]:
    if path.suffix.lower() == ".csv":
        records = read_csv(path, LEASE_KEYS)
        if not records:
            raise ConfigurationError(f"{path}: lists no lease")
        return None, records, [path]
    document = read_toml(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    files, records, book = [path], [], None
    for key, value in document.items():
        if key == "leases_csv":
            if not isinstance(value, str):
                raise ConfigurationError(f"{path}:{line_of(lines, key)}: leases_csv: {value!r} is not a path")
            files.append(path.parent / value)
            records += read_csv(files[-1], LEASE_KEYS)
        elif key == "lease":
            records += tables(path, lines, key, value)
        elif key == "book":
            if not isinstance(value, dict):
                raise ConfigurationError(f"{path}:{line_of(lines, key)}: book: write it as a table [book]")
            book = Record(path=path, line=line_of(lines, key), values=value, lines={})
            book.check_keys(BOOK_KEYS)
        else:
            where = line_of(lines, key)
            raise ConfigurationError(f"{path}:{where}: {key}: unknown key; legal keys: book, lease, leases_csv")
    if not records and (book is None or "from" not in book.values):
        raise ConfigurationError(f"{path}: lists no lease, and [book] does not say from when on nothing is leased")
    return book, records, files


class _Places:
    """What the roster knows: GPUs by UUID and serial, nodes, pools. Without entries everything is taken as it is."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._is_known = bool(entries)
        self._gpu_of = {entry.gpu: entry.gpu for entry in entries}
        self._gpu_of |= {entry.serial: entry.gpu for entry in entries if entry.serial is not None}
        self._nodes = {entry.node for entry in entries}
        self._pools = {(entry.pool, site) for entry in entries for site in (entry.site, None)}

    def gpus(self, record: Record) -> tuple[str, ...]:
        found = []
        for name in _names(record, "gpus"):
            if self._is_known and name not in self._gpu_of:
                raise record.fail("gpus", f"{name} is neither the UUID nor the serial of a GPU in the roster")
            found.append(self._gpu_of.get(name, name))
        return tuple(sorted(set(found)))

    def nodes(self, record: Record) -> tuple[str, ...]:
        found = _names(record, "nodes")
        for name in found:
            if self._is_known and name not in self._nodes:
                raise record.fail("nodes", f"{name} has no GPU in the roster")
        return tuple(sorted(set(found)))

    def pool(self, record: Record) -> tuple[str | None, str | None]:
        pool, site = record.text("pool"), record.text("site")
        if self._is_known and pool is not None and (pool, site) not in self._pools:
            raise record.fail("pool", f"no GPU of the roster is in pool {pool}{'' if site is None else f' at {site}'}")
        return pool, site


def _names(record: Record, field: str) -> list[str]:
    value = record.values.get(field, [])
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > NAMES_MAX or not all(isinstance(name, str) for name in names):
        raise record.fail(field, f"is not a list of at most {NAMES_MAX} names")
    stripped = [name.strip() for name in names]
    if field in record.values and not all(stripped):
        raise record.fail(field, "has an empty name")
    return stripped


def _lease(record: Record, place: _Places) -> Lease:
    record.check_keys(LEASE_KEYS)
    name, tenant, kind = record.required("id"), record.required("tenant"), record.required("kind")
    kinds = {known.value: known for known in LEASE_KINDS}
    if kind not in kinds:
        raise record.fail("kind", f"{kind!r} is not one of {', '.join(sorted(kinds))}")
    gpus, nodes, (pool, site) = place.gpus(record), place.nodes(record), place.pool(record)
    count = _count(record)
    if not gpus and not nodes and pool is None:
        raise record.fail("gpus", "give gpus, nodes, or pool and count: what is leased")
    if pool is not None and (gpus or nodes):
        raise record.fail("pool", "a lease is of named GPUs and nodes, or of a number of a pool, not of both")
    if (pool is None) is not (count is None):
        raise record.fail("count" if count is None else "pool", "pool and count belong together")
    if site is not None and pool is None:
        raise record.fail("site", "only says where a pool is")
    from_ms, to_ms, signed_ms = record.time_ms("from"), record.time_ms("to"), record.time_ms("signed")
    if from_ms is None:
        raise record.fail("from", "is missing")
    if to_ms is not None and to_ms <= from_ms:
        raise record.fail("to", f"{record.values['to']} is not after from, {record.values['from']}")
    if signed_ms is not None and signed_ms > from_ms:
        raise record.fail("signed", f"{record.values['signed']} is after from, {record.values['from']}")
    return Lease(
        name=name,
        tenant=tenant,
        kind=kinds[kind],
        from_ms=from_ms,
        to_ms=to_ms,
        signed_ms=signed_ms,
        gpus=gpus,
        nodes=nodes,
        pool=pool,
        site=site,
        count=count,
        price=record.text("price"),
    )


def _check_pools(leases: Sequence[tuple[Lease, Record]]) -> None:
    """A pool is leased by site or as a whole: of a mixture nobody could say what a site's GPUs were."""
    first: dict[str, tuple[Lease, Record]] = {}
    for lease, record in leases:
        if lease.pool is None:
            continue
        other, elsewhere = first.setdefault(lease.pool, (lease, record))
        if (other.site is None) is not (lease.site is None):
            where = f"{elsewhere.path.name}:{elsewhere.line}"
            raise record.fail("pool", f"{lease.pool} is leased by site and as a whole ({where}); choose one")


def _count(record: Record) -> int | None:
    value: Any = record.values.get("count")
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 7:
        value = int(value)
    if type(value) is not int or not 1 <= value <= COUNT_MAX:
        raise record.fail("count", f"{value!r} is not a number from 1 to {COUNT_MAX}")
    return int(value)
