# SPDX-License-Identifier: Apache-2.0
"""What is shown where nothing is."""

from __future__ import annotations

from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.page.links import Crumb
from gpuledger_collector.page.rendering import page
from gpuledger_collector.published import Published


def not_found(state: Published, asked: Asked, text: str) -> Document:
    """Return the page that says what there is not."""
    crumbs = (Crumb(text="Fleet", url="/"),)
    return page("missing.html.j2", state, asked, title="Not found", crumbs=crumbs, status=404, text=text)
