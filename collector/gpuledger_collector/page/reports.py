# SPDX-License-Identifier: Apache-2.0
"""Reports to download: the files of one directory that have a report's name, and nothing else of it.

Read from the disk when somebody asks, in one of the threads that answer; a disk that refuses says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gpuledger.errors import StorageError
from gpuledger_collector.documents import PRIVATE, Asked, Document
from gpuledger_collector.page import links
from gpuledger_collector.page.links import Column, Crumb
from gpuledger_collector.page.missing import not_found
from gpuledger_collector.page.rendering import page
from gpuledger_collector.published import Published

FILES_MAX = 2_000
BYTES_MAX = 64 << 20
_NAME = re.compile(r"(weekly|monthly|statement)-([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.(html|md|csv|json|pdf)", re.ASCII)
_PERIOD = re.compile(r"\d{4}-(?:W\d\d|\d\d)")
_KINDS = {
    "html": "text/html; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "pdf": "application/pdf",
}
# A report has its style inside, and pictures; it runs nothing and asks for nothing.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'; sandbox"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFile:
    """One file."""

    name: str
    kind: str
    period: str
    form: str
    bytes: int
    written_ms: int


_COLUMNS: tuple[Column[ReportFile], ...] = (
    Column(name="period", title="Period", key=lambda one: one.period, is_down_first=True),
    Column(name="kind", title="Report", key=lambda one: one.kind),
    Column(name="form", title="Form", key=lambda one: one.form),
    Column(name="size", title="Size", key=lambda one: one.bytes, is_number=True, is_down_first=True),
    Column(name="written", title="Written", key=lambda one: one.written_ms, is_number=True, is_down_first=True),
)


class Reports:
    """The reports of a directory; None: nobody said where they are."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def files(self) -> list[ReportFile]:
        """Return the reports, newest period first; raises StorageError where the directory cannot be read."""
        if self._directory is None:
            return []
        found = []
        try:
            for path in self._directory.iterdir():
                match = _NAME.fullmatch(path.name)
                if match is None or not path.is_file() or path.is_symlink():
                    continue
                status = path.stat()
                written_ms = status.st_mtime_ns // 1_000_000
                kind, stem, form = match.groups()
                named = _PERIOD.search(stem)
                period = stem if named is None else named.group()
                part = stem.replace(period, "", 1).strip("-.")
                found.append(
                    ReportFile(
                        name=path.name,
                        kind=kind,
                        period=period,
                        form=f"{form}, {part}" if part else form,
                        bytes=status.st_size,
                        written_ms=written_ms,
                    )
                )
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StorageError(f"{self._directory}: cannot be read: {exc.strerror}") from exc
        found.sort(key=lambda one: one.name)
        found.sort(key=lambda one: one.period, reverse=True)
        return found[:FILES_MAX]

    def page(self, state: Published, asked: Asked) -> Document:
        """Return the list of them."""
        try:
            files, trouble = self.files(), None
        except StorageError as exc:
            files, trouble = [], str(exc)
        return page(
            "reports.html.j2",
            state,
            asked,
            title="Reports",
            crumbs=(Crumb(text="Fleet", url="/"),),
            files=links.table("/reports", asked, files, _COLUMNS),
            trouble=trouble,
            is_configured=self._directory is not None,
        )

    def file(self, state: Published, asked: Asked) -> Document:
        """Return one of them."""
        name = asked.path["name"]
        match = _NAME.fullmatch(name)
        path = None if match is None or self._directory is None else self._directory / name
        if path is None or not path.is_file() or path.is_symlink():
            return not_found(state, asked, f"There is no report {name!r}.")
        try:
            if path.stat().st_size > BYTES_MAX:
                return not_found(state, asked, f"The report {name!r} is larger than {BYTES_MAX >> 20} MiB.")
            body = path.read_bytes()
        except OSError as exc:
            return not_found(state, asked, f"The report {name!r} cannot be read: {exc.strerror}.")
        form = name.rpartition(".")[2]
        headers = {**PRIVATE, "Content-Security-Policy": _POLICY}
        if form != "html":
            headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return Document(body=body, content_type=_KINDS[form], headers=headers)
