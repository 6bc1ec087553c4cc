# SPDX-License-Identifier: Apache-2.0
"""Proves that a bare `gpuledger[agent]` install is whole and light. Run by `make lean`, after `make build`.

Into an empty environment go requirements/agent.txt and the wheel, with no index to ask for anything more. Then every
module of the core and the agent is imported, without one of the collector's dependencies being there, a SIMULATED node
is looked at, and the collector says in a sentence what it lacks.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / ".tools" / "lean"
COLLECTOR_ONLY = ("aiohttp", "apscheduler", "duckdb", "jinja2", "pyarrow", "yaml")
IMPORT_EVERYTHING = """
import importlib, importlib.util, pkgutil, sys
for name in {collector_only!r}:
    if importlib.util.find_spec(name) is not None:
        raise SystemExit(f"lean: {{name}} is installed")
count = 0
for package in map(importlib.import_module, ("gpuledger", "gpuledger_agent")):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.rpartition(".")[2] != "__main__":
            importlib.import_module(module.name)
            count += 1
print(f"{{count + 2}} modules of gpuledger and gpuledger_agent imported")
"""


def main() -> int:
    """Build the environment, import, measure; returns the exit status."""
    shutil.rmtree(TARGET, ignore_errors=True)
    venv.create(TARGET, with_pip=False, symlinks=True)
    python = str(TARGET / "bin" / "python")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "-qq",
    ]
    lock = str(ROOT / "requirements" / "agent.txt")
    steps = [
        [*pip, "--require-hashes", "--only-binary", ":all:", "--requirement", lock],
        [*pip, "--no-index", "--find-links", str(ROOT / "dist"), "gpuledger[agent]"],
        [python, "-I", "-W", "error", "-c", IMPORT_EVERYTHING.format(collector_only=COLLECTOR_ONLY)],
        [str(TARGET / "bin" / "gpuledger"), "--help"],
        [str(TARGET / "bin" / "gpuledger"), "agent", "once", "--simulate", "free"],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"lean: `{step[0]} {step[1]}` failed: {done.stderr.strip() or done.stdout.strip()}", file=sys.stderr)
            return 1
        if "-c" in step:
            print(done.stdout.strip())
    refused = subprocess.run(
        [str(TARGET / "bin" / "gpuledger"), "collector", "run"], capture_output=True, text=True, check=False
    )
    if refused.returncode != 1 or "pip install 'gpuledger[collector]'" not in refused.stderr:
        print(f"lean: a collector without its packages says {refused.stderr.strip()!r}", file=sys.stderr)
        return 1
    packages = next((TARGET / "lib").glob("python3*/site-packages"))
    sizes = {entry.name: _size_bytes(entry) for entry in packages.iterdir()}
    total_bytes = sum(sizes.values())
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:3]
    parts = ", ".join(f"{name} {sizes[name] / 2**20:.1f}" for name in largest)
    print(f"gpuledger[agent] takes {total_bytes / 2**20:.1f} MiB of site-packages (largest: {parts})")
    return 0


def _size_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


if __name__ == "__main__":
    raise SystemExit(main())
