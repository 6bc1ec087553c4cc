# SPDX-License-Identifier: Apache-2.0
"""README's first command as a user types it: the simulated fleet passes the whole road and says what it is."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.dashboards import ask, chosen_for, queries_of_files
from tests.integration.engines import running_prometheus, wait_until

pytestmark = pytest.mark.slow

READY_SECONDS_MAX = 240
NEEDED = ("gpuledger_agent_info", "gpuledger_fleet_installed_gpus")


@dataclass(frozen=True)
class Running:
    """`gpuledger demo` once it has printed where everything is."""

    process: subprocess.Popen[str]
    directory: Path
    printed: str

    def address(self, name: str) -> str:
        found = re.search(rf"^{name}:\s+(\S+)$", self.printed, re.MULTILINE)
        assert found is not None, self.printed
        return found.group(1)

    def get(self, url: str) -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode("utf-8"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("run")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "gpuledger", "demo", "--dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + READY_SECONDS_MAX
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Runs until") or time.monotonic() > deadline:
            break
    printed = "".join(lines)
    if "Runs until Ctrl-C." not in printed:
        process.kill()
        logs = "".join(path.read_text()[-2000:] for path in directory.rglob("*.log"))
        pytest.fail(f"the simulated fleet did not come up:\n{printed}\n{logs}")
    yield Running(process, directory, printed)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    process.stdout.close()


def test_it_says_simulated_and_where_everything_is(running: Running) -> None:
    assert "SIMULATED" in running.printed
    for name in ("Page", "Fleet metrics", "Agent metrics"):
        assert running.get(running.address(name))


def test_the_page_says_simulated_in_its_title_and_its_body(running: Running) -> None:
    page = running.get(running.address("Page"))
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    assert title is not None
    assert "SIMULATED" in title.group(1)
    assert page.count("SIMULATED") > 1
    assert "sim-node-4" in page


def test_metrics_of_agent_and_fleet_are_marked(running: Running) -> None:
    assert 'simulated="true"' in running.get(running.address("Agent metrics"))
    fleet = running.get(running.address("Fleet metrics"))
    assert re.search(r'gpuledger_collector_info\{[^}]*simulated="true"', fleet)
    assert 'model="SIMULATED' in fleet


def test_the_weekly_report_covers_the_last_week_of_a_fleet_with_a_dark_node_and_a_lost_gpu(running: Running) -> None:
    reports = list((running.directory / "simulated" / "reports").glob("*.json"))
    assert len(reports) == 1
    report = json.loads(reports[0].read_text())
    text = json.dumps(report)
    assert report["simulated"] is True
    assert "sim-node-4" in text  # dark from the middle of the week on
    assert "sim-node-3" in text  # free all week
    for name in ("html", "md", "csv"):
        for path in (running.directory / "simulated" / "reports").glob(f"*.{name}"):
            assert "SIMULATED" in path.read_text(encoding="utf-8-sig")


def test_the_weekly_report_shows_a_simulated_lease_book_and_a_simulated_scheduler(running: Running) -> None:
    (path,) = (running.directory / "simulated" / "reports").glob("*.json")
    report = json.loads(path.read_text())
    given, market = report["given"], report["market"]
    assert {kind["kind"] for kind in given["kinds"]} == {"paid", "internal", "unsold"}
    assert {lease["tenant"] for lease in given["leases"]} == {"SIMULATED customer", "SIMULATED research"}
    assert [(one["node"], one["why"]) for one in market["not_schedulable"]] == [("sim-node-4", "drained")]
    assert "SIMULATED" in market["not_schedulable"][0]["reason"]
    assert [(one["reason"], one["jobs_max"]) for one in market["queues"]] == [("Resources", 1)]
    assert [(one["node"], one["user_name"], one["job_name"], one["gpus"]) for one in market["reserved_jobs"]] == [
        ("sim-node-3", "SIMULATED-ada", "4711", 4)
    ]
    assert market["waiting"][0]["idle_wanted_slice_ms"] > 0
    assert market["bridge"]["closing"] == 32


def test_every_sealed_reading_passes_the_log_check(running: Running) -> None:
    # On a copy: the running collector holds the log.
    source = running.directory / "simulated" / "collector"
    copy = running.directory / "copy"
    subprocess.run(["cp", "-a", str(source), str(copy)], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "gpuledger", "log", "check", "--state-dir", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


SCRAPES = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs:
  - job_name: gpuledger-agent
    static_configs: [ {{ targets: ["{agent}"], labels: {{ site: sim-east }} }} ]
  - job_name: gpuledger-collector
    honor_labels: true
    static_configs: [ {{ targets: ["{collector}"] }} ]
"""


@pytest.mark.prometheus
def test_a_prometheus_that_scrapes_it_answers_every_query_of_every_dashboard(running: Running, tmp_path: Path) -> None:
    """What they answer is held against the truth in tests/integration/test_dashboards.py, with hours of past."""
    agent, collector = (urlsplit(running.address(name)).netloc for name in ("Agent metrics", "Page"))
    queries = queries_of_files(Path(__file__).resolve().parents[2] / "dashboards", chosen_for("sim-node-1", agent))
    with running_prometheus(tmp_path, SCRAPES.format(agent=agent, collector=collector)) as url:
        wait_until(lambda: all(ask(url, f"count_over_time({name}[1h]) > 5") for name in NEEDED), "some scrapes")
        answers = {(query.dashboard, query.panel): ask(url, query.expr) for query in queries}
    nodes = {panel for (dashboard, panel), found in answers.items() if dashboard == "gpuledger-node" and not found}
    # Its one node ticks once in five minutes, so there may be no growth to share yet; nothing else may be missing.
    assert nodes <= {"Idle, of covered time", "States, share of covered time"}
    assert answers["gpuledger-fleet", "Installed GPUs"][0][1] == 32
    assert {found["site"] for found, _ in answers["gpuledger-fleet", "Sites and models"]} == {"sim-east", "sim-west"}
