# SPDX-License-Identifier: Apache-2.0
"""Ways out of the process: the command run again with its lock in hand, and the end at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuledger.errors import StorageError
from gpuledger_agent import exits
from gpuledger_agent.program import lock_state_dir
from tests.fakes.programs import run_python

AGAIN = """
import os, sys, time
from pathlib import Path
from gpuledger_agent import exits
from gpuledger_agent.program import lock_state_dir
from gpuledger.errors import StorageError

lock = lock_state_dir(Path(sys.argv[1]))
print("pid", os.getpid(), "inheritable", os.get_inheritable(lock), flush=True)
try:
    os.close(lock_state_dir(Path(sys.argv[1])))
except StorageError:
    print("locked", flush=True)
again = Path(sys.argv[1]) / "again"
if not again.exists():
    again.touch()
    exits.begin_anew(lock)
"""


def test_a_command_that_runs_again_keeps_its_process_its_arguments_and_its_lock(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(AGAIN, encoding="ascii")
    done = run_python("-W", "error", str(program), str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert rest == ["locked", first, "locked"], "the same process, and nobody else could have had the lock"
    assert first.endswith("inheritable False"), "children of the agent do not keep it"


@pytest.mark.parametrize("text", ["", "x", "-1", "99999"])
def test_a_lock_that_was_not_handed_over_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("_GPULEDGER_LOCK", text)
    lock = lock_state_dir(tmp_path)
    assert "_GPULEDGER_LOCK" not in os.environ, "children do not see it"
    with pytest.raises(StorageError, match="another gpuledger agent"):
        lock_state_dir(tmp_path)
    os.close(lock)


def test_a_lock_of_another_directory_is_not_this_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = lock_state_dir(tmp_path / "other")
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "mine" / "lock").touch(mode=0o600)
    monkeypatch.setenv("_GPULEDGER_LOCK", str(other))
    assert exits.inherited_lock(tmp_path / "mine" / "lock") is None
    os.close(other)


def test_the_end_at_once_waits_for_nothing_and_loses_no_line() -> None:
    done = run_python(
        "-c",
        "import sys, threading, time\n"
        "from gpuledger_agent import exits\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "print('said', end='')\n"
        "exits.leave_at_once(7)",
    )
    assert (done.returncode, done.stdout) == (7, "said")
