# SPDX-License-Identifier: Apache-2.0
"""Proves that every import contract bites: breaks each one on purpose, in a copy of the tree, and sees it caught.

A contract without a break, and a break of no contract, are failures too. Usage: python tools/break_contracts.py
"""

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"gpuledger": "common", "gpuledger_agent": "agent", "gpuledger_collector": "collector"}
# What breaks which contract: the module that gets a line, and the line. A module that does not exist is made.
BREAKS = {
    "packages": [
        ("gpuledger.states", "import gpuledger_agent"),
        ("gpuledger_agent.meter", "import gpuledger_collector"),
        ("gpuledger_collector.fleet", "import gpuledger_agent"),
    ],
    "light-node": [
        ("gpuledger.settings", "import jinja2"),
        ("gpuledger_agent.http", "import aiohttp"),
        ("gpuledger_agent.journal", "import pyarrow.parquet"),
    ],
    "door-nvml": [("gpuledger_agent.devices", "import pynvml"), ("gpuledger_agent.simulate", "import pynvml")],
    "door-processes": [("gpuledger_agent.holders", "import psutil")],
    "door-ledger": [("gpuledger_collector.fleet", "import duckdb"), ("gpuledger_collector.log", "import pyarrow")],
    "door-store": [("gpuledger_collector.roster", "import sqlite3")],
    "door-web": [("gpuledger_collector.fleet", "from aiohttp import web")],
    "door-yaml": [
        ("gpuledger_collector.roster_files", "import yaml"),
        ("gpuledger_agent.config", "from yaml import safe_load"),
    ],
    "door-pdf": [("gpuledger_collector.report.to_html", "import weasyprint")],
    "door-schedule": [("gpuledger_collector.demo", "from apscheduler.schedulers import asyncio")],
    "door-chat": [
        ("gpuledger_collector.issue.sending", "import apprise"),
        ("gpuledger_collector.issue.message", "import smtplib"),
    ],
    "door-grpc": [("gpuledger_agent.pod_poll", "import grpc")],
    "door-keys": [("gpuledger_agent.sealer", "from cryptography.hazmat.primitives import hashes")],
    "door-metrics": [("gpuledger_collector.poll", "from prometheus_client.core import GaugeMetricFamily")],
    "door-clock": [("gpuledger_agent.loop", "from time import monotonic")],
    "layers-core": [("gpuledger.states", "import gpuledger.cli"), ("gpuledger.unplaced", "")],
    "layers-agent": [
        ("gpuledger_agent.nvml", "import gpuledger_agent.loop"),
        ("gpuledger_agent.journal", "import gpuledger_agent.meter"),
        ("gpuledger_agent.pod_poll", "import gpuledger_agent.pod_resources_client"),
        ("gpuledger_agent.unplaced", ""),
    ],
    "layers-collector": [
        ("gpuledger_collector.log", "import gpuledger_collector.http"),
        ("gpuledger_collector.unplaced", ""),
    ],
    "pure": [
        ("gpuledger.states", "import logging"),
        ("gpuledger.accounting", "from pathlib import Path"),
        ("gpuledger_agent.meter", "import gpuledger.clock"),
        ("gpuledger_collector.ledger", "import socket"),
    ],
}


def main() -> int:
    """Break all there is to break; returns the exit status."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / ".importlinter", encoding="utf-8")
    prefix = "importlinter:contract:"
    contracts = {section.removeprefix(prefix) for section in settings.sections() if section.startswith(prefix)}
    problems = [f"{contract}: no break is written for it" for contract in sorted(contracts - BREAKS.keys())]
    problems += [f"{contract}: no such contract is in .importlinter" for contract in sorted(BREAKS.keys() - contracts)]
    for contract in sorted(contracts & BREAKS.keys()):
        for module, line in BREAKS[contract]:
            caught = _is_caught(contract, module, line)
            what = f"{contract}: `{line}` in {module}" if line else f"{contract}: a new module {module}"
            print(f"{what}: {'caught' if caught else 'NOT CAUGHT'}")
            if not caught:
                problems.append(f"{what} went unnoticed")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _is_caught(contract: str, module: str, line: str) -> bool:
    """Whether the contract alone reports the line as a break."""
    with tempfile.TemporaryDirectory(prefix="gpuledger-") as folder:
        copy = Path(folder)
        shutil.copy(ROOT / ".importlinter", copy)
        for name in FOLDERS.values():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        _add_line(copy, module, line)
        # The importing side of a break may need its target to exist.
        imported = line.split()[1] if line else ""
        if imported.split(".")[0] in FOLDERS and imported not in FOLDERS:
            _add_line(copy, imported, "")
        environment = {**os.environ, "PYTHONPATH": ":".join(str(copy / name) for name in FOLDERS.values())}
        done = subprocess.run(
            [Path(sys.executable).parent / "lint-imports", "--no-cache", "--contract", contract],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    return done.returncode == 1 and "1 broken" in done.stdout


def _add_line(copy: Path, module: str, line: str) -> None:
    path = copy / FOLDERS[module.split(".", maxsplit=1)[0]] / Path(*module.split("."))
    package = path / "__init__.py"
    file = package if package.exists() else path.with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    for parent in file.relative_to(copy).parents[:-2]:
        (copy / parent / "__init__.py").touch()
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")


if __name__ == "__main__":
    raise SystemExit(main())
