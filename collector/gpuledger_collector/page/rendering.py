# SPDX-License-Identifier: Apache-2.0
"""Templates to documents, and the two files that pages load: one style sheet, one script.

All text that comes from outside passes through the templates' escaping. The content security policy allows the two
files and nothing else: no style or script inside a page, none from elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gpuledger import __version__
from gpuledger_collector import wording
from gpuledger_collector.documents import FOR_EVER, PRIVATE, Asked, Document
from gpuledger_collector.page import links
from gpuledger_collector.page.links import Crumb
from gpuledger_collector.published import Published
from gpuledger_collector.report.names import cleaned, opened_or_digest, shown

REFRESH_S = 30
_SHORT_CHARACTERS = 24
HTML = "text/html; charset=utf-8"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_FILES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


@cache
def static_file(name: str) -> bytes:
    """Return one of the page's own files."""
    return resources.files("gpuledger_collector.page").joinpath(f"static/{name}").read_bytes()


@cache
def static_url(name: str) -> str:
    """Return where a file of this version is served, for ever."""
    return f"/static/{hashlib.sha256(static_file(name)).hexdigest()[:16]}/{name}"


def static_documents() -> Mapping[str, Document]:
    """Return the files by address."""
    return {
        static_url(name): Document(body=static_file(name), content_type=kind, headers=FOR_EVER)
        for name, kind in _FILES.items()
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gpuledger_collector.page", "templates"),
        autoescape=True,
        finalize=_clean,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "whole": _whole, "short": _short}
    environment.globals |= {
        "links": links,
        "wording": wording,
        "opened_or_digest": opened_or_digest,
        "static_url": static_url,
        "version": __version__,
        "refresh_s": REFRESH_S,
    }
    return environment


def _whole(text: str) -> str:
    """Return hours that break, if they must, before what they are divided by."""
    return text.replace(" – ", "\u00a0–\u00a0").replace("of ", "of\u00a0").replace(" GPU-h", "\u00a0GPU\u2011h")


def _short(name: str) -> str:
    """Return a UUID by its ends: "GPU-51301a7e…e7c3"; what is no longer than that stays as it is."""
    text = shown(name)
    return text if len(text) <= _SHORT_CHARACTERS else f"{text[:12]}…{text[-4:]}"


def _clean(value: object) -> object:
    """Return what may be printed: text without characters that are not meant to be seen, line ends aside."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "\n".join(cleaned(line) for line in value.split("\n"))


def page(
    template: str,
    state: Published,
    asked: Asked,
    *,
    title: str,
    crumbs: Sequence[Crumb] = (),
    status: int = 200,
    **values: object,
) -> Document:
    """Return a page; `title` stands in the window's title, before the mark of the fleet."""
    html = _environment().get_template(template)
    looks = values.pop("looks", None) or wording.looks(state.view.total)
    text = html.render(
        state=state,
        view=state.view,
        asked=asked,
        title=wording.window_title(title, is_simulated=state.view.simulated),
        crumbs=crumbs,
        looks=looks,
        **values,
    )
    headers = {**PRIVATE, "Content-Security-Policy": POLICY}
    return Document(body=text.encode("utf-8", errors="replace"), content_type=HTML, headers=headers, status=status)
