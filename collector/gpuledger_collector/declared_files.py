# SPDX-License-Identifier: Apache-2.0
"""Files that people keep: TOML tables and CSV rows, with the place of each field, so that an error can name it.

Every error is a ConfigurationError that names file, line and field.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from gpuledger.errors import ConfigurationError
from gpuledger.reading import TEXT_CHARACTERS_MAX

CSV_BYTES_MAX = 64 << 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = datetime(2010, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One table or row as written, and where each of its fields stands."""

    path: Path
    line: int | None
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def fail(self, field: str, what: str) -> ConfigurationError:
        line = self.lines.get(field, self.line)
        return ConfigurationError(f"{self.path}:{'' if line is None else f'{line}:'} {field}: {what}")

    def text(self, field: str) -> str | None:
        value = self.values.get(field)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or len(value) > TEXT_CHARACTERS_MAX:
            raise self.fail(field, f"{value!r} is not a text of 1 to {TEXT_CHARACTERS_MAX} characters")
        return value.strip()

    def required(self, field: str) -> str:
        value = self.text(field)
        if value is None:
            raise self.fail(field, "is missing")
        return value

    def time_ms(self, field: str) -> int | None:
        """Return a date (its first moment) or a date and time as POSIX ms; UTC where it has no offset."""
        value = self.values.get(field)
        if value is None:
            return None
        found = value
        if isinstance(value, str):
            try:
                found = datetime.fromisoformat(value.strip())
            except ValueError as exc:
                raise self.fail(field, f"{value!r} is not a date or time like 2026-11-02 or 2026-11-02T08:00Z") from exc
        if isinstance(found, date) and not isinstance(found, datetime):
            found = datetime(found.year, found.month, found.day, tzinfo=UTC)
        if not isinstance(found, datetime):
            raise self.fail(field, f"{value!r} is not a date or time like 2026-11-02 or 2026-11-02T08:00Z")
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        if not _EARLIEST <= found <= _LATEST:
            raise self.fail(field, f"{value} is not between 2010 and 2100")
        return (found - _EPOCH) // timedelta(milliseconds=1)

    def check_keys(self, legal: Sequence[str]) -> None:
        for name in self.values:
            if name not in legal:
                raise self.fail(name, f"unknown key; legal keys: {', '.join(legal)}")


def read_csv(path: Path, legal: Sequence[str]) -> list[Record]:
    """Return the rows of a CSV file whose header has legal columns only; empty rows and those with # are left out."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(data) > CSV_BYTES_MAX:
        raise ConfigurationError(f"{path}: larger than {CSV_BYTES_MAX} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 text (byte {exc.start})") from exc
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    records = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if header is None:
                header = _check_header(cells, path, reader.line_num, legal)
            elif len(cells) != len(header):
                raise ConfigurationError(
                    f"{path}:{reader.line_num}: {len(cells)} cells, and the header has {len(header)}"
                )
            else:
                values = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
                records.append(Record(path=path, line=reader.line_num, values=values, lines={}))
    except csv.Error as exc:
        raise ConfigurationError(f"{path}:{reader.line_num}: not valid CSV: {exc}") from exc
    return records


def _check_header(names: list[str], path: Path, line: int, legal: Sequence[str]) -> list[str]:
    for name in names:
        if name not in legal:
            raise ConfigurationError(f"{path}:{line}: {name}: unknown column; legal columns: {', '.join(legal)}")
        if names.count(name) > 1:
            raise ConfigurationError(f"{path}:{line}: {name}: stands twice in the header")
    return names


def line_of(lines: Sequence[str], key: str) -> int:
    """Return the line where a key of the top level or the first table of that name stands."""
    pattern = re.compile(rf'\s*(\[+\s*"?{re.escape(key)}"?|"?{re.escape(key)}"?\s*[=.])')
    return next((number for number, line in enumerate(lines, start=1) if pattern.match(line)), 1)


def tables(path: Path, lines: Sequence[str], name: str, value: Any) -> list[Record]:
    """Return the tables [[name]]; tomllib keeps no positions, so the lines are looked for in the text."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigurationError(f"{path}:{line_of(lines, name)}: {name}: write each as a table [[{name}]]")
    header = re.compile(rf'\s*\[\[\s*"?{re.escape(name)}"?\s*\]\]')
    key = re.compile(r'\s*"?([A-Za-z0-9_-]+)"?\s*=')
    starts = [number for number, line in enumerate(lines, start=1) if header.match(line)]
    records = []
    for index, item in enumerate(value):
        start = starts[index] if len(starts) == len(value) else None
        found: dict[str, int] = {}
        for number in range(start, len(lines)) if start is not None else ():
            if lines[number].lstrip().startswith("["):
                break
            match = key.match(lines[number])
            if match is not None:
                found.setdefault(match[1], number + 1)
        records.append(Record(path=path, line=start, values=item, lines=found))
    return records


def signature_of(files: Sequence[Path]) -> tuple[object, ...]:
    """Return what changes when one of the files does."""
    found: list[object] = []
    for path in files:
        try:
            status = path.stat()
        except OSError as exc:
            found.append((path, exc.errno))
        else:
            found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)
