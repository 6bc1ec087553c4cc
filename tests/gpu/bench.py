# SPDX-License-Identifier: Apache-2.0
"""Runs the agent and the load as programs, scrapes the one and watches the other."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.gpu.plan import Phase
from tests.gpu.table import Row, Sums, Truth

ROOT = Path(__file__).resolve().parents[2]
SETTLE_S = 5.0
"""Between two phases: the process list is read again, and what the driver averages has passed."""
POWER_POLL_S = 0.2
START_TIMEOUT_S = 120


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment in which the checkout can be imported without installing it."""
    paths = [str(ROOT / part) for part in ("", "common", "agent")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running_agent(state_dir: Path, extra: Sequence[str] = ()) -> Iterator[str]:
    """Run `gpuledger agent run` and yield its address once it is healthy."""
    port = free_port()
    command = [sys.executable, "-m", "gpuledger", "agent", "run", "--listen", f"127.0.0.1:{port}"]
    with (state_dir / "agent.log").open("w") as log:
        agent = subprocess.Popen(
            [*command, "--state-dir", str(state_dir / "agent"), *extra], env=environment(), stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _is_healthy(address):
            if agent.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the agent did not start: {(state_dir / 'agent.log').read_text()}")
            time.sleep(0.2)
        yield address
    finally:
        agent.terminate()
        agent.wait(timeout=30)


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def scrape(address: str, uuid: str) -> Sums:
    """Return what the agent says about one GPU."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        text = answer.read().decode("utf-8")
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("uuid", uuid) == uuid:
                key = sample.labels.get("state", sample.labels.get("reason", ""))
                found.setdefault(sample.name, {})[key] = sample.value
    energy = found.get("gpuledger_gpu_energy_joules_total")
    return Sums(
        edge_s=found["gpuledger_agent_tick_timestamp_seconds"][""],
        state_s=found.get("gpuledger_gpu_state_seconds_total", {}),
        uncovered_s=sum(found.get("gpuledger_gpu_uncovered_seconds_total", {}).values()),
        active_s=found.get("gpuledger_gpu_active_seconds_total", {}).get(""),
        energy_j=None if energy is None else sum(energy.values()),
        memory_used_bytes=found.get("gpuledger_gpu_memory_used_bytes", {}).get(""),
    )


@contextmanager
def running_load(phase: Phase, uuid: str) -> Iterator[dict[str, str]]:
    """Run the phase's load, if it has one; yields a box that has its name, and afterwards the duty it kept."""
    box: dict[str, str] = {}
    if phase.duty is None:
        yield box
        return
    command = [sys.executable, "-m", "tests.gpu.load", str(phase.duty), str(phase.memory_mib)]
    with subprocess.Popen(
        command,
        env=environment(CUDA_VISIBLE_DEVICES=uuid),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        said = load.stdout.readline().strip()
        if not said.startswith("ready "):
            raise RuntimeError(f"the load for {phase.name!r} did not start")
        box["load"] = said.removeprefix("ready ")
        try:
            yield box
        finally:
            load.stdin.close()
            kept = json.loads(load.stdout.readline() or "{}")
    box["duty"] = str(kept["on_s"] / kept["elapsed_s"])


def measure(
    phase: Phase, length_s: float, address: str, uuid: str, power_w: Callable[[], float | None]
) -> tuple[Row, str | None]:
    """Play one phase beside the agent; returns its row, and the load's name."""
    with running_load(phase, uuid) as box:
        time.sleep(SETTLE_S)
        before = scrape(address, uuid)
        polled = []
        end_s = time.monotonic() + length_s
        while time.monotonic() < end_s:
            polled.append(power_w())
            time.sleep(POWER_POLL_S)
        after = scrape(address, uuid)
    known = [power for power in polled if power is not None]
    truth = Truth(
        duty=float(box["duty"]) if "duty" in box else None,
        power_w=sum(known) / len(known) if known else None,
    )
    return Row(phase=phase, truth=truth, before=before, after=after), box.get("load")
