# SPDX-License-Identifier: Apache-2.0
"""Fills dist/wheelhouse with all that a GPU node without a network needs, and proves that it installs from there.

Usage: python tools/wheelhouse.py [--check] [PYTHON_VERSION ...]

Into the folder go this project's wheel and every wheel of requirements/agent-kubernetes.txt, checked against its
hashes, for the given versions of Python on x86-64 (all those that the agent supports if none is given). `--check` then
makes a clean environment with this Python, installs from the folder alone, and runs the agent in it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "dist" / "wheelhouse"
LOCK = ROOT / "requirements" / "agent-kubernetes.txt"
"""All that `agent` and `kubernetes` of pyproject.toml need: which of them a node installs is its own affair."""
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)))
"""What runs on glibc 2.28: RHEL 8, Debian 11, Ubuntu 20.04 and all that came after."""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


class WheelhouseError(Exception):
    """One sentence for a person."""


def lock_for(lock: str, version: str) -> str:
    """Return the lines of a lock that hold for one version of Python, without their markers.

    pip would judge markers by the Python that it runs in, not by the node's.
    """
    values = {"python_version": version, "python_full_version": f"{version}.0"}
    kept = []
    for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", lock):
        match = re.match(r"([^\s;]+) *;([^\\\n]*)(.*)", entry, re.DOTALL)
        if match is None:
            kept.append(entry)
        elif Marker(match[2].strip()).evaluate(values):
            kept.append(f"{match[1]} {match[3]}")
    return "".join(kept)


def download_command(lock: Path, house: Path, version: str) -> list[str]:
    """Return pip's command line that fetches every wheel of `lock` for one version of Python."""
    target = ["--implementation", "cp", "--python-version", version]
    for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
        target += ["--abi", abi]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    hashed = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(lock)]
    return [*PIP, "download", "-qq", "--dest", str(house), *hashed, *target]


def fill(house: Path, versions: Sequence[str]) -> None:
    """Make the folder anew."""
    shutil.rmtree(house, ignore_errors=True)
    house.mkdir(parents=True)
    _run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(house)])
    with tempfile.TemporaryDirectory(prefix="gpuledger-") as folder:
        lock = Path(folder) / "agent.txt"
        for version in versions:
            lock.write_text(lock_for(LOCK.read_text(encoding="utf-8"), version), encoding="utf-8")
            _run(download_command(lock, house, version))


def check(house: Path) -> str:
    """Install from the folder alone and run the agent; returns what it says about a simulated node."""
    with tempfile.TemporaryDirectory(prefix="gpuledger-") as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        python = Path(folder) / "bin" / "python"
        install = [*PIP, "--isolated", "--python", str(python), "install", "-qq", "--no-index"]
        _run([*install, "--only-binary", ":all:", "--find-links", str(house), "gpuledger[agent,kubernetes]"])
        gpuledger = str(python.parent / "gpuledger")
        _run([gpuledger, "--version"])
        _run([str(python), "-c", "import grpc"])
        return _run([gpuledger, "agent", "once", "--simulate", "free"])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WheelhouseError(f"`{' '.join(command[:5])} ...` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    """Fill the wheelhouse, check it if asked to; returns the exit status."""
    versions = [argument for argument in arguments if argument != "--check"] or list(VERSIONS)
    unknown = [version for version in versions if version not in VERSIONS]
    if unknown:
        print(f"usage: python tools/wheelhouse.py [--check] [{'|'.join(VERSIONS)} ...]", file=sys.stderr)
        return 2
    try:
        fill(HOUSE, versions)
        if "--check" in arguments:
            check(HOUSE)
    except WheelhouseError as exc:
        print(f"wheelhouse: {exc}", file=sys.stderr)
        return 1
    wheels = sorted(HOUSE.glob("*.whl"))
    size_bytes = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{HOUSE.relative_to(ROOT)}: {len(wheels)} wheels, {size_bytes / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
