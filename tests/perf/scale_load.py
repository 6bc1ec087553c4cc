# SPDX-License-Identifier: Apache-2.0
"""Starts what the benchmark of scale runs at once: agents as patterns, the load generator, collectors, Prometheus."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gpuledger.cells import CELL_MS
from tests.abi.build import ROOT
from tests.parts import PACKAGES, find_part
from tests.perf.programs import BenchError, Program, free_port, wait_until_listening
from tests.perf.prometheus import SCRAPE_EVERY_S
from tests.perf.scale_server import COUNT_PATH, address_of

SCENARIOS = ("training", "serving", "free", "tuning")
BEHIND_CELLS = 2
"""Cells that the fleet has behind it when it is first asked."""
SITES = 4


def start_agents(folder: Path, stack: ExitStack) -> list[str]:
    """Start one simulated agent for each scenario, and return their addresses once they have caught up with now."""
    from_s = int(time.time()) // (CELL_MS // 1000) * (CELL_MS // 1000) - BEHIND_CELLS * CELL_MS // 1000
    agents = []
    for scenario in SCENARIOS:
        command = [sys.executable, "-m", "gpuledger", "agent", "run", "--listen", "127.0.0.1:0"]
        command += ["--state-dir", str(folder / scenario), "--node-name", scenario, "--simulate", scenario]
        agent = Program(scenario, [*command, "--simulate-from", str(from_s)], folder / f"{scenario}.log", os.environ)
        stack.callback(agent.end)
        agents.append(agent)
    return [
        "http://127.0.0.1:" + wait_until_listening(agent, r"event=agent_started listen=127\.0\.0\.1:(\d+)")
        for agent in agents
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleets:
    """The load generator: fleets of these sizes in nodes, all on one port."""

    program: Program
    port: int
    sizes: Sequence[int]

    def addresses(self, fleet: int) -> list[str]:
        return [f"{address_of(fleet, node)}:{self.port}" for node in range(self.sizes[fleet])]

    def polls(self, fleet: int) -> int:
        """Return how often nodes of the fleet were polled so far."""
        with urllib.request.urlopen(f"http://{self.addresses(fleet)[0]}{COUNT_PATH}", timeout=60) as answer:
            return int(answer.read())


def start_fleets(folder: Path, sizes: Sequence[int], agents: Sequence[str], stack: ExitStack) -> Fleets:
    command = [sys.executable, "-m", "tests.perf.scale_server", "--nodes", *map(str, sizes), "--agents", *agents]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *map(str, (ROOT / "common", ROOT / "agent"))])}
    program = Program("the load generator", command, folder / "fleets.log", env)
    stack.callback(program.end)
    return Fleets(program=program, port=int(wait_until_listening(program, r"listening on (\d+)")), sizes=sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """A collector that polls one fleet."""

    program: Program
    nodes: int
    state_dir: Path
    url: str

    def readings(self) -> int:
        """Return how many readings its index has."""
        with sqlite3.connect(f"file:{self.state_dir / 'collector.sqlite'}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM reading").fetchone()[0])

    def settled_ms(self) -> int:
        """Return up to where it has counted; 0 before that."""
        with sqlite3.connect(f"file:{self.state_dir / 'collector.sqlite'}?mode=ro", uri=True) as db:
            found = db.execute("SELECT value FROM meta WHERE key = 'settled_ms'").fetchone()
        return 0 if found is None else int(found[0])

    def disk_bytes(self) -> dict[str, int]:
        """Return what log, index and ledger take on disk."""
        log, ledger = self.state_dir / "log", self.state_dir / "ledger"
        index = sum(path.stat().st_size for path in self.state_dir.glob("collector.sqlite*"))
        return {"log": _size_of(log), "index": index, "ledger": _size_of(ledger)}

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.program.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        if found is None:
            raise BenchError("the kernel does not say how much memory the collector takes")
        return int(found[1]) / 1024


def start_collector(folder: Path, fleets: Fleets, fleet: int, stack: ExitStack) -> Collector:
    """Start a collector as it comes: defaults but for its places and for taking in simulated readings."""
    folder.mkdir(parents=True)
    port = free_port()
    lines = [f'listen = "127.0.0.1:{port}"', f'state_dir = "{folder / "state"}"', "accept_simulated = true"]
    addresses = fleets.addresses(fleet)
    for site in range(SITES):
        urls = json.dumps([f"http://{address}" for address in addresses[site::SITES]])
        lines += ["[[group]]", f'site = "site-{site}"', 'cluster = "sim"', 'pool = "sim"', f"targets = {urls}"]
    (folder / "collector.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "gpuledger", "collector", "run", "--config", str(folder / "collector.toml")]
    program = Program("the collector", command, folder / "log", os.environ)
    stack.callback(program.end)
    wait_until_listening(program, r"(event=collector_started)")
    return Collector(
        program=program, nodes=fleets.sizes[fleet], state_dir=folder / "state", url=f"http://127.0.0.1:{port}"
    )


def start_prometheus(folder: Path, fleets: Fleets, fleet: int, stack: ExitStack) -> tuple[Program, str]:
    """Start a real Prometheus that scrapes a fleet's /metrics every 15 s; return it, and its version."""
    command = find_part("prometheus")
    if command is None:
        raise BenchError(f"prometheus is missing: install {PACKAGES['prometheus']}")
    folder.mkdir(parents=True)
    job = {"job_name": "agents", "static_configs": [{"targets": fleets.addresses(fleet)}]}
    value = {"global": {"scrape_interval": f"{SCRAPE_EVERY_S}s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(json.dumps(value), encoding="utf-8")
    options = [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{free_port()}"]
    program = Program(
        "prometheus", [str(command), f"--config.file={folder / 'prometheus.yml'}", *options], folder / "log", os.environ
    )
    stack.callback(program.end)
    wait_until_listening(program, r"(Server is ready)")
    return program, version_of(command)


def version_of(command: Path) -> str:
    said = subprocess.run([str(command), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(?:version |victoria-metrics-)v?(\d[\w.]*)", said.stdout + said.stderr)
    return "of unknown version" if found is None else found[1]


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
