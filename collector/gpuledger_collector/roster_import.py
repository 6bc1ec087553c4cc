# SPDX-License-Identifier: Apache-2.0
"""Roster entries from what a site already has: a CSV of its inventory, or what `nvidia-smi --query-gpu` prints."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuledger.errors import ConfigurationError
from gpuledger_collector.roster_files import GPU_KEYS

ROWS_MAX = 1_000_000
NVIDIA_SMI_NAMES = {"uuid": "uuid", "gpu_uuid": "uuid", "serial": "serial", "gpu_serial": "serial", "name": "model"}
"""Columns of nvidia-smi's CSV, as it heads them, and the keys of a roster that they are."""
_ABSENT = frozenset({"", "[n/a]", "n/a", "[not supported]", "0", "none", "null"})


def import_rows(path: Path, text: str, columns: Mapping[str, str], given: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the rows of a CSV text as a roster's; `columns` maps its headings to keys, `given` fills what it lacks.

    A heading that is a roster's key, or one of nvidia-smi's, needs no mapping; others are left out. Raises
    ConfigurationError, with the line, for a row that names no GPU or for which a node or `from` is missing.
    """
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows: list[dict[str, str]] = []
    keys: list[str | None] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if keys is None:
                keys = [_key_of(cell.strip(), columns) for cell in cells]
                _check_columns(path, reader.line_num, cells, keys, columns)
                continue
            if len(rows) >= ROWS_MAX:
                raise ConfigurationError(f"{path}:{reader.line_num}: more than {ROWS_MAX} rows")
            rows.append(_row(path, reader.line_num, cells, keys, given))
    except csv.Error as exc:
        raise ConfigurationError(f"{path}:{reader.line_num}: not valid CSV: {exc}") from exc
    if not rows:
        raise ConfigurationError(f"{path}: lists no GPU")
    return rows


def _key_of(heading: str, columns: Mapping[str, str]) -> str | None:
    if heading in columns:
        return columns[heading]
    name = heading.lower()
    return name if name in GPU_KEYS else NVIDIA_SMI_NAMES.get(name)


def _check_columns(
    path: Path, line: int, cells: Sequence[str], keys: Sequence[str | None], columns: Mapping[str, str]
) -> None:
    headings = [cell.strip() for cell in cells]
    missing = sorted(set(columns) - set(headings))
    if missing:
        raise ConfigurationError(f"{path}:{line}: there is no column {missing[0]!r}")
    twice = {key for key in keys if key is not None and keys.count(key) > 1}
    if twice:
        raise ConfigurationError(f"{path}:{line}: two columns are the roster's {min(twice)}")
    if "uuid" not in keys and "serial" not in keys:
        raise ConfigurationError(f"{path}:{line}: no column is the roster's uuid or serial; name one with --column")


def _row(
    path: Path, line: int, cells: Sequence[str], keys: Sequence[str | None], given: Mapping[str, str]
) -> dict[str, str]:
    if len(cells) != len(keys):
        raise ConfigurationError(f"{path}:{line}: {len(cells)} cells, and the header has {len(keys)}")
    row = {key: cell.strip() for key, cell in zip(keys, cells, strict=True) if key is not None}
    row = {key: cell for key, cell in row.items() if cell.lower() not in _ABSENT}
    row = {**given, **row}
    if "uuid" not in row and "serial" not in row:
        raise ConfigurationError(f"{path}:{line}: uuid: neither uuid nor serial is given")
    for key, flag in (("node", "--node"), ("from", "--from")):
        if key not in row:
            raise ConfigurationError(f"{path}:{line}: {key}: is missing; give it with {flag}")
    return row
