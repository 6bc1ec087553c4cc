# SPDX-License-Identifier: Apache-2.0
"""Real engines on this machine: Prometheus and VictoriaMetrics with a past, and Prometheus that scrapes."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.parts import require_part

PATIENCE_S = 60
Past = Mapping[str, Sequence[tuple[Mapping[str, str], Sequence[tuple[int, float]]]]]
"""Metric -> series: labels, and samples as (POSIX ms, value) in order of time."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def fetch(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data=body, timeout=PATIENCE_S) as answer:
        found: bytes = answer.read()
        return found


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE_S} s for {what}")


def answers(url: str) -> bool:
    try:
        fetch(url)
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


@contextmanager
def running(command: Sequence[str], log: Path, url: str, path: str) -> Iterator[str]:
    """Run a server until the block ends; `path` answers when it is ready."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            wait_until(lambda: process.poll() is not None or answers(url + path), command[0])
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def prometheus(folder: Path, config: str = "", *options: str) -> Iterator[str]:
    """Prometheus over what is in `folder`/data; see `running`."""
    program = require_part("prometheus")
    port = free_port()
    file = folder / "prometheus.yml"
    file.write_text(config or "global: {}\n", encoding="utf-8")
    command = [
        str(program),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
        *options,
    ]
    with running(command, folder / "prometheus.log", f"http://127.0.0.1:{port}", "/-/ready") as url:
        yield url


running_prometheus = contextmanager(prometheus)


@contextmanager
def prometheus_with(past: Past, folder: Path, *options: str) -> Iterator[str]:
    """Prometheus with a past, made by promtool from OpenMetrics."""
    promtool = require_part("promtool")
    file = folder / "past.om"
    with file.open("w", encoding="utf-8") as stream:
        for name, series in past.items():
            stream.write(f"# TYPE {name} gauge\n")
            for labels, samples in series:
                head = f"{name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in labels.items())}}}"
                stream.writelines(f"{head} {_text(value)} {time_ms / 1000:.3f}\n" for time_ms, value in samples)
        stream.write("# EOF\n")
    command = [str(promtool), "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=168h"]
    done = subprocess.run([*command, str(file), str(folder / "data")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file.unlink()
    with running_prometheus(folder, "", *options) as url:
        yield url


@contextmanager
def victoria_metrics_with(past: Past, folder: Path, *options: str) -> Iterator[str]:
    """VictoriaMetrics with a past, by its import."""
    program = require_part("victoria-metrics")
    port = free_port()
    command = [
        str(program),
        f"-storageDataPath={folder / 'data'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=100y",
        "-search.latencyOffset=0s",
        *options,
    ]
    with running(command, folder / "victoria.log", f"http://127.0.0.1:{port}", "/health") as url:
        lines = "\n".join(_json_line(name, *series) for name, found in past.items() for series in found)
        fetch(f"{url}/api/v1/import", lines.encode())
        fetch(f"{url}/internal/force_flush")
        yield url


def _json_line(name: str, labels: Mapping[str, str], samples: Sequence[tuple[int, float]]) -> str:
    metric = {"__name__": name, **labels}
    times, values = [time_ms for time_ms, _ in samples], [value for _, value in samples]
    return json.dumps({"metric": metric, "values": values, "timestamps": times})


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


@contextmanager
def exporter(answer: Callable[[], str | None]) -> Iterator[str]:
    """HOST:PORT of a server that shows what `answer` returns, and fails with 500 where that is None."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = answer()
            self.send_response(500 if text is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(b"" if text is None else text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def labels_in(exposition: str, metric: str) -> Iterable[dict[str, str]]:
    """Yield the labels of each line of a metric in an exposition without escapes."""
    for line in exposition.splitlines():
        if line.startswith(metric + "{"):
            inside = line[len(metric) + 1 : line.rindex("}")]
            yield dict(part.split("=", 1) for part in inside.replace('"', "").split(","))
