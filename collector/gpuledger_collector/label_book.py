# SPDX-License-Identifier: Apache-2.0
"""Labels that operators confirm: asked for with a small file each, brought into the log by whoever writes it.

So a label can be given beside a running collector, and is in the record as soon as it counts. A file that was logged
and not removed, after a crash, is logged again and changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger_collector.catalog import Catalog
from gpuledger_collector.classify.identity import LABELS
from gpuledger_collector.entries import LabelEntry
from gpuledger_collector.workload_book import WorkloadBook

DIRECTORY = "labels"
"""Where what was asked for lies, below the state directory."""
ID_CHARACTERS_MAX = 512
REQUESTS_MAX = 1_000
"""Taken in at once."""
REQUEST_BYTES_MAX = 4_096

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A label that somebody asked for; without a kind it is to be taken away."""

    path: Path
    workload: str
    kind: str | None


class LabelBook:
    """Brings labels into the log."""

    def __init__(self, catalog: Catalog, workloads: WorkloadBook, state_dir: Path) -> None:
        self._catalog = catalog
        self._workloads = workloads
        self._directory = state_dir / DIRECTORY

    def sync(self, now_ms: int) -> int:
        """Log what was asked for since and weigh it; return how many labels that were. Raises StorageError."""
        asked = list(self._requests())
        if not asked:
            return 0
        entries = [LabelEntry(workload=one.workload, kind=one.kind, at_ms=now_ms) for one in asked]
        self._catalog.commit(entries, now_ms=now_ms)
        self._workloads.weigh()
        for one in asked:
            _remove(one.path)
        logger.info("labels_logged", extra={"labels": len(asked)})
        return len(asked)

    def _requests(self) -> Iterator[Request]:
        try:
            paths = sorted(self._directory.glob("*.json"))[:REQUESTS_MAX]
        except OSError as exc:
            raise StorageError(f"{self._directory}: cannot be read: {exc.strerror}") from exc
        for path in paths:
            found = _read(path)
            if found is None:
                logger.warning("label_illegible", extra={"file": str(path)})
                _remove(path)
            else:
                yield found


def ask(state_dir: Path, workload: str, kind: str | None, now_ns: int) -> Path:
    """Leave a request for a label, or to take one away; raises StorageError."""
    directory = state_dir / DIRECTORY
    path = directory / f"{now_ns:020}.json"
    text = json.dumps({"workload": workload, "kind": kind})
    try:
        directory.mkdir(mode=0o750, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be written: {exc.strerror}") from exc
    return path


def _read(path: Path) -> Request | None:
    try:
        data = path.read_bytes()
        value = json.loads(data[:REQUEST_BYTES_MAX])
        workload, kind = value["workload"], value["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(workload, str) or not 0 < len(workload) <= ID_CHARACTERS_MAX or kind not in (None, *LABELS):
        return None
    return Request(path=path, workload=workload, kind=kind)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be removed: {exc.strerror}") from exc
