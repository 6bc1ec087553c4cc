# SPDX-License-Identifier: Apache-2.0
"""`make observe`: a SIMULATED fleet with all that watches it, on this machine, until Ctrl-C or for so many seconds.

Agents and collector are the real programs, before simulated drivers. Prometheus (with the rules and alerts of
deploy/prometheus), VictoriaMetrics and Alertmanager are Debian's; Grafana is started and provisioned where it is
installed. Everything listens on 127.0.0.1 and lives in one directory.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from alertmanager import NoNamespaceError, with_its_templates

from gpuledger.clock import monotonic_ns

ROOT = Path(__file__).resolve().parent.parent
UNPACKED = ROOT / ".tools" / "bin"
RULES = ROOT / "deploy" / "prometheus"
DASHBOARDS = ROOT / "dashboards"
NODES = {
    "sim-node-1": ("sim-east", "training"),
    "sim-node-2": ("sim-east", "serving"),
    "sim-node-3": ("sim-west", "free"),
    "sim-node-4": ("sim-west", "shared"),
}
SCRAPE_S = 5
READY_S = 120
READY = {"Prometheus": "/-/ready", "VictoriaMetrics": "/health"}
STOP_S = 15


@dataclass(slots=True)
class Stage:
    """The programs of one run."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Start a program with its output in a log of its own."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=env
            )

    def broken(self) -> str | None:
        """Return a sentence about a program that ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                return f"{name} ended with exit code {process.returncode}; see {self.folder / name}.log"
        return None

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port(preferred: int) -> int:
    """Return `preferred` if nobody listens there, else any port that is free now."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            number: int = probe.getsockname()[1]
            return number
    raise click.ClickException("no free port on 127.0.0.1")


def find(*names: str) -> str | None:
    """Return the first of the programs that is on PATH or in .tools/bin."""
    return next(
        (path for name in names if (path := shutil.which(name) or shutil.which(name, path=str(UNPACKED)))), None
    )


def answers(url: str) -> bool:
    """Return whether anything but an error comes from an address."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - http on loopback
            return True
    except (OSError, urllib.error.URLError):
        return False


def start_fleet(stage: Stage) -> tuple[dict[str, str], str]:
    """Start agents and collector; return the agents' addresses by node, and the collector's."""
    gpuledger = [sys.executable, "-m", "gpuledger"]
    agents = {}
    lines = []
    for node, (site, scenario) in NODES.items():
        agents[node] = f"127.0.0.1:{free_port(0)}"
        listen = ["--listen", agents[node], "--state-dir", str(stage.folder / node), "--node-name", node]
        stage.start(node, [*gpuledger, "agent", "run", "--simulate", scenario, *listen])
        lines += ["[[group]]", f'site = "{site}"', f'targets = ["http://{agents[node]}"]']
    collector = f"127.0.0.1:{free_port(9401)}"
    head = [
        f'listen = "{collector}"',
        f"state_dir = {json.dumps(str(stage.folder / 'state'))}",
        "accept_simulated = true",
        "poll_interval_seconds = 5",
        "refresh_interval_seconds = 5",
        "settle_grace_seconds = 10",
    ]
    config = stage.folder / "collector.toml"
    config.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    stage.start("collector", [*gpuledger, "collector", "run", "--config", str(config)])
    return agents, collector


def scrape_config(agents: Mapping[str, str], collector: str, *, is_victoria: bool, alertmanager: str | None) -> str:
    """Return the configuration of Prometheus, or the part of it that VictoriaMetrics takes."""
    made: dict[str, object] = {"global": {"scrape_interval": f"{SCRAPE_S}s"}}
    if not is_victoria:
        made["rule_files"] = [str(RULES / "gpuledger.rules.yml"), str(RULES / "gpuledger.alerts.yml")]
    if alertmanager is not None:
        made["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    made["scrape_configs"] = [
        {
            "job_name": "gpuledger-agent",
            "static_configs": [
                {"targets": [address], "labels": {"site": NODES[node][0], "cluster": "sim", "pool": "sim"}}
                for node, address in agents.items()
            ],
        },
        # The collector's series say of which site they are.
        {"job_name": "gpuledger-collector", "honor_labels": True, "static_configs": [{"targets": [collector]}]},
    ]
    return json.dumps(made, indent=2)  # JSON is YAML


def start_alertmanager(stage: Stage) -> str | None:
    """Start Debian's Alertmanager, which tells nobody; return its address."""
    program = find("prometheus-alertmanager", "alertmanager")
    if program is None:
        return None
    try:
        before = with_its_templates()
    except NoNamespaceError:
        return None
    file = stage.folder / "alertmanager.yml"
    file.write_text(json.dumps({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}), encoding="utf-8")
    address = f"127.0.0.1:{free_port(9093)}"
    options = [f"--config.file={file}", f"--storage.path={stage.folder / 'alerts'}", "--cluster.listen-address="]
    stage.start("alertmanager", [*before, program, *options, f"--web.listen-address={address}"])
    return address


def start_engines(stage: Stage, agents: Mapping[str, str], collector: str, alertmanager: str | None) -> dict[str, str]:
    """Start the engines there are; return their addresses by name."""
    found = {}
    if (program := find("prometheus")) is not None:
        file = stage.folder / "prometheus.yml"
        file.write_text(
            scrape_config(agents, collector, is_victoria=False, alertmanager=alertmanager), encoding="utf-8"
        )
        found["Prometheus"] = f"127.0.0.1:{free_port(9090)}"
        options = [f"--config.file={file}", f"--storage.tsdb.path={stage.folder / 'tsdb'}"]
        stage.start("prometheus", [program, *options, f"--web.listen-address={found['Prometheus']}"])
    if (program := find("victoria-metrics")) is not None:
        file = stage.folder / "victoria.yml"
        file.write_text(scrape_config(agents, collector, is_victoria=True, alertmanager=None), encoding="utf-8")
        found["VictoriaMetrics"] = f"127.0.0.1:{free_port(8428)}"
        options = [f"-promscrape.config={file}", f"-storageDataPath={stage.folder / 'victoria'}"]
        options += ["-search.latencyOffset=0s", f"-httpListenAddr={found['VictoriaMetrics']}"]
        stage.start("victoria-metrics", [program, *options])
    return found


def start_grafana(stage: Stage, prometheus: str | None) -> str | None:
    """Start Grafana with data source and dashboards provisioned, where it is installed; return its address."""
    program = find("grafana-server")
    if program is None or prometheus is None:
        return None
    provisioning = stage.folder / "grafana"
    for name in ("dashboards", "datasources"):
        (provisioning / name).mkdir(parents=True)
    text = (DASHBOARDS / "provisioning" / "dashboards.yml").read_text(encoding="utf-8")
    text = text.replace("/var/lib/grafana/dashboards/gpuledger", str(DASHBOARDS))
    (provisioning / "dashboards" / "gpuledger.yml").write_text(text, encoding="utf-8")
    text = (DASHBOARDS / "provisioning" / "datasources.yml").read_text(encoding="utf-8")
    text = text.replace("http://prometheus:9090", f"http://{prometheus}").replace("15s", f"{SCRAPE_S}s")
    (provisioning / "datasources" / "gpuledger.yml").write_text(text, encoding="utf-8")
    address = f"127.0.0.1:{free_port(3000)}"
    settings = {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": address.rpartition(":")[2],
        "GF_PATHS_PROVISIONING": str(provisioning),
        "GF_PATHS_DATA": str(stage.folder / "grafana-data"),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    home = "/usr/share/grafana"
    stage.start("grafana", [program, "--homepath", home], env=settings)
    return address


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """A directory of its own, emptied first, and at the end nothing runs any more."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stage = Stage(folder)
    try:
        yield stage
    finally:
        stage.stop()


def wait(stage: Stage, stop: threading.Event, seconds: float | None) -> None:
    """Wait for `seconds` (None: for good) or until told to stop; raises ClickException where a program ends."""
    end_ns = None if seconds is None else monotonic_ns() + round(seconds * 1e9)
    while not stop.wait(0.5) and (end_ns is None or monotonic_ns() < end_ns):
        if (why := stage.broken()) is not None:
            raise click.ClickException(why)


@click.command()
@click.option("--for", "seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=ROOT / ".run" / "observe")
def main(seconds: float | None, folder: Path) -> None:
    """Show a SIMULATED fleet in everything that watches it."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with staged(folder.resolve()) as stage:
        agents, collector = start_fleet(stage)
        alertmanager = start_alertmanager(stage)
        engines = start_engines(stage, agents, collector, alertmanager)
        grafana = start_grafana(stage, engines.get("Prometheus"))
        shown = {"Page": collector, **engines, "Alertmanager": alertmanager, "Grafana": grafana}
        asked = [(collector, "/healthz"), *((address, READY[name]) for name, address in engines.items())]
        deadline_ns = monotonic_ns() + READY_S * 10**9
        while not all(answers(f"http://{address}{path}") for address, path in asked):
            if (why := stage.broken()) is not None or monotonic_ns() > deadline_ns:
                raise click.ClickException(why or f"not all programs answered within {READY_S} s; see {stage.folder}")
            if stop.wait(0.5):
                return
        click.echo("SIMULATED: nothing here is a measurement. The first cell is settled within six minutes.")
        for name, address in shown.items():
            click.echo(f"{name + ':':16} {'not installed' if address is None else f'http://{address}/'}")
        click.echo(f"{'Dashboards:':16} {DASHBOARDS}/*.json")
        click.echo("Runs until Ctrl-C." if seconds is None else f"Ends by itself in {seconds:g} s.")
        wait(stage, stop, seconds)


if __name__ == "__main__":
    main()
