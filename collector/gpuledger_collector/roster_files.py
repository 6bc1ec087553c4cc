# SPDX-License-Identifier: Apache-2.0
"""The declared roster's files, TOML or CSV: which GPUs stand where, from when to when, and what was declared of them.

Every error is a ConfigurationError that names file, line and field. The formats are described in docs/roster.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_collector.declared_files import Record, line_of, read_csv, tables
from gpuledger_collector.roster import UNKNOWN_PLACE, Entry, WindowKind

GPU_KEYS = ("uuid", "serial", "node", "site", "cluster", "pool", "model", "from", "to")
WINDOW_KEYS = ("kind", "node", "gpu", "from", "to")
SERIAL_PREFIX = "serial:"
"""Identity of a GPU whose UUID nobody gave: this and the board serial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredWindow:
    """A window as the file has it; when it was first seen is the log's knowledge."""

    kind: WindowKind
    start_ms: int
    end_ms: int
    node: str | None = None
    gpu: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the files say. Without entries the fleet is discovered, and only the windows are declared."""

    entries: tuple[Entry, ...]
    windows: tuple[DeclaredWindow, ...] = ()
    files: tuple[Path, ...] = ()


def load_roster(path: Path) -> Declared:
    """Return what the roster file says: CSV if it is named so, else TOML (which may name a CSV file of GPUs)."""
    if path.suffix.lower() == ".csv":
        records = read_csv(path, GPU_KEYS)
        windows: list[Record] = []
        files = [path]
        if not records:
            raise ConfigurationError(f"{path}: lists no GPU")
    else:
        records, windows, files = _read_toml_roster(path)
    entries = _entries(records)
    return Declared(entries=entries, windows=_windows(windows, entries), files=tuple(files))


# ---------------------------------------------------------------------------------------------- files


def _read_toml_roster(path: Path) -> tuple[list[Record], list[Record], list[Path]]:
    document = read_toml(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    files = [path]
    gpus: list[Record] = []
    windows: list[Record] = []
    for key, value in document.items():
        if key == "gpus_csv":
            if not isinstance(value, str):
                raise ConfigurationError(f"{path}:{line_of(lines, key)}: gpus_csv: {value!r} is not a path")
            files.append(path.parent / value)
            gpus += read_csv(files[-1], GPU_KEYS)
        elif key == "gpu":
            gpus += tables(path, lines, key, value)
        elif key == "window":
            windows = tables(path, lines, key, value)
        else:
            where = line_of(lines, key)
            raise ConfigurationError(f"{path}:{where}: {key}: unknown key; legal keys: gpu, gpus_csv, window")
    if not gpus and not windows:
        raise ConfigurationError(f"{path}: lists no GPU and no window")
    return gpus, windows, files


# ---------------------------------------------------------------------------------------------- meaning


def _entries(records: Sequence[Record]) -> tuple[Entry, ...]:
    uuid_of = _pair_serials(records)
    found = [(_entry(record, uuid_of), record) for record in records]
    found.sort(key=lambda pair: (pair[0].gpu, pair[0].from_ms))
    for (before, earlier), (after, later) in itertools.pairwise(found):
        if before.gpu == after.gpu and (before.to_ms is None or before.to_ms > after.from_ms):
            where = f"{earlier.path.name}:{earlier.line}"
            raise later.fail("from", f"{after.gpu} is then still in service at {before.node} ({where})")
    return tuple(entry for entry, _ in found)


def _pair_serials(records: Sequence[Record]) -> dict[str, str]:
    """Return serial -> UUID, where a record has both; each must belong to one other only."""
    uuid_of: dict[str, str] = {}
    serial_of: dict[str, str] = {}
    for record in records:
        record.check_keys(GPU_KEYS)
        uuid, serial = record.text("uuid"), record.text("serial")
        if uuid is None and serial is None:
            raise record.fail("uuid", "neither uuid nor serial is given")
        if uuid is not None and serial is not None:
            if uuid_of.setdefault(serial, uuid) != uuid:
                raise record.fail("serial", f"{serial} is that of {uuid_of[serial]}, too")
            if serial_of.setdefault(uuid, serial) != serial:
                raise record.fail("uuid", f"{uuid} has serial {serial_of[uuid]}, too")
    return uuid_of


def _entry(record: Record, uuid_of: Mapping[str, str]) -> Entry:
    uuid, serial = record.text("uuid"), record.text("serial")
    if uuid is None and serial is not None:
        uuid = uuid_of.get(serial, SERIAL_PREFIX + serial)
    from_ms, to_ms = record.time_ms("from"), record.time_ms("to")
    if from_ms is None:
        raise record.fail("from", "is missing")
    if to_ms is not None and to_ms <= from_ms:
        raise record.fail("to", f"{record.values['to']} is not after from, {record.values['from']}")
    return Entry(
        gpu=str(uuid),
        serial=serial,
        node=record.required("node"),
        site=record.text("site") or UNKNOWN_PLACE,
        cluster=record.text("cluster") or UNKNOWN_PLACE,
        pool=record.text("pool") or UNKNOWN_PLACE,
        model=record.text("model"),
        from_ms=from_ms,
        to_ms=to_ms,
    )


def _windows(records: Sequence[Record], entries: Sequence[Entry]) -> tuple[DeclaredWindow, ...]:
    nodes = {entry.node for entry in entries}
    gpu_of = {entry.gpu: entry.gpu for entry in entries}
    gpu_of |= {entry.serial: entry.gpu for entry in entries if entry.serial is not None}
    found: dict[DeclaredWindow, None] = {}
    for record in records:
        record.check_keys(WINDOW_KEYS)
        kind, node, gpu = record.required("kind"), record.text("node"), record.text("gpu")
        if kind not in {known.value for known in WindowKind}:
            raise record.fail("kind", f"{kind!r} is not one of {', '.join(known.value for known in WindowKind)}")
        if node is None and gpu is None:
            raise record.fail("node", "give node, gpu or both: which GPUs it is about")
        if entries and node is not None and node not in nodes:
            raise record.fail("node", f"{node} has no GPU in this roster")
        if entries and gpu is not None and gpu not in gpu_of:
            raise record.fail("gpu", f"{gpu} is neither the UUID nor the serial of a GPU in this roster")
        start_ms, end_ms = record.time_ms("from"), record.time_ms("to")
        if start_ms is None or end_ms is None:
            raise record.fail("from" if start_ms is None else "to", "is missing")
        if end_ms <= start_ms:
            raise record.fail("to", f"{record.values['to']} is not after from, {record.values['from']}")
        identity = None if gpu is None else gpu_of.get(gpu, gpu)
        found[DeclaredWindow(kind=WindowKind(kind), start_ms=start_ms, end_ms=end_ms, node=node, gpu=identity)] = None
    return tuple(found)
