# SPDX-License-Identifier: Apache-2.0
"""Sets a script up in a folder and starts programs that load the scripted library there."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.abi.build import ROOT
from tests.abi.script import Script
from tests.fakes.shared_clock import MS_NS, SharedClock

# A cell edge (300 s of UTC) on a Monday, so that tables of expected times start with a whole cell.
WALL_START_MS = 1_763_337_600_000
PACKAGES = ("common", "agent", "collector")


_TALLY = struct.Struct("<Q56s")
"""One entry of the file GPULEDGER_ABI_COUNTERS: calls, and the function's name (library/call.c)."""


def counted(path: Path) -> dict[str, int]:
    """How often a program that is still running has called each function; `path` is its GPULEDGER_ABI_COUNTERS."""
    entries = _TALLY.iter_unpack(path.read_bytes())
    return {name.rstrip(b"\0").decode("ascii"): calls for calls, name in entries if calls > 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A folder with a script, its clock, and the environment that makes a program see both."""

    folder: Path
    script: Script
    clock: SharedClock | None
    env: dict[str, str]

    def calls(self) -> dict[str, int]:
        """How often each function was called by the last program that ended by itself."""
        lines = (self.folder / "calls.txt").read_text(encoding="utf-8").splitlines()
        return {name: int(count) for name, count in (line.split() for line in lines)}

    def trace(self) -> list[tuple[int, int, str, int, int]]:
        """Every call so far: (begin ns, end ns, function, GPU index or -1, entry's result)."""
        lines = (self.folder / "trace.txt").read_text(encoding="utf-8").splitlines()
        rows = (line.split() for line in lines)
        return [(int(begin), int(end), name, int(gpu), int(code)) for begin, end, name, gpu, code in rows]

    def run(
        self, arguments: Sequence[str], *, text: str | None = None, codes: Sequence[int] = (0,)
    ) -> subprocess.CompletedProcess[str]:
        """Run this Python with `arguments` before the scripted library; raises unless it ends with one of `codes`."""
        command = [sys.executable, *arguments]
        done = subprocess.run(command, input=text, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode not in codes:
            raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done

    def probe(self, requests: Sequence[object]) -> list[object]:
        """Make calls through the real pynvml, in order; see tests/abi/probe.py."""
        answers: list[object] = json.loads(self.run(["-m", "tests.abi.probe"], text=json.dumps(requests)).stdout)
        return answers


def set_up(
    folder: Path,
    library: Path,
    script: Script,
    *,
    wall_start_ms: int = WALL_START_MS,
    duration_ms: int | None = None,
    virtual: bool = True,
    trace: bool = False,
) -> Stage:
    """Write the script (and, for virtual time, its clock) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.txt").write_text(script.text(), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GPULEDGER_")}
    paths = [str(ROOT), *(str(ROOT / package) for package in PACKAGES)]
    env |= {
        "LD_LIBRARY_PATH": str(library),
        "PYTHONPATH": os.pathsep.join(paths),
        "GPULEDGER_ABI_SCRIPT": str(folder / "script.txt"),
        "GPULEDGER_ABI_STATS": str(folder / "calls.txt"),
    }
    if trace:
        env["GPULEDGER_ABI_TRACE"] = str(folder / "trace.txt")
    clock = None
    if virtual:
        path = folder / "clock"
        wall_ns = wall_start_ms * MS_NS
        clock = SharedClock.create(path, wall_ns=wall_ns, duration_ms=duration_ms, steps_ms=script.steps_ms)
        env["GPULEDGER_ABI_CLOCK"] = str(path)
    return Stage(folder=folder, script=script, clock=clock, env=env)
