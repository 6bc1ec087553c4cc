# SPDX-License-Identifier: Apache-2.0
"""The shipped alerts, evaluated by a real Prometheus and routed through a real Alertmanager to whom they concern."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from alertmanager import NoNamespaceError, with_its_templates

from tests.integration.engines import exporter, free_port, running, running_prometheus, wait_until
from tests.parts import require_part

pytestmark = [pytest.mark.slow, pytest.mark.prometheus]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
ROUTES = """
route:
  receiver: ledger
  group_by: [alertname]
  group_wait: 0s
  group_interval: 1s
  routes:
    - receiver: pager
      matchers: [severity="critical"]
receivers:
  - name: ledger
    webhook_configs: [{{url: "http://{target}/ledger"}}]
  - name: pager
    webhook_configs: [{{url: "http://{target}/pager"}}]
"""
PROMETHEUS = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}
rule_files: [{rules}]
alerting: {{ alertmanagers: [ {{ static_configs: [ {{ targets: ["{alertmanager}"] }} ] }} ] }}
scrape_configs:
  - job_name: agents
    static_configs: [ {{ targets: ["{target}"], labels: {{ site: fra }} }} ]
"""
XID = 'gpuledger_gpu_xid_errors_total{uuid="GPU-1",xid="79"} 1\n'
STEP = 'gpuledger_agent_sessions_total{{cause="clock_step"}} {steps}\n'


@contextmanager
def receivers() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """HOST:PORT of a server, and what is posted to it as (path, document)."""
    got: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def alertmanager(target: str, folder: Path) -> Iterator[str]:
    program = require_part("prometheus-alertmanager")
    try:
        before = with_its_templates()
    except NoNamespaceError as error:
        pytest.skip(f"no mount namespace for Debian's Alertmanager: {error}")
    file = folder / "alertmanager.yml"
    file.write_text(ROUTES.format(target=target), encoding="utf-8")
    port = free_port()
    command = [
        *before,
        str(program),
        f"--config.file={file}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with running(command, folder / "alertmanager.log", f"http://127.0.0.1:{port}", "/-/ready") as url:
        yield url.removeprefix("http://")


def test_critical_alerts_reach_the_pager_and_the_others_do_not(tmp_path: Path) -> None:
    scrapes = iter(range(10**6))

    def answer() -> str:
        number = next(scrapes)
        # A clock that was set is for the ledger's channel, a GPU that fell off the bus is for the pager.
        return STEP.format(steps=0 if number < 3 else 1) + (XID if number >= 3 else "")

    with receivers() as (target, got), exporter(answer) as agent, alertmanager(target, tmp_path) as address:
        config = PROMETHEUS.format(rules=DEPLOY / "gpuledger.alerts.yml", alertmanager=address, target=agent)
        with running_prometheus(tmp_path, config):
            wanted = {("/pager", "GpuledgerFatalXid"), ("/ledger", "GpuledgerClockStepped")}

            def arrived() -> set[tuple[str, str]]:
                return {(path, alert["labels"]["alertname"]) for path, sent in list(got) for alert in sent["alerts"]}

            wait_until(lambda: wanted <= arrived(), "both alerts")
            assert arrived() == wanted
    (pager,) = [sent for path, sent in got if path == "/pager"][:1]
    (alert,) = pager["alerts"]
    assert alert["labels"]["uuid"] == "GPU-1"
    assert alert["annotations"]["summary"].startswith("Xid 79 on GPU GPU-1 of 127.0.0.1:")
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#gpuledgerfatalxid"
