# SPDX-License-Identifier: Apache-2.0
"""The agent's commands: whatever is wrong is one sentence on standard error and an exit code, never a traceback."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuledger.cli import main
from gpuledger_agent.program import lock_state_dir
from tests.fakes.clock import FakeClock
from tests.fakes.nvml import LIBRARY_NOT_FOUND, NO_PERMISSION, UNKNOWN, FakeNvml, gpus


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GPULEDGER_AGENT_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """The commands run in this process: what they set for it is set back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, handler in signals.items():
        signal.signal(name, handler)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["agent", *map(str, arguments)])


def start(state_dir: Path, *arguments: str | Path) -> Result:
    """Start an agent that something keeps from starting."""
    return call("run", "--simulate", "free", "--state-dir", state_dir, "--listen", "127.0.0.1:0", *arguments)


def refused(result: Result, exit_code: int, *named: str) -> None:
    assert result.exit_code == exit_code
    assert isinstance(result.exception, SystemExit), "not by a traceback"
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try ", "time=")) and line]
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    for name in named:
        assert name in lines[0]


def test_a_file_that_is_missing_or_malformed_or_has_an_unknown_key_is_named(tmp_path: Path, state_dir: Path) -> None:
    file = tmp_path / "agent.toml"
    refused(start(state_dir, "--config", file), 2, str(file), "cannot be read: No such file or directory")
    file.write_text('listen = "127.0.0.1:0"\nstate_dir = = 3\n')
    refused(start(state_dir, "--config", file), 2, str(file), "not valid TOML", "line 2")
    file.write_text("colour = 3\n")
    refused(start(state_dir, "--config", file), 2, str(file), "unknown key 'colour'", "legal keys")
    assert not state_dir.exists(), "nothing was begun"


def test_a_value_from_the_environment_is_named_by_its_variable(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPULEDGER_AGENT_INTERVAL_SECONDS", "fast")
    refused(start(state_dir), 2, "GPULEDGER_AGENT_INTERVAL_SECONDS: 'fast' is not a number")


def test_flags_that_are_wrong_are_named(state_dir: Path) -> None:
    refused(start(state_dir, "--interval", "0.1"), 2, "--interval: 0.1 is less than 0.5")
    refused(start(state_dir, "--interval", "x"), 2, "'--interval'")
    refused(start(state_dir, "--listen", "9400"), 2, "listen: '9400' is not HOST:PORT")
    refused(start(state_dir, "--colour", "red"), 2, "--colour")
    refused(start(state_dir, "--simulate", "chaos"), 2, "--simulate: 'chaos' is not one of free, serving")
    refused(call("run", "--simulate-from", "5", "--state-dir", state_dir), 2, "need --simulate")


def test_a_port_in_use_is_named(state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused(start(state_dir, "--listen", f"127.0.0.1:{port}"), 2, f"cannot serve on 127.0.0.1:{port}", "in use")


def test_a_host_that_does_not_exist_is_named(state_dir: Path) -> None:
    refused(start(state_dir, "--listen", "a..b:80"), 2, "cannot serve on a..b:80")


def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    refused(start(file), 1, f"{file}: the state directory is not a directory")
    refused(start(file / "below"), 1, str(file), "Not a directory")


def test_a_state_directory_that_others_may_write_to_is_refused(state_dir: Path) -> None:
    state_dir.mkdir()
    state_dir.chmod(0o777)
    refused(start(state_dir), 1, f"{state_dir}: mode 0777 lets others write to the state directory; set it to 0700")


@pytest.fixture
def nobody() -> Iterator[None]:
    """Without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_state_directory_that_cannot_be_written_to_is_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and "pytest" in str(directory):
            directory.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    request.getfixturevalue("nobody")
    refused(start(closed), 1, f"{closed}/lock: cannot use the state directory: Permission denied")
    refused(start(closed / "below"), 1, f"{closed}/below: cannot use the state directory: Permission denied")


@pytest.mark.parametrize("name", ["key.pem", "names.secret"])
def test_a_secret_that_others_may_read_is_refused(state_dir: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        start(state_dir, "--listen", f"127.0.0.1:{server.getsockname()[1]}")
    (state_dir / name).chmod(0o644)
    refused(start(state_dir), 1, str(state_dir / name), "mode 0644 lets others", "set it to 0600")


@pytest.mark.parametrize(("name", "data"), [("key.pem", b"not a key\n"), ("key.pem", b""), ("names.secret", b"short")])
def test_a_secret_that_is_damaged_is_named_and_not_replaced(state_dir: Path, name: str, data: bytes) -> None:
    state_dir.mkdir(mode=0o700)
    path = state_dir / name
    path.write_bytes(data)
    path.chmod(0o600)
    refused(start(state_dir), 1, str(path))
    assert path.read_bytes() == data


def test_a_journal_or_a_crash_file_that_cannot_be_read_is_named(state_dir: Path) -> None:
    state_dir.mkdir(mode=0o700)
    (state_dir / "open").mkdir()
    refused(start(state_dir), 1, f"{state_dir}/open: cannot be read: Is a directory")
    (state_dir / "journal" / "000000000001.jsonl").mkdir()
    refused(start(state_dir), 1, f"{state_dir}/journal/000000000001.jsonl: cannot use the journal: Is a directory")


def test_a_second_agent_on_one_state_directory_is_refused(state_dir: Path) -> None:
    lock = lock_state_dir(state_dir)
    try:
        refused(start(state_dir), 1, f"{state_dir}: another gpuledger agent is running on this state directory")
    finally:
        os.close(lock)


def test_a_file_system_that_cannot_lock_is_not_called_a_second_agent(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    refused(start(state_dir), 1, f"{state_dir}: cannot lock the state directory: No locks available")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """What the commands find as the module pynvml."""
    fake = FakeNvml(FakeClock(), gpus(2))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_a_probe_says_which_driver_answers_for_how_many_gpus(nvml: FakeNvml) -> None:
    result = call("probe")
    assert (result.exit_code, result.stdout) == (0, "NVIDIA driver 570.124.06, 2 GPU(s)\n")
    assert nvml.attached == 0
    nvml.fails["nvmlSystemGetDriverVersion"] = UNKNOWN
    assert "of unknown version, 2 GPU(s)" in call("probe").stdout


def test_a_probe_without_a_driver_or_without_gpus_says_why(nvml: FakeNvml) -> None:
    nvml.fails["nvmlInit"] = LIBRARY_NOT_FOUND
    refused(call("probe"), 1, "libnvidia-ml.so.1 was not found")
    nvml.fails["nvmlInit"] = NO_PERMISSION
    refused(call("probe"), 1, "no permission to use the NVIDIA driver")
    nvml.fails = {"nvmlDeviceGetCount": UNKNOWN}
    refused(call("probe"), 1, "nvmlDeviceGetCount failed: unknown")
    nvml.fails.clear()
    nvml.gpus.clear()
    refused(call("probe"), 1, "lists no GPU")
    assert nvml.attached == 0


def test_without_the_binding_each_command_that_needs_it_says_what_to_install(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    refused(call("probe"), 1, "nvidia-ml-py is not installed")
    refused(call("run", "--state-dir", state_dir), 1, "nvidia-ml-py is not installed")


def test_the_settings_are_printed_with_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("interval_seconds = 2\n")
    monkeypatch.setenv("GPULEDGER_AGENT_NODE_NAME", "n7")
    result = call("config", "--config", file, "--listen", "127.0.0.1:1")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "listen = 127.0.0.1:1  # flag" in lines
    assert f"interval_seconds = 2.0  # file {file}" in lines
    assert "node_name = n7  # environment GPULEDGER_AGENT_NODE_NAME" in lines
    assert "log_level = info  # default" in lines
