# SPDX-License-Identifier: Apache-2.0
"""Where each page is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuledger_collector.documents import Asked, Document
from gpuledger_collector.page import fleet_views, list_views, node_views
from gpuledger_collector.page.rendering import static_documents
from gpuledger_collector.page.reports import Reports
from gpuledger_collector.published import Published

Answer = Callable[[Published, Asked], Document]


def routes(reports: Reports | None = None) -> Mapping[str, Answer]:
    """Return what answers each address of the page; without `reports` there are none to download."""
    reports = Reports(None) if reports is None else reports
    return {
        "/": fleet_views.fleet,
        "/sites/{site}": fleet_views.site,
        "/nodes/{node}": node_views.node,
        "/gpus/{gpu}": node_views.gpu,
        "/idle": list_views.idle,
        "/workloads": list_views.workloads,
        "/workloads/{workload}": list_views.workload,
        "/quality": list_views.quality,
        "/reports": reports.page,
        "/reports/{name}": reports.file,
        "/legend": list_views.legend,
        **{url: _always(document) for url, document in static_documents().items()},
    }


def _always(document: Document) -> Answer:
    return lambda state, asked: document
