# SPDX-License-Identifier: Apache-2.0
"""Tables of a declared file: their fields, and where each stands, so that what is wrong is named by file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from gpuledger.errors import ConfigurationError
from gpuledger.reading import TEXT_CHARACTERS_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = datetime(2010, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One table or line as written, and where each of its fields stands."""

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
