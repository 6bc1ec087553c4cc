# SPDX-License-Identifier: Apache-2.0
"""Writes a report's forms to files: all of them or none, never half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.to_csv import idle_list_to_csv, states_to_csv
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.to_markdown import weekly_to_markdown

FORMATS = ("md", "html", "csv", "json")


def forms(report: Weekly, formats: Sequence[str]) -> dict[str, str]:
    """Return text by file name, in the order of FORMATS; CSV makes two files."""
    stem = f"weekly-{report.period.week}"
    made: dict[str, str] = {}
    if "md" in formats:
        made[f"{stem}.md"] = weekly_to_markdown(report)
    if "html" in formats:
        made[f"{stem}.html"] = weekly_to_html(report)
    if "csv" in formats:
        made[f"{stem}.csv"] = states_to_csv(report)
        made[f"{stem}-idle.csv"] = idle_list_to_csv(report)
    if "json" in formats:
        made[f"{stem}.json"] = weekly_to_json(report)
    return made


def write_files(directory: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write the texts under `directory`, creating it; returns their paths.

    Everything is on disk under other names before anything is renamed, so a full disk leaves the earlier files as
    they were. Raises StorageError naming the path.
    """
    target = directory
    beside: list[tuple[Path, Path]] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            target = directory / name
            beside.append((_write_beside(target, text.encode("utf-8")), target))
        for written, target in beside:
            written.replace(target)
        _sync_directory(directory)
    except OSError as exc:
        raise StorageError(f"{target}: cannot write the report: {exc.strerror}") from exc
    finally:
        for written, _ in beside:
            with contextlib.suppress(FileNotFoundError):
                written.unlink()
    return [path for _, path in beside]


def _write_beside(target: Path, data: bytes) -> Path:
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".new")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp lets nobody else read; a report is as readable as the user's other files.
        path.chmod(0o666 & ~_umask())
    except OSError:
        path.unlink()
        raise
    return path


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
