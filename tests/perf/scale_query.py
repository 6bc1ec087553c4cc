# SPDX-License-Identifier: Apache-2.0
"""One week's idle share by site, from hourly rows, and from 15 s gauges in real Prometheus and VictoriaMetrics."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from gpuledger.cells import DAY_MS
from gpuledger_collector.ledger_files import DIRECTORY, LedgerFiles
from gpuledger_collector.store import Store
from tests.parts import PACKAGES, find_part
from tests.perf.programs import BenchError, Program, free_port
from tests.perf.scale_report import MONDAY_MS, SITES, write_ledger
from tests.perf.scale_table import Asked

STEP_S = 15
SAMPLES = 7 * 24 * 3600 // STEP_S
QUERY = "avg by (site) (avg_over_time(gpu_utilization[7d]))"
RUNS = 3
LOAD_S = 300.0


def ours(folder: Path, gpus: int) -> Asked:
    """Ask our ledger, as a report does for its sites."""
    write_ledger(folder, gpus)
    with Store(folder, read_only=True) as store:
        files = LedgerFiles(folder / DIRECTORY, store)
        seconds, cpu_s = _best(
            lambda: len(files.sum_by(["site"], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)), time.process_time
        )
    return Asked(name="gpuledger", series=gpus, samples=gpus * 168, seconds=seconds, cpu_s=cpu_s)


def prometheus(folder: Path, series: int) -> Asked:
    """Load so many gauges as blocks, and ask Prometheus."""
    folder.mkdir(parents=True)
    text = folder / "week.om"
    with text.open("w", encoding="ascii") as file:
        file.write("# TYPE gpu_utilization gauge\n")
        for number in range(series):
            name = f'gpu_utilization{{uuid="GPU-{number:08x}",site="site-{number % SITES}"}}'
            file.writelines(
                f"{name} {_value(number, step)} {MONDAY_MS // 1000 + step * STEP_S}\n" for step in range(SAMPLES)
            )
        file.write("# EOF\n")
    promtool, server = _part("promtool"), _part("prometheus")
    command = [
        promtool,
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "--max-block-duration=168h",
        text,
        folder / "data",
    ]
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    text.unlink()
    (folder / "prometheus.yml").write_text("{}", encoding="ascii")
    port = free_port()
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    options += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100y"]
    return _serve(Server("Prometheus", server, [*options, "--query.timeout=10m"], port), series, folder)


def victoria(folder: Path, series: int) -> Asked:
    """Import so many gauges, and ask VictoriaMetrics."""
    folder.mkdir(parents=True)
    port = free_port()
    options = [f"-storageDataPath={folder / 'data'}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y"]
    options += ["-search.latencyOffset=0s", "-search.disableCache", "-search.maxSamplesPerQuery=2000000000"]

    def load(url: str) -> None:
        times = ",".join(str(MONDAY_MS + step * STEP_S * 1000) for step in range(SAMPLES))
        for number in range(series):
            metric = {"__name__": "gpu_utilization", "uuid": f"GPU-{number:08x}", "site": f"site-{number % SITES}"}
            values = ",".join(str(_value(number, step)) for step in range(SAMPLES))
            line = f'{{"metric":{json.dumps(metric)},"values":[{values}],"timestamps":[{times}]}}\n'
            urllib.request.urlopen(f"{url}/api/v1/import", data=line.encode("ascii"), timeout=LOAD_S).close()
        urllib.request.urlopen(f"{url}/internal/force_flush", timeout=LOAD_S).close()

    return _serve(Server("VictoriaMetrics", _part("victoria-metrics"), options, port), series, folder, load)


def _value(number: int, step: int) -> int:
    """A GPU that works in turns of its own."""
    return (number * 7 + step * 13) % 101 if (step // 40 + number) % 3 else 0


class Server(NamedTuple):
    """How a peer is started."""

    name: str
    command: Path
    options: list[str]
    port: int


def _serve(server: Server, series: int, folder: Path, load: Callable[[str], None] | None = None) -> Asked:
    url = f"http://127.0.0.1:{server.port}"
    with ExitStack() as stack:
        program = Program(server.name, [str(server.command), *server.options], folder / "log", os.environ)
        stack.callback(program.end)
        _wait_until_ready(program, url)
        if load is not None:
            load(url)
        question = urllib.parse.urlencode({"query": QUERY, "time": MONDAY_MS // 1000 + 7 * 86_400})

        def ask() -> int:
            with urllib.request.urlopen(f"{url}/api/v1/query?{question}", timeout=LOAD_S) as answer:
                return len(json.load(answer)["data"]["result"])

        with urllib.request.urlopen(f"{url}/metrics", timeout=LOAD_S) as answer:
            told = re.search(r'(?:short_version|version)="v?(\d[\w.]*)', answer.read().decode("utf-8"))
        version = "as Debian has it" if told is None else told[1]
        seconds, cpu_s = _best(ask, program.cpu_s)
        return Asked(
            name=f"{server.name} {version}",
            series=series,
            samples=series * SAMPLES,
            seconds=seconds,
            cpu_s=cpu_s,
        )


def _best(ask: Callable[[], int], cpu_s: Callable[[], float]) -> tuple[float, float]:
    """Return the least time and CPU time of some runs; each must find all sites."""
    found = []
    for _ in range(RUNS):
        began_s, began_cpu_s = time.monotonic(), cpu_s()
        if ask() != SITES:
            raise BenchError("a weekly query does not find all sites")
        found.append((time.monotonic() - began_s, cpu_s() - began_cpu_s))
    return min(seconds for seconds, _ in found), min(seconds for _, seconds in found)


def _wait_until_ready(program: Program, url: str) -> None:
    deadline_s = time.monotonic() + LOAD_S
    while True:
        program.check()
        try:
            urllib.request.urlopen(f"{url}/-/ready", timeout=5).close()
        except OSError:
            if time.monotonic() > deadline_s:
                raise BenchError(f"{program.name} did not start") from None
            time.sleep(0.1)
        else:
            return


def _part(command: str) -> Path:
    found = find_part(command)
    if found is None:
        raise BenchError(f"{command} is missing: install {PACKAGES[command]}")
    return found
