# SPDX-License-Identifier: Apache-2.0
"""extent.json: the span of cells that the ledger's rows account for, in which columns, and since when they are kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpuledger.errors import StorageError

EXTENT = "extent.json"


class NewerError(StorageError):
    """A newer version wrote what is to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What the file says; `schema` is the version of the columns, times are POSIX milliseconds."""

    schema: int
    start_ms: int
    end_ms: int
    floor_ms: int | None = None
    """Before when no hours are kept, by the policy of retention."""

    def text(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None}) + "\n"


def read_extent(path: Path, schema_max: int) -> Extent | None:
    """Return what the file says; None where there is none. Raises StorageError; a newer version's columns are one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        floor_ms = value.get("floor_ms")
        found = Extent(
            schema=int(value["schema"]),
            start_ms=int(value["start_ms"]),
            end_ms=int(value["end_ms"]),
            floor_ms=None if floor_ms is None else int(floor_ms),
        )
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise StorageError(f"{path}: not an extent; run: gpuledger ledger rebuild") from exc
    if found.schema > schema_max:
        raise NewerError(
            f"{path.parent}: a newer version of gpuledger wrote this ledger (columns {found.schema}, and this one "
            f"knows them up to {schema_max}): run that version"
        )
    return found


def legible_extent(path: Path, schema_max: int) -> Extent | None:
    """Return what the file says; None where it is damaged, too."""
    try:
        return read_extent(path, schema_max)
    except NewerError:
        raise
    except StorageError:
        return None
