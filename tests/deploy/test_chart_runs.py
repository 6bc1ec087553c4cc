# SPDX-License-Identifier: Apache-2.0
"""What the chart starts, started here: its command lines, variables and files, with only paths and ports put elsewhere.

A SIMULATED agent pushes to a collector over TLS; the files of Secrets have the modes that a pod finds them with.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuledger.access import new_token
from gpuledger.clock import SystemClock
from tests.deploy.test_chart import one
from tests.fakes.certificates import Authority
from tests.integration.agents import ROOT, wait_for
from tests.integration.test_push import free_port

pytestmark = [pytest.mark.deploy, pytest.mark.slow]
CELL_S = 300
PAST_S = 6 * CELL_S
PATHS = os.pathsep.join(str(ROOT / folder) for folder in (".", "common", "agent", "collector"))


class Pod:
    """One pod of the rendered chart in a directory that stands for its file system."""

    def __init__(self, kind: str, name: str, root: Path, host: str, port: int) -> None:
        self._spec = one("simulated", kind, f"-{name}")["spec"]["template"]["spec"]
        self._container = self._spec["containers"][0]
        self._root, self._host, self._port = root, host, port
        config = root / "etc/gpuledger" / f"{name}.toml"
        config.parent.mkdir(parents=True)
        config.write_text(one("simulated", "ConfigMap", f"-{name}")["data"][config.name], encoding="utf-8")
        (root / "var/lib").mkdir(parents=True)
        self.log = root / "log"

    def mount(self, secret: str, files: dict[str, bytes]) -> None:
        """Put a Secret's files where the pod mounts them, with the group's right to read that Kubernetes adds."""
        (volume,) = [v for v in self._spec["volumes"] if v.get("secret", {}).get("secretName") == secret]
        (mount,) = [m for m in self._container["volumeMounts"] if m["name"] == volume["name"]]
        folder = self._root / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True)
        names = {item["key"]: item["path"] for item in volume["secret"].get("items", [])} or {n: n for n in files}
        for key, path in names.items():
            (folder / path).write_bytes(files[key])
            (folder / path).chmod(volume["secret"]["defaultMode"] | 0o040)

    def _here(self, text: str) -> str:
        for folder in ("/etc/gpuledger", "/var/lib"):
            text = text.replace(folder, f"{self._root}{folder}")
        return text.replace("ledger-gpuledger-collector.gpu.svc:9401", f"{self._host}:{self._port}")

    def start(self, own_port: int, extra: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        given = {entry["name"]: self._here(entry.get("value", "node-1")) for entry in self._container["env"]}
        given = {
            name: value.replace(":9400", f":{own_port}").replace(":9401", f":{own_port}")
            for name, value in given.items()
        }
        arguments = [self._here(argument) for argument in self._container["args"]]
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "gpuledger", *arguments, *extra],
                env={**os.environ, **given, "PYTHONPATH": PATHS},
                stdout=stream,
                stderr=stream,
            )


@pytest.fixture
def started(tmp_path: Path) -> Iterator[dict[str, Any]]:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("collector")
    push, push_digest = new_token()
    reader, reader_digest = new_token()
    port, agent_port = free_port(), free_port()
    tls = {"tls.crt": pair.cert.read_bytes(), "tls.key": pair.key.read_bytes(), "ca.crt": authority.ca.read_bytes()}
    collector = Pod("StatefulSet", "collector", tmp_path / "collector", "127.0.0.1", port)
    collector.mount("gpuledger-collector-tls", tls)
    collector.mount("gpuledger-readers", {"tokens": reader_digest.encode()})
    collector.mount("gpuledger-pushers", {"tokens": push_digest.encode()})
    agent = Pod("DaemonSet", "agent", tmp_path / "agent", "127.0.0.1", port)
    agent.mount("gpuledger-push", {"token": push.encode()})
    agent.mount("gpuledger-collector-tls", tls)
    begun = {
        "url": f"https://127.0.0.1:{port}",
        "token": reader,
        "push": push,
        "context": ssl.create_default_context(cafile=str(authority.ca)),
        "logs": lambda: collector.log.read_text() + agent.log.read_text(),
    }
    processes = [collector.start(port)]
    wait_for("the collector", lambda: ask(begun, "/healthz", None)[0] == 200)
    from_s = SystemClock().wall_ns() // 10**9 - PAST_S
    processes.append(agent.start(agent_port, ("--simulate-from", str(from_s))))
    yield begun
    for process in processes:
        process.terminate()
    assert [process.wait(60) for process in processes] == [0, 0]


def ask(started: dict[str, Any], path: str, token: str | None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(started["url"] + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=started["context"]) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as exc:
        return exc.code, ""
    except OSError:
        return 0, ""


def test_a_simulated_node_of_the_chart_comes_to_its_collector(started: dict[str, Any]) -> None:
    def has_come() -> bool:
        lines = ask(started, "/log/checkpoint", started["token"])[1].splitlines()
        return len(lines) > 1 and int(lines[1]) >= PAST_S // CELL_S

    try:
        wait_for("readings of the node", has_come)
    except AssertionError as exc:
        raise AssertionError(started["logs"]()) from exc
    entries = ask(started, f"/log/tile/entries/000.p/{PAST_S // CELL_S}", started["token"])[1]
    assert "application/vnd.gpuledger.reading.v1+json" in entries
    assert ask(started, "/healthz", None)[0] == 200, "the kubelet has no token"
    assert ask(started, "/metrics", None)[0] == 401
    assert ask(started, "/metrics", started["push"])[0] == 401, "a node's token opens nothing"
