# SPDX-License-Identifier: Apache-2.0
"""Programs that a benchmark starts, and what each of them costs: CPU time, memory, calls of NVML, scrapes."""

from __future__ import annotations

import gzip
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gpuledger.access import new_token
from tests.abi.stage import Stage, counted
from tests.fakes.certificates import Authority

PATIENCE_S = 60
ACCEPT = {
    # What Prometheus 2.42 sends.
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}


class BenchError(Exception):
    """The benchmark cannot go on; the text is one sentence without a full stop."""


class Program:
    """A process that was started here; whoever starts it ends it."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*command], env={**env}, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raise BenchError if the program has ended."""
        if self._process.poll() is not None:
            last = self.log.strip().splitlines()[-1:] or ["nothing"]
            raise BenchError(f"{self.name} ended with {self._process.returncode} and said: {last[0]}")

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, those that ended as well: Linux's CPU clock of another process."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory_peak_mib(self) -> float:
        """The most that was resident."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if found is None:
            raise BenchError(f"the kernel does not say how much memory {self.name} takes")
        return int(found[1]) / 1024

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def wait_until_listening(program: Program, pattern: str) -> str:
    """Return what the first group of `pattern` finds in the program's log, which it must say within PATIENCE_S."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := re.search(pattern, program.log)) is None:
        program.check()
        if time.monotonic() > deadline_s:
            raise BenchError(f"{program.name} did not start within {PATIENCE_S} s")
        time.sleep(0.05)
    return found[1]


def environment(stage: Stage, counters: Path, *, ours: bool) -> dict[str, str]:
    """A program's environment before the scripted library; only ours sees the checkout."""
    env = {**stage.env, "GPULEDGER_ABI_COUNTERS": str(counters)}
    env.pop("GPULEDGER_ABI_STATS")
    if not ours:
        env.pop("PYTHONPATH")
        env.pop("VIRTUAL_ENV", None)
    return env


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to scrape; `context` is of TLS, None without."""

    url: str
    context: ssl.SSLContext | None = None
    headers: Mapping[str, str]

    def scrape(self) -> tuple[int, str]:
        """One scrape on a connection of its own: the bytes that were sent, and the text that they are."""
        parts = urlsplit(self.url)
        address = (str(parts.hostname), parts.port)
        connection = (
            http.client.HTTPConnection(*address, timeout=PATIENCE_S)
            if self.context is None
            else http.client.HTTPSConnection(*address, timeout=PATIENCE_S, context=self.context)
        )
        try:
            connection.request("GET", parts.path, headers={**ACCEPT, **self.headers})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise BenchError(f"{self.url} answered {answer.status}")
        except OSError as exc:
            raise BenchError(f"{self.url} cannot be scraped: {exc}") from exc
        finally:
            connection.close()
        text = gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body
        return len(body), text.decode("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """A program before the scripted library, what it serves, and where its calls are counted."""

    program: Program
    endpoint: Endpoint
    counters: Path

    def calls(self) -> Counter[str]:
        """How many calls of NVML it has made so far, by function."""
        return Counter(counted(self.counters))


class Site:
    """What all agents of a benchmark share: an authority for TLS, and a token."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "certificates")
        pair = self.authority.issue("node")
        self.token, digest = new_token()
        tokens = folder / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{digest}\n", encoding="ascii")
        self.settings = {
            "GPULEDGER_AGENT_TLS_SERVER_CONFIG_CERT_FILE": str(pair.cert),
            "GPULEDGER_AGENT_TLS_SERVER_CONFIG_KEY_FILE": str(pair.key),
            "GPULEDGER_AGENT_BEARER_TOKENS_FILE": str(tokens),
        }

    def start_agent(self, stage: Stage, folder: Path) -> Metered:
        """Run the agent as a service would, with TLS and a login; its state is kept in `folder`."""
        folder.mkdir(exist_ok=True)
        counters, log = folder / "counters", folder / "log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "gpuledger", "agent", "run", "--listen", "127.0.0.1:0"]
        env = environment(stage, counters, ours=True) | self.settings
        agent = Program("gpuledger", [*command, "--state-dir", str(folder / "state")], log, env)
        port = wait_until_listening(agent, r"event=agent_started listen=127\.0\.0\.1:(\d+)")
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        headers = {"Authorization": f"Bearer {self.token}"}
        endpoint = Endpoint(url=f"https://127.0.0.1:{port}/metrics", context=context, headers=headers)
        return Metered(program=agent, endpoint=endpoint, counters=counters)


def free_port() -> int:
    """A port that is free now; for programs that cannot be told to choose one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start_nvitop(command: Path, stage: Stage, folder: Path, port: int | None = None) -> Metered:
    """Run nvitop-exporter as it comes: every second, on the loopback address, without TLS."""
    folder.mkdir(exist_ok=True)
    port = free_port() if port is None else port
    counters = folder / "counters"
    env = environment(stage, counters, ours=False)
    program = Program("nvitop-exporter", [str(command), "--port", str(port)], folder / "log", env)
    endpoint = Endpoint(url=f"http://127.0.0.1:{port}/metrics", headers={})
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        program.check()
        try:
            endpoint.scrape()
            return Metered(program=program, endpoint=endpoint, counters=counters)
        except BenchError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


def start_holders(count: int, folder: Path) -> list[Program]:
    """Live processes that may be said to hold GPUs; they sleep."""
    code = "import time; time.sleep(86400)"
    return [
        Program("holder", [sys.executable, "-S", "-c", code], folder / "holders.log", os.environ) for _ in range(count)
    ]
