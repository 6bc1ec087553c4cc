# SPDX-License-Identifier: Apache-2.0
"""The report as PDF: read back with Poppler. The text, the fonts within, the same bytes, and what is said without."""

from __future__ import annotations

import builtins
import re
import shutil
import subprocess
import zlib
from functools import cache
from pathlib import Path

import pytest

from gpuledger.errors import ConfigurationError
from gpuledger.states import State
from gpuledger_collector.report import to_pdf
from gpuledger_collector.report.languages import language
from gpuledger_collector.report.periods import week_named
from gpuledger_collector.report.to_pdf import chinese_families, weekly_to_pdf
from gpuledger_collector.report.weekly import build_weekly
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import MONDAY_MS, hour_row

pytest.importorskip("weasyprint", reason="WeasyPrint or Pango is missing", exc_type=(ImportError, OSError))  # type: ignore[arg-type]
pytestmark = pytest.mark.skipif(
    shutil.which("pdftotext") is None or not chinese_families(),
    reason="Poppler or a font with Chinese characters is missing (python tools/parts.py pdf)",
)
HOSTILE = "<b>\u202egnp.exe</b>\x1b[31m"


@cache
def document(tag: str, name: str = "n1") -> bytes:
    rows = [hour_row(MONDAY_MS, name, "GPU-1", {State.FREE: 40, State.BUSY: 20}, site="北京", simulated=True)]
    return weekly_to_pdf(build_weekly(FakeLedger(rows), week_named("2026-W47")), language(tag))


def asked(program: str, data: bytes, path: Path) -> str:
    path.write_bytes(data)
    before, after = {"pdftotext": ([], ["-"]), "pdfinfo": (["-isodates"], [])}.get(program, ([], []))
    done = subprocess.run([program, *before, str(path), *after], capture_output=True, check=True)
    return done.stdout.decode("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["en", "zh-CN"])
def test_every_font_is_embedded_and_cut_to_what_is_used(tag: str, tmp_path: Path) -> None:
    rows = asked("pdffonts", document(tag), tmp_path / "r.pdf").splitlines()[2:]
    assert rows
    for row in rows:
        assert re.search(r" yes yes yes +\d+ +0$", row), row
    assert "CJK" in "".join(rows)


@pytest.mark.slow
@pytest.mark.parametrize(("tag", "sentence"), [("en", "stood idle"), ("zh-CN", "闲置最少")])
def test_the_text_can_be_read_back_in_the_language_it_is_tagged_with(tag: str, sentence: str, tmp_path: Path) -> None:
    text = asked("pdftotext", document(tag), tmp_path / "r.pdf")
    assert sentence in text.replace("\n", " " if tag == "en" else "")
    assert "北京" in text
    assert "SIMULATED" in text
    facts = asked("pdfinfo", document(tag), tmp_path / "r.pdf")
    assert re.search(r"Tagged: +yes", facts)
    streams = [zlib.decompress(data) for data in re.findall(rb"stream\n(.*?)\nendstream", document(tag), re.DOTALL)]
    assert any(f"/Lang ({tag})".encode() in data for data in [*streams, document(tag)])


@pytest.mark.slow
def test_pages_are_numbered(tmp_path: Path) -> None:
    text = asked("pdftotext", document("en"), tmp_path / "r.pdf")
    pages = int(re.findall(r"Pages: +(\d+)", asked("pdfinfo", document("en"), tmp_path / "r.pdf"))[0])
    assert [f"page {number} of {pages}" in text for number in range(1, pages + 1)] == [True] * pages


@pytest.mark.slow
def test_the_same_report_has_the_same_bytes_and_its_own_time(tmp_path: Path) -> None:
    first = document("en")
    document.cache_clear()
    assert document("en") == first
    # The ledger ends an hour into Monday.
    assert "2026-11-16T01:00:00" in asked("pdfinfo", first, tmp_path / "r.pdf")


@pytest.mark.slow
def test_a_hostile_name_is_text_on_paper_too(tmp_path: Path) -> None:
    text = asked("pdftotext", document("en", HOSTILE), tmp_path / "r.pdf")
    assert "<b>" in text
    assert "\u202e" not in text
    assert b"/JavaScript" not in document("en", HOSTILE)


def test_without_a_font_for_it_a_chinese_report_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_pdf, "chinese_families", tuple)
    with pytest.raises(ConfigurationError, match=r"no font with Chinese characters is installed.*fonts-noto-cjk"):
        document.__wrapped__("zh-CN")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(ImportError("no"), r"install gpuledger\[report\]"), (OSError("libpango"), "needs the library Pango")],
)
def test_what_is_not_installed_is_named(error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: object, **named: object) -> object:
        if name == "weasyprint":
            raise error
        return real(name, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=sentence):
        document.__wrapped__("en")
