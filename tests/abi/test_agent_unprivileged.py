# SPDX-License-Identifier: Apache-2.0
"""The whole agent as a user without any rights: it meters, seals and serves, and knows whose processes hold GPUs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuledger import workload_names
from gpuledger.states import State
from gpuledger_agent.crash_file import CrashFile
from tests.abi.script import Script
from tests.abi.stage import set_up
from tests.fakes.agents import records, sealed
from tests.fakes.users import NotPossibleError, Stranger, stranger
from tests.integration.agents import public_key, wait_for

pytestmark = [pytest.mark.abi, pytest.mark.slow]
TICKS = 3
HIDE = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it is played: a folder and a library that everybody can reach, and the user."""

    folder: Path
    library: Path
    somebody: Stranger

    @property
    def state_dir(self) -> Path:
        return self.folder / "home" / "state"


@pytest.fixture
def place(library: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "library").mkdir()
        shutil.copy(library / "libnvidia-ml.so.1", folder / "library")
        try:
            with stranger(folder) as somebody:
                home = folder / "home"
                home.mkdir(mode=0o700)
                os.chown(home, somebody.uid, somebody.gid)
                yield Place(folder=folder, library=folder / "library", somebody=somebody)
        except NotPossibleError as exc:
            pytest.skip(str(exc))


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process of another user than the agent's: root's if the tests run as root, else whoever has process 1."""
    if os.geteuid() != 0:
        yield 1
        return
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def run_for_some_ticks(place: Place, pid: int, *before: str) -> str:
    """Run the agent while `pid` holds a GPU, look at it from outside, end it; returns its log."""
    script = Script()
    script.add_gpu().act(0, utilization_pct=80, power_w=500, memory_gib=40).run(pid)
    put = set_up(place.folder / "stage", place.library, script, virtual=False)
    environment = {name: put.env[name] for name in ("LD_LIBRARY_PATH", "GPULEDGER_ABI_SCRIPT")}
    command: list[str | Path] = [place.somebody.python, "-m", "gpuledger", "agent", "run", "--listen", "127.0.0.1:0"]
    log = place.folder / "log"
    with log.open("wb") as stream:
        agent = place.somebody.start([*command, "--state-dir", place.state_dir], stream, environment, before)
    try:
        wait_for("the agent to meter", lambda: b"event=driver_attached" in log.read_bytes() or agent.poll() is not None)
        assert agent.poll() is None, log.read_text()
        status = Path(f"/proc/{agent.pid}/status").read_text()
        assert re.search(rf"^Uid:\t{place.somebody.uid}\t{place.somebody.uid}\t", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE), "it has no capability"
        wait_for("some ticks", lambda: ticks(log.read_text()) > TICKS)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0, log.read_text()
    finally:
        agent.kill()
    return log.read_text()


def ticks(log: str) -> float:
    found = re.search(r"listen=(127\.0\.0\.1:\d+)", log)
    assert found is not None
    with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    counted = re.search(r"^gpuledger_agent_ticks_total (\S+)$", text, re.MULTILINE)
    return 0 if counted is None else float(counted[1])


def opened_names(state_dir: Path) -> list[str]:
    return sorted({name for record in records(state_dir) for _, name in record["openings"].values()})


def owner_of(pid: int) -> tuple[str, str]:
    """Return (user, executable) of a process as this test's user sees it."""
    text = subprocess.run(
        ["ps", "-o", "user=,comm=", "-p", str(pid)], capture_output=True, text=True, check=True
    ).stdout
    user, name = text.split(maxsplit=1)
    return user, name.strip()


def test_a_user_without_rights_meters_seals_and_names_the_processes_of_others(place: Place, sleeper: int) -> None:
    log = run_for_some_ticks(place, sleeper)
    assert "Traceback" not in log
    (reading, *_) = sealed(place.state_dir, public_key(place.state_dir))
    assert State.BUSY in reading.gpus[0].state_slice_ms
    user, name = owner_of(sleeper)
    names = opened_names(place.state_dir)
    assert user in names
    assert any(text.startswith(f"process:{name}/{sleeper}@") for text in names)
    for path in (place.state_dir, *place.state_dir.rglob("*")):
        status = path.stat()
        assert status.st_uid == place.somebody.uid
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0, f"others may not use {path}"
    assert CrashFile(place.state_dir / "open").read() is None


def test_where_proc_hides_others_a_gpu_is_still_held_by_a_process_that_has_no_name(place: Place, sleeper: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a /proc that hides processes")
    if subprocess.run(["unshare", "-m", "sh", "-c", HIDE, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a /proc that hides processes be mounted")
    log = run_for_some_ticks(place, sleeper, "unshare", "-m", "sh", "-c", HIDE, "sh")
    assert "Traceback" not in log
    assert opened_names(place.state_dir) == [workload_names.process_not_visible(sleeper)]
