# SPDX-License-Identifier: Apache-2.0
"""Writes a report's forms to files: all of them or none, never half of one."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import PeriodKind
from gpuledger_collector.report.to_csv import days_to_csv, idle_list_to_csv, states_to_csv
from gpuledger_collector.report.to_html import weekly_to_html
from gpuledger_collector.report.to_json import weekly_to_json
from gpuledger_collector.report.to_markdown import weekly_to_markdown

NAME_CHARACTERS_MAX = 40
"""Of a name from outside in a file's name."""
_FOREIGN = re.compile(r"[^A-Za-z0-9.]+")

FORMATS = ("md", "html", "pdf", "csv", "json")
DEFAULT_FORMATS = ("md", "html", "csv", "json")
"""What is written unless told otherwise: PDF needs the extra `report` and a font."""


def forms(report: Weekly, formats: Sequence[str], lang: Language = ENGLISH) -> dict[str, bytes]:
    """Return each form by file name, in the order of FORMATS; CSV makes three files.

    Raises ConfigurationError where a PDF is asked for and what makes it is not installed.
    """
    stem, tail = stem_of(report), "" if lang.tag == ENGLISH.tag else f".{lang.tag}"
    made: dict[str, bytes] = {}
    if "md" in formats:
        made[f"{stem}{tail}.md"] = weekly_to_markdown(report, lang).encode()
    if "html" in formats:
        made[f"{stem}{tail}.html"] = weekly_to_html(report, lang).encode()
    if "pdf" in formats:
        # Here and not above: only who wants a PDF needs what makes it.
        from gpuledger_collector.report.to_pdf import weekly_to_pdf  # noqa: PLC0415

        made[f"{stem}{tail}.pdf"] = weekly_to_pdf(report, lang)
    if "csv" in formats:
        made[f"{stem}{tail}.csv"] = states_to_csv(report, lang).encode()
        made[f"{stem}-idle{tail}.csv"] = idle_list_to_csv(report, lang).encode()
        made[f"{stem}-days{tail}.csv"] = days_to_csv(report, lang).encode()
    if "json" in formats:
        made[f"{stem}{tail}.json"] = weekly_to_json(report, lang).encode()
    return made


def stem_of(report: Weekly) -> str:
    """Return what the names of a report's files begin with: kind, period, and what an extract is of."""
    kind = "monthly" if report.period.kind is PeriodKind.MONTH else "weekly"
    parts = [kind, report.period.name]
    parts += [f"{item.field}-{_FOREIGN.sub('_', item.value)[:NAME_CHARACTERS_MAX]}" for item in report.scope]
    return "-".join(parts)


def write_files(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files under `directory`, creating it; returns their paths.

    Everything is on disk under other names before anything is renamed, so a full disk leaves the earlier files as
    they were. Raises StorageError naming the path.
    """
    target = directory
    beside: list[tuple[Path, Path]] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            target = directory / name
            beside.append((_write_beside(target, data), target))
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
