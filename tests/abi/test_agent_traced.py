# SPDX-License-Identifier: Apache-2.0
"""A minute of the agent under strace: nothing is changed outside its state directory, and no program is started."""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gpuledger.access import new_token
from tests.abi.script import Script
from tests.abi.stage import Stage
from tests.fakes.certificates import Authority
from tests.fakes.syscalls import CLASSES, Call, read_traces, trespasses
from tests.integration.agents import wait_for
from tests.parts import require_part

pytestmark = [pytest.mark.abi, pytest.mark.slow]
SECONDS = 60


@pytest.fixture
def strace(tmp_path: Path) -> Path:
    found = require_part("strace")
    done = subprocess.run(
        [found, "-qq", "-o", tmp_path / "try", "true"], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        pytest.skip(f"this machine does not let a program be traced: {done.stderr.strip()}")
    return found


def configure(folder: Path, authority: Authority, digest: str) -> Path:
    """Write a configuration that uses all there is: TLS, a login, a journal, a collector to push to."""
    pair = authority.issue("node")
    tokens = folder / "tokens"
    tokens.write_text(digest + "\n")
    tokens.chmod(0o600)
    file = folder / "agent.toml"
    file.write_text(
        f'listen = "127.0.0.1:0"\nstate_dir = "{folder / "state"}"\nbearer_tokens_file = "{tokens}"\n'
        f'[tls_server_config]\ncert_file = "{pair.cert}"\nkey_file = "{pair.key}"\n'
        # Nobody listens there: it is tried again and again.
        f'[push]\nurl = "https://127.0.0.1:1"\ninterval_seconds = 5\ntls_config = {{ ca_file = "{authority.ca}" }}\n'
    )
    return file


def ask(port: int, context: ssl.SSLContext, token: str, target: str) -> int:
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)) as client:
        client.request("GET", target, headers={"Authorization": f"Bearer {token}"})
        return client.getresponse().status


def test_a_minute_changes_nothing_outside_the_state_directory_and_starts_no_program(
    stage: Callable[..., Stage], strace: Path, tmp_path: Path
) -> None:
    script = Script()
    script.add_gpu().act(0, utilization_pct=50, power_w=300, memory_gib=4).run(os.getpid())
    script.add_gpu().act(0, utilization_pct=0, power_w=70, memory_gib=0).run(os.getppid(), 20_000, 40_000)
    put = stage(script, virtual=False)
    environment = {name: value for name, value in put.env.items() if name != "GPULEDGER_ABI_STATS"}
    # What Python keeps of modules that it compiled is not the agent's: pip does that when it installs.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    log, traces = tmp_path / "log", tmp_path / "traces"
    traces.mkdir()
    command: list[str | Path] = [
        strace,
        "-D",
        "-ff",
        "-q",
        "-y",
        "-e",
        f"trace={CLASSES}",
        "-o",
        traces / "t",
        sys.executable,
    ]
    authority, (token, digest) = Authority(tmp_path / "authority"), new_token()
    context = ssl.create_default_context(cafile=str(authority.ca))
    arguments: list[str | Path] = [
        "-m",
        "gpuledger",
        "agent",
        "run",
        "--config",
        configure(tmp_path, authority, digest),
    ]
    with log.open("wb") as stream:
        agent = subprocess.Popen([*command, *arguments], env=environment, stdout=stream, stderr=stream)
    try:
        wait_for("the agent to meter", lambda: b"event=driver_attached" in log.read_bytes())
        found = re.search(r"event=agent_started listen=127\.0\.0\.1:(\d+)", log.read_text())
        assert found is not None
        for _ in range(SECONDS // 10):
            time.sleep(10)
            targets = ("/metrics", "/v1/readings", "/healthz", "/nothing")
            assert [ask(int(found[1]), context, token, target) for target in targets] == [200, 200, 200, 404]
            assert ask(int(found[1]), context, "wrong", "/metrics") == 401
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0, log.read_text()
    finally:
        agent.kill()
    wait_for("strace to have written all", lambda: "+++ exited" in (traces / f"t.{agent.pid}").read_text()[-200:])
    calls = read_traces(traces, "t")
    state_dir = tmp_path / "state"
    assert list(trespasses(calls, state_dir, frozenset({str(log)}))) == []
    # What was looked for would have been seen: the journal was written, and its folder made.
    assert {"mkdir", "openat", "pwrite64", "rename"} <= {call.name for call in calls}
    assert list(trespasses(calls, state_dir / "elsewhere", frozenset({str(log)})))
    assert b"Traceback" not in log.read_bytes()


TRESPASSES = [
    ('openat(AT_FDCWD</>, "/etc/x", O_WRONLY|O_CREAT, 0666) = 3</etc/x>', "opened to write"),
    ('openat(AT_FDCWD</>, "/s/../etc/x", O_RDWR) = 3</etc/x>', "opened to write"),
    ('openat(AT_FDCWD</tmp>, "x", O_RDONLY|O_TRUNC) = -1 EACCES (Permission denied)', "opened to write"),
    ('rename("/s/a", "/t/b") = 0', "a path changed"),
    ('unlinkat(5</t>, "x", 0) = 0', "a path changed"),
    ('pwrite64(4</t/x>, ""..., 5, 0) = 5', "a file changed"),
    ("ftruncate(4</t/x>, 0) = 0", "a file changed"),
    ("mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 4</t/x>, 0) = 0x7f", "mapped to write"),
    ('execve("/bin/sh", ["sh"], 0x7f /* 3 vars */) = 0', "a process"),
    ("clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 7", "a process"),
    ("vfork() = 7", "a process"),
    ("vmsplice(4</t/x>, [], 1, 0) = 0", "a call that this list does not know"),
]
HARMLESS = [
    'openat(AT_FDCWD</>, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3</etc/passwd>',
    'openat(AT_FDCWD</s>, "journal/1", O_WRONLY|O_CREAT, 0600) = 3</s/journal/1>',
    'write(2</log>, ""..., 5) = 5',
    'write(4<socket:[17]>, ""..., 5) = 5',
    "mmap(NULL, 4096, PROT_READ|PROT_EXEC, MAP_PRIVATE, 4</t/x>, 0) = 0x7f",
    "clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88) = 7",
]


def call(line: str) -> Call:
    name, _, rest = line.partition("(")
    return Call(name=name, rest=rest)


def test_every_way_to_change_something_elsewhere_is_seen_and_nothing_else() -> None:
    start = Call(name="execve", rest='"/usr/bin/python", ["python"], 0x7f /* 3 vars */) = 0')
    for line, reason in TRESPASSES:
        found = list(trespasses([start, call(line)], Path("/s"), frozenset({"/log"})))
        assert found == [f"{reason}: {line}"]
    assert list(trespasses([start, *map(call, HARMLESS)], Path("/s"), frozenset({"/log"}))) == []
