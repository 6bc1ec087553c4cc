# SPDX-License-Identifier: Apache-2.0
"""Learnt idle floors on disk, so that a restart does not have to learn them again before a hang can be suspected.

A small JSON document in the state directory, replaced whole. It is a help and no record: what is damaged, old or cannot
be is left aside, and said in one line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger.reading import GPUS_MAX
from gpuledger_agent.decision import Floors

_log = logging.getLogger(__name__)

FLOORS_FILE = "floors.json"
"""Its name in the state directory."""
VERSION = 1
BYTES_MAX = 1 << 16
AGE_DAYS_MAX = 30
_DAY_MS = 86_400_000
POWER_MW_MIN, POWER_MW_MAX = 1_000, 2_000_000
"""No board idles below 1 W or above 2 kW."""


class FloorsFile:
    """The floors of a node's GPUs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved: dict[str, dict[str, int]] = {}
        self._is_failing = False

    def read(self, now_ms: int) -> dict[str, Floors]:
        """Return the floors by UUID, none where the file is missing or not to be used."""
        try:
            data = self._path.read_bytes()
            self._saved = _decode(data, now_ms)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            _log.warning("floors_ignored", extra={"file": str(self._path), "why": str(exc)})
            return {}
        return {uuid: Floors(powers.get("bare"), powers.get("parked")) for uuid, powers in self._saved.items()}

    def save(self, floors: Mapping[str, Floors], now_ms: int) -> None:
        """Write what is known, if it is not what was written last; a failure is said once until it works again."""
        known = {
            uuid: {kind: round(power_mw) for kind, power_mw in one.known_mw().items()}
            for uuid, one in sorted(floors.items())[:GPUS_MAX]
        }
        known = {uuid: powers for uuid, powers in known.items() if powers}
        if known == self._saved:
            return
        document = json.dumps({"version": VERSION, "saved_ms": now_ms, "idle_mw": known}, sort_keys=True)
        try:
            _replace(self._path, document.encode("ascii"))
        except StorageError as exc:
            if not self._is_failing:
                self._is_failing = True
                _log.warning("floors_not_saved", extra={"why": str(exc)})
            return
        self._is_failing = False
        self._saved = known


def _decode(data: bytes, now_ms: int) -> dict[str, dict[str, int]]:
    """Return power by UUID and kind; raises ValueError saying what is wrong."""
    if len(data) > BYTES_MAX:
        raise ValueError(f"{len(data)} bytes, and at most {BYTES_MAX} are read")
    document = json.loads(data)
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError(f"not of version {VERSION}")
    saved_ms, gpus = document.get("saved_ms"), document.get("idle_mw")
    if type(saved_ms) is not int:
        raise ValueError("saved_ms is not an integer")
    if not -_DAY_MS <= now_ms - saved_ms <= AGE_DAYS_MAX * _DAY_MS:
        raise ValueError(f"saved more than {AGE_DAYS_MAX} days ago, or in the future")
    if not isinstance(gpus, dict) or len(gpus) > GPUS_MAX:
        raise ValueError(f"idle_mw is not an object of at most {GPUS_MAX}")
    for uuid, powers in gpus.items():
        if not isinstance(powers, dict) or not powers.keys() <= {"bare", "parked"}:
            raise ValueError(f"{ascii(uuid)[:80]}: not bare and parked")
        for power_mw in powers.values():
            if type(power_mw) is not int or not POWER_MW_MIN <= power_mw <= POWER_MW_MAX:
                raise ValueError(f"{ascii(uuid)[:80]}: no board idles at {ascii(power_mw)[:80]} mW")
    return gpus


def _replace(path: Path, document: bytes) -> None:
    """Replace the file whole; raises StorageError."""
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_bytes(document)
        draft.replace(path)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be written: {exc.strerror}") from exc
