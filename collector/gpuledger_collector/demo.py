# SPDX-License-Identifier: Apache-2.0
"""`gpuledger run`: agent and collector on this machine, or a SIMULATED fleet where there is no NVIDIA driver.

Everything is the real program in processes of its own, as it would run on a site: agents, a collector that polls them,
and the report command. In the simulated fleet only the clock and the NVML answers are made up, and all of it says so.
"""

from __future__ import annotations

import json
import os
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
from typing import Any

import click

from gpuledger.cells import DAY_MS, floor_to
from gpuledger.clock import Clock, SystemClock
from gpuledger.errors import GpuledgerError
from gpuledger_collector.config import load
from gpuledger_collector.demo_given import play_scheduler, write_given

COLLECTOR_PORT = 9401
AGENT_PORT = 9400
SIMULATED_INTERVAL_S = 300
"""One cell: as coarse as it may be, so that weeks pass in seconds; sealed and printed as what it is."""
SIMULATED_NICENESS = 10
PAST_WEEKS = 2
_ENVIRONMENT = {"GPULEDGER_AGENT_JOURNAL_DAYS": "60"}
"""A node that lives through weeks in seconds must not drop what the collector could not have fetched yet."""
READY_SECONDS_MAX = 300
_WEEK_MS = 7 * DAY_MS
_MONDAY_MS = 4 * DAY_MS
"""1970-01-05, the first Monday of POSIX time."""
_REQUEST_SECONDS_MAX = 5
_STOP_SECONDS_MAX = 15
_POLL_NS = 250_000_000


@dataclass(frozen=True, slots=True)
class _SimulatedNode:
    """One node of the simulated fleet; `dies_days_ago` counts back from the start of this week."""

    name: str
    site: str
    scenario: str
    dies_days_ago: int | None = None


FLEET = (
    _SimulatedNode("sim-node-1", "sim-east", "training"),
    _SimulatedNode("sim-node-2", "sim-east", "serving"),
    _SimulatedNode("sim-node-3", "sim-west", "free"),
    _SimulatedNode("sim-node-4", "sim-west", "tuning", dies_days_ago=3),
)
"""Training; inference, held-idle and a lost GPU; a free node; one that goes dark in the last complete week."""


@dataclass(slots=True)
class _Programs:
    """The processes of one run, their logs, and how they are ended."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, arguments: Sequence[str], *, niceness: int = 0) -> None:
        """Start `gpuledger ARGUMENTS` with its output in a log file of its own."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "gpuledger", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C reaches this process alone, which then ends the others in order.
                start_new_session=True,
                env=os.environ | _ENVIRONMENT,
            )
        if niceness > 0:
            os.setpriority(os.PRIO_PROCESS, self.running[name].pid, niceness)

    def check(self) -> None:
        """Raise GpuledgerError if a program ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                path = self.logs / f"{name}.log"
                lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                last = lines[-1] if lines else "it wrote nothing"
                raise GpuledgerError(f"{name} ended with exit code {process.returncode}; last line of {path}: {last}")

    def kill(self, name: str) -> None:
        """End a program as a power cut would."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End every program, the collector first, and wait until they have sealed what they hold."""
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()


@contextmanager
def _programs(directory: Path) -> Iterator[_Programs]:
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    programs = _Programs(logs=logs)
    try:
        yield programs
    finally:
        programs.stop()


def _free_port(preferred: int) -> int:
    """Return `preferred` if nobody listens there, else a port that is free at this moment."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            number: int = probe.getsockname()[1]
            return number
    raise GpuledgerError("no free port on 127.0.0.1")


def _get_json(url: str) -> dict[str, Any] | None:
    """Return the JSON object at one of our own addresses, or None while nobody answers there."""
    try:
        with urllib.request.urlopen(url, timeout=_REQUEST_SECONDS_MAX) as answer:  # noqa: S310 - http on loopback
            document: dict[str, Any] = json.load(answer)
            return document
    except (OSError, ValueError, urllib.error.URLError):
        return None


def _write_collector_config(
    path: Path, groups: Mapping[str, Sequence[str]], port: int, *, simulated: bool, given: str = ""
) -> None:
    lines = [
        f'listen = "127.0.0.1:{port}"',
        f"state_dir = {json.dumps(str(path.parent / 'collector'))}",
        f"reports_dir = {json.dumps(str(path.parent / 'reports'))}",
        f"accept_simulated = {'true' if simulated else 'false'}",
        "poll_interval_seconds = 2",
        "refresh_interval_seconds = 2",
    ]
    if given:
        lines += [f"leases = {json.dumps(str(path.parent / 'leases.toml'))}", "", given]
    for site, urls in groups.items():
        lines += ["", "[[group]]", f'site = "{site}"', f"targets = {json.dumps(list(urls))}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class _Waiter:
    """Waits for conditions on the real clock, ending early when the user wants to stop."""

    def __init__(self, clock: Clock, stop: threading.Event) -> None:
        self._clock = clock
        self._stop = stop

    def now_ms(self) -> int:
        return self._clock.wall_ns() // 1_000_000

    def turns(self, seconds_max: float, what: str) -> Iterator[None]:
        """Yield a few times a second; raises GpuledgerError after `seconds_max`, ends when asked to stop."""
        end_ns = self._clock.boottime_ns() + round(seconds_max * 1e9)
        while not self._stop.is_set():
            yield
            if self._clock.boottime_ns() > end_ns:
                raise GpuledgerError(f"{what} took longer than {seconds_max:.0f} s; see the logs")
            self._clock.wait_until(self._clock.boottime_ns() + _POLL_NS, self._stop)

    def sleep(self, seconds: float | None, programs: _Programs) -> None:
        """Wait for `seconds` (None: for good), watching that the programs live."""
        end_ns = None if seconds is None else self._clock.boottime_ns() + round(seconds * 1e9)
        while end_ns is None or self._clock.boottime_ns() < end_ns:
            programs.check()
            next_ns = self._clock.boottime_ns() + 1_000_000_000
            if self._clock.wait_until(next_ns if end_ns is None else min(next_ns, end_ns), self._stop):
                return


def _sealed_ms(collector_url: str) -> dict[str, int]:
    """Return the end of the newest accepted reading of each node, as the collector tells."""
    found = _get_json(f"{collector_url}/api/v1/nodes") or {}
    nodes: list[dict[str, Any]] = found.get("items", [])
    return {node["node"]: node["sealed_ms"] for node in nodes if node.get("sealed_ms") is not None}


def _ledger_end_ms(collector_url: str) -> int:
    fleet = _get_json(f"{collector_url}/api/v1/fleet") or {}
    end_ms = (fleet.get("period") or {}).get("end_ms")
    return end_ms if isinstance(end_ms, int) else 0


def _settled_ms(collector_url: str) -> int:
    """Return the end of the last settled cell: the collector settles none before what agents kept is accounted for."""
    fleet = _get_json(f"{collector_url}/api/v1/fleet") or {}
    end_ms = (fleet.get("settled_cell") or {}).get("end_ms")
    return end_ms if isinstance(end_ms, int) else 0


def _report(config: Path, out: Path, week: str | None = None) -> str:
    """Run the report command as cron would; return what it printed."""
    command = [sys.executable, "-m", "gpuledger", "report", "weekly", "--config", str(config), "--out", str(out)]
    if week is not None:
        command += ["--week", week]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GpuledgerError(f"the weekly report failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _play(directory: Path, seconds: float | None, waiter: _Waiter) -> None:
    """Play the simulated fleet: the past through the real road, then the present until asked to stop."""
    root = directory / "simulated"
    shutil.rmtree(root, ignore_errors=True)
    began_ms = waiter.now_ms()
    week_ms = floor_to(began_ms - _MONDAY_MS, _WEEK_MS) + _MONDAY_MS
    from_s = (week_ms - PAST_WEEKS * _WEEK_MS) // 1000
    with _programs(root) as programs:
        groups: dict[str, list[str]] = {}
        agents: dict[str, str] = {}
        ends_ms: dict[str, int] = {}
        for node in FLEET:
            port = _free_port(0)
            url = agents[node.name] = f"http://127.0.0.1:{port}"
            groups.setdefault(node.site, []).append(url)
            arguments = ["agent", "run", "--simulate", node.scenario, "--simulate-from", str(from_s)]
            if node.dies_days_ago is not None:
                ends_ms[node.name] = week_ms - node.dies_days_ago * DAY_MS
                arguments += ["--simulate-until", str(ends_ms[node.name] // 1000)]
            arguments += ["--interval", str(SIMULATED_INTERVAL_S), "--node-name", node.name]
            # The collector has the longest way to go: the nodes, of which there are more than cores, let it pass.
            programs.start(
                node.name,
                [*arguments, "--listen", f"127.0.0.1:{port}", "--state-dir", str(root / node.name)],
                niceness=SIMULATED_NICENESS,
            )
        collector_port = _free_port(COLLECTOR_PORT)
        collector_url = f"http://127.0.0.1:{collector_port}"
        config = root / "collector.toml"
        names = [node.name for node in FLEET]
        given = write_given(root, names, from_s * 1000)
        _write_collector_config(config, groups, collector_port, simulated=True, given=given)
        play_scheduler(load(config, {}, {}).value, names, week_ms - _WEEK_MS, began_ms)
        programs.start("collector", ["collector", "run", "--config", str(config)])
        click.echo(f"SIMULATED: playing {PAST_WEEKS} past weeks and this one for {len(FLEET)} nodes x 8 H100 ...")
        slack_ms = 3 * SIMULATED_INTERVAL_S * 1000 + 300_000
        for _ in waiter.turns(READY_SECONDS_MAX, "playing the past"):
            programs.check()
            sealed_ms = _sealed_ms(collector_url)
            for name, end_ms in ends_ms.items():
                # Time stands still for it at its end, and its last cell stays open: all it sealed has been fetched.
                if name in programs.running and sealed_ms.get(name, 0) >= end_ms - SIMULATED_INTERVAL_S * 1000:
                    programs.kill(name)
            if _settled_ms(collector_url) >= waiter.now_ms() - slack_ms:
                break
        else:
            return
        printed = _report(config, root / "reports")
        took_s = (waiter.now_ms() - began_ms) / 1000
        click.echo(f"SIMULATED: the past took {took_s:.0f} s. All figures below are SIMULATED.")
        _tell(collector_url, next(iter(agents.values())), printed, seconds)
        waiter.sleep(seconds, programs)


def _meter(directory: Path, seconds: float | None, waiter: _Waiter) -> None:
    """Run the real agent and a collector on this machine."""
    root = directory / "real"
    with _programs(root) as programs:
        port = _free_port(AGENT_PORT)
        agent_url = f"http://127.0.0.1:{port}"
        programs.start("agent", ["agent", "run", "--listen", f"127.0.0.1:{port}", "--state-dir", str(root / "agent")])
        collector_port = _free_port(COLLECTOR_PORT)
        collector_url = f"http://127.0.0.1:{collector_port}"
        config = root / "collector.toml"
        _write_collector_config(config, {"here": [agent_url]}, collector_port, simulated=False)
        programs.start("collector", ["collector", "run", "--config", str(config)])
        for _ in waiter.turns(READY_SECONDS_MAX, "starting"):
            programs.check()
            if _get_json(f"{collector_url}/api/v1/fleet") is not None:
                break
        else:
            return
        if _ledger_end_ms(collector_url) > 0:
            printed = _report(config, root / "reports")
        else:
            printed = f"there once the first cell of five minutes is sealed: gpuledger report weekly --config {config}"
        _tell(collector_url, agent_url, printed, seconds)
        waiter.sleep(seconds, programs)


def _tell(collector_url: str, agent_url: str, report: str, seconds: float | None) -> None:
    click.echo(f"Page:           {collector_url}/")
    click.echo(f"Fleet metrics:  {collector_url}/metrics")
    click.echo(f"Agent metrics:  {agent_url}/metrics")
    click.echo("Weekly report:  " + report.replace("\n", "\n                "))
    click.echo("Runs until Ctrl-C." if seconds is None else f"Ends by itself in {seconds:g} s.")


def _probe() -> tuple[bool, str]:
    """Ask the agent whether there is a driver; return that and its one sentence."""
    command = [sys.executable, "-m", "gpuledger", "agent", "probe"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = (done.stdout if done.returncode == 0 else done.stderr).strip()
    return done.returncode == 0, text.removeprefix("Error: ")


def _waiter() -> _Waiter:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return _Waiter(SystemClock(), stop)


_for_option = click.option(
    "--for", "seconds", type=click.FloatRange(min=0), help="End by itself after so many seconds."
)
_dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".run"),
    show_default=True,
    help="Where keys, journals, the ledger, logs and reports go.",
)


@click.command()
@_for_option
@_dir_option
def run(seconds: float | None, directory: Path) -> None:
    """Meter this machine's NVIDIA GPUs; without a driver, play a SIMULATED fleet.

    Exit codes: 0 stopped, 1 something failed (it says what), 2 usage or configuration.
    """
    has_driver, text = _probe()
    waiter = _waiter()
    if has_driver:
        click.echo(f"{text}: metering this machine.")
        _meter(directory, seconds, waiter)
    else:
        click.echo(f"No NVIDIA driver was found: {text}.")
        click.echo("So this plays a SIMULATED fleet; nothing in it is a measurement.")
        _play(directory, seconds, waiter)


@click.command()
@_for_option
@_dir_option
def demo(seconds: float | None, directory: Path) -> None:
    """Play a SIMULATED fleet, whether or not there is a driver.

    Exit codes: 0 stopped, 1 something failed (it says what), 2 usage or configuration.
    """
    _play(directory, seconds, _waiter())
