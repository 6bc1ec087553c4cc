# SPDX-License-Identifier: Apache-2.0
"""One file of the ledger, whole: read with the version of its columns, and replaced by rename."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpuledger.errors import StorageError


def read_table(path: Path) -> Any:
    """Return a file's table as it was written; raises StorageError."""
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{path}: cannot be read ({exc}); run: gpuledger ledger rebuild") from exc


def open_table(path: Path) -> Any:
    """Return a file that can be read row group by row group; raises StorageError."""
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{path}: cannot be read ({exc}); run: gpuledger ledger rebuild") from exc


def version_of(file: Any) -> int:
    """Return the version of the columns of a table, a file or a schema; 0 where it says none."""
    schema = getattr(file, "schema_arrow", getattr(file, "schema", file))
    written = (schema.metadata or {}).get(b"gpuledger_schema", b"0").decode("ascii")
    return int(written) if written.isdigit() else 0


def renew_columns(path: Path, schema: Any, added_since: Callable[[int], Mapping[str, Any]]) -> None:
    """Give a file that cannot be made anew the columns of a schema; `added_since` says what is in those it lacks."""
    try:
        written = version_of(pq.read_schema(path))
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{path}: cannot be read ({exc}), nor made anew: restore it from a copy") from exc
    if written == version_of(schema):
        return
    found = read_table(path)
    values = added_since(written)
    for name in [name for name in schema.names if name not in found.column_names]:
        column = pa.array([values.get(name)] * len(found), schema.field(name).type)
        found = found.append_column(name, column)
    found = found.select(schema.names).cast(schema).replace_schema_metadata(schema.metadata)
    replace_file(path, lambda beside: pq.write_table(found, beside, compression="zstd"))


def replace_text(path: Path, text: str) -> None:
    """Put a text in a file's place, as `replace_file` does."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    replace_file(path, write)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Put what `write` writes in a file's place, flushed; raises StorageError, and then the file is as it was."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        _sync(beside)
        beside.replace(path)
        _sync(path.parent)
    except (OSError, pa.ArrowException) as exc:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise StorageError(f"{path}: cannot be written: {reason}") from exc


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
