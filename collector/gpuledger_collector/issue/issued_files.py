# SPDX-License-Identifier: Apache-2.0
"""What was issued, on disk: one small JSON file for each report beside the reports, and the lock of who issues.

Each file is replaced whole and fsynced before anything depends on it, so a run that is killed anywhere is taken up by
the next one. Backup is copying the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuledger.errors import GpuledgerError, StorageError
from gpuledger_collector.issue.plan import Delivery, Issued
from gpuledger_collector.report.files import write_files
from gpuledger_collector.report.periods import PeriodKind

RECORDS = "records"
RECORD_BYTES_MAX = 1 << 20
_NAME = re.compile(r"([0-9]{6})\.json")
_LOCK = ".lock"


class AlreadyIssuingError(GpuledgerError):
    """Another run issues reports in the same directory."""

    exit_code = 75


class IssuedFiles:
    """One directory of issued reports, which nothing else writes to, and its records."""

    def __init__(self, reports: Path) -> None:
        self.reports = reports
        self._directory = reports / RECORDS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; raises AlreadyIssuingError where another run has it, StorageError where it cannot be."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise StorageError(f"{self._directory}: cannot be written: {exc.strerror}") from exc
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise AlreadyIssuingError(f"{self._directory}: another run is issuing reports") from exc
            yield
        finally:
            os.close(descriptor)

    def read(self) -> list[Issued]:
        """Return every record in order of number; raises StorageError naming the file that is not one."""
        if not self._directory.is_dir():
            return []
        found = []
        for path in sorted(self._directory.iterdir()):
            named = _NAME.fullmatch(path.name)
            if named is not None:
                record = _decode(path)
                if record.number != int(named[1]):
                    raise StorageError(f"{path}: holds report {record.number}")
                found.append(record)
        numbers = [record.number for record in found]
        if numbers != list(range(1, len(numbers) + 1)):
            raise StorageError(f"{self._directory}: the numbers have a gap: a record was taken away")
        return found

    def write(self, record: Issued) -> None:
        """Write a record, replacing the one of its number."""
        text = json.dumps(_encode(record), indent=1, ensure_ascii=False) + "\n"
        write_files(self._directory, {f"{record.number:06d}.json": text.encode()})

    def attachment(self, record: Issued, name: str) -> bytes | None:
        """Return a file of a report, None where somebody took it away."""
        if name not in record.files:
            return None
        with contextlib.suppress(OSError):
            return (self.reports / name).read_bytes()
        return None


def _encode(record: Issued) -> dict[str, Any]:
    return {
        "number": record.number,
        "kind": record.kind.value,
        "period": record.period,
        "issued_ms": record.issued_ms,
        "digest": record.digest,
        "files": list(record.files),
        "restates": record.restates,
        "covered": record.is_covered,
        "delivered": {name: state.value for name, state in sorted(record.delivered.items())},
    }


def _decode(path: Path) -> Issued:
    try:
        if path.stat().st_size > RECORD_BYTES_MAX:
            raise StorageError(f"{path}: larger than {RECORD_BYTES_MAX} bytes")
        document = json.loads(path.read_bytes())
        restates = document["restates"]
        return Issued(
            number=int(document["number"]),
            kind=PeriodKind(document["kind"]),
            period=str(document["period"]),
            issued_ms=int(document["issued_ms"]),
            digest=str(document["digest"]),
            files=tuple(str(name) for name in document["files"]),
            restates=None if restates is None else int(restates),
            is_covered=bool(document["covered"]),
            delivered={str(name): Delivery(state) for name, state in document["delivered"].items()},
        )
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise StorageError(f"{path}: not a record of an issued report") from exc
