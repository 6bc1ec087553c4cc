# SPDX-License-Identifier: Apache-2.0
"""The report as PDF: the HTML report on paper, tagged, with its fonts embedded; the only door to WeasyPrint.

The same report, fonts and version of WeasyPrint give the same bytes: the dates and identifier within are the report's.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

from gpuledger.errors import ConfigurationError
from gpuledger_collector.report.languages import ENGLISH, Language
from gpuledger_collector.report.model import Weekly
from gpuledger_collector.report.periods import iso
from gpuledger_collector.report.to_html import weekly_to_html

_CHINESE = re.compile("[\N{CJK UNIFIED IDEOGRAPH-4E00}-\N{CJK UNIFIED IDEOGRAPH-9FFF}]")
_PREFERRED = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei")
_SECONDS_MAX = 60
_EPOCH = "SOURCE_DATE_EPOCH"


def weekly_to_pdf(report: Weekly, lang: Language = ENGLISH) -> bytes:
    """Return the report as a PDF document.

    Raises ConfigurationError where WeasyPrint or its libraries are not installed, or no font has the characters of a
    report with Chinese in it.
    """
    families = chinese_families()
    fonts = ", ".join([*families, "Noto Sans", "DejaVu Sans", "sans-serif"])
    html = weekly_to_html(report, lang, paper_fonts=fonts)
    if not families and _CHINESE.search(html) is not None:
        raise ConfigurationError(
            "no font with Chinese characters is installed, so there can be no PDF of this report; install one (Debian: "
            "fonts-noto-cjk), or leave pdf out of --format"
        )
    weasyprint = _weasyprint()
    end_ms = report.period.end_ms if report.period.figures_to_ms is None else report.period.figures_to_ms
    html = html.replace("<title>", f'<meta name="dcterms.created" content="{iso(end_ms)}">\n<title>', 1)
    document = weasyprint.HTML(string=html, url_fetcher=_refuse)
    identifier = hashlib.sha256(html.encode("utf-8", "replace")).digest()[:16]
    with _times_of(end_ms):
        return bytes(document.write_pdf(pdf_identifier=identifier, pdf_variant="pdf/ua-1"))


@contextlib.contextmanager
def _times_of(time_ms: int) -> Iterator[None]:
    """Give what writes fonts a fixed time, by the environment's variable for reproducible builds."""
    before = os.environ.get(_EPOCH)
    os.environ[_EPOCH] = str(time_ms // 1000)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_EPOCH]
        else:
            os.environ[_EPOCH] = before


def _refuse(url: str, *_: object, **__: object) -> object:
    """Fetch nothing: a report holds all that it shows."""
    raise ValueError(f"a report fetches nothing, and not {url[:80]}")


@cache
def chinese_families() -> tuple[str, ...]:
    """Return the installed families of fonts that have Chinese characters, as fontconfig knows them, the best first."""
    try:
        done = subprocess.run(
            ["fc-list", ":lang=zh-cn", "--format=%{family[0]}\\n"],
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = sorted({line.strip() for line in done.stdout.splitlines() if line.strip()})
    # A name goes into a style sheet: what is not plain is left out.
    plain = [name for name in found if re.fullmatch(r"[\w .-]+", name)]
    best = [name for name in _PREFERRED if name in plain]
    return tuple(best[:1] or plain[:1])


def _weasyprint() -> Any:
    try:
        import weasyprint  # noqa: PLC0415 - only who wants a PDF needs it
    except ImportError as exc:
        raise ConfigurationError(
            "--format pdf needs WeasyPrint: install gpuledger[report] (pip install 'gpuledger[report]')"
        ) from exc
    except OSError as exc:
        raise ConfigurationError(
            f"--format pdf needs the library Pango (Debian: libpango-1.0-0 libpangoft2-1.0-0): {exc}"
        ) from exc
    # It tells of every rule of a style sheet that is not for paper.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    return weasyprint
