# SPDX-License-Identifier: Apache-2.0
"""Real agents in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gpuledger.sealing import load_or_create_key

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    """Ask until it is so; a failure after PATIENCE_S, which no test is meant to need."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S} s in vain for {what}"
        time.sleep(0.02)


class RunningAgent:
    """A real agent, started with `python -m` and `arguments`; what it writes is kept in the file `log`."""

    def __init__(self, log: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "common", "agent"))
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
                stdout=stream,
                stderr=stream,
            )

    @property
    def log(self) -> str:
        """What this process has written so far."""
        return self._log.read_bytes()[self._log_start :].decode("utf-8")

    def port(self) -> int | None:
        """Return the port it serves on; None before it does."""
        found = re.search(r"event=agent_started listen=127\.0\.0\.1:(\d+)", self.log)
        return None if found is None else int(found[1])

    def wait_until_started(self) -> None:
        def is_started() -> bool:
            assert self.process.poll() is None, self.log
            return self.port() is not None

        wait_for("the agent to start", is_started)

    def get(self, target: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{target}", timeout=PATIENCE_S) as answer:
            text: str = answer.read().decode("utf-8")
            return text

    def health(self) -> int:
        try:
            self.get("/healthz")
        except urllib.error.HTTPError as exc:
            return exc.code
        return 200

    def metrics(self) -> dict[str, float]:
        """Return what one scrape gives: series, written as it is exposed -> value."""
        lines = [line for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL, self.log

    def terminate(self) -> None:
        """End it as a service manager does."""
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0, self.log


def public_key(state_dir: Path) -> bytes:
    return load_or_create_key(state_dir / "key.pem").public_bytes


def simulated(
    state_dir: Path, log: Path, from_s: int, interval_s: int, environment: Mapping[str, str] | None = None
) -> RunningAgent:
    """Start an agent that plays a simulated node from a moment in the past."""
    return RunningAgent(log, ["tests.integration.run_agent", str(state_dir), str(from_s), str(interval_s)], environment)
