# SPDX-License-Identifier: Apache-2.0
"""Compiles the scripted libnvidia-ml.so.1 once per state of its sources; `python -m tests.abi.build` says where."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "library"
BUILDS = ROOT / "build" / "abi"
LIBRARY = "libnvidia-ml.so.1"
HEADER_PACKAGE = "nvidia-nvml-dev"
FLAGS = (
    "-std=gnu11",
    "-O2",
    "-g",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
    f"-Wl,-soname,{LIBRARY}",
)


class BuildError(Exception):
    """The library cannot be had; the text is one sentence without a full stop."""


def header_folder() -> Path:
    """The folder of nvml.h from the PyPI package nvidia-nvml-dev."""
    try:
        files = importlib.metadata.files(HEADER_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(f"the Python package {HEADER_PACKAGE} (nvml.h) is not installed") from None
    for file in files:
        if file.name == "nvml.h":
            return Path(str(file.locate())).resolve().parent
    raise BuildError(f"the Python package {HEADER_PACKAGE} holds no nvml.h")


def compiler() -> list[str]:
    """The command that compiles C: cc on PATH or in .tools/bin, else Zig's from the package ziglang."""
    found = shutil.which("cc") or shutil.which("cc", path=str(ROOT / ".tools" / "bin"))
    if found is not None:
        return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise BuildError("there is no C compiler: install gcc and libc6-dev, or the Python package ziglang")


def build(builds: Path = BUILDS, command: list[str] | None = None) -> Path:
    """Compile if these sources were not compiled before; returns the folder that holds libnvidia-ml.so.1.

    Raises BuildError if there is no compiler, no header, or the sources do not compile.
    """
    headers = header_folder()
    command = command or compiler()
    sources = sorted(SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256(repr((command, FLAGS)).encode())
    for path in (*sources, headers / "nvml.h"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = builds / digest.hexdigest()[:16]
    if (folder / LIBRARY).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # Several test workers may build at once: each to a file of its own, and the last rename wins.
    handle, draft = tempfile.mkstemp(dir=folder, prefix=".draft")
    os.close(handle)
    units = [str(path) for path in sources if path.suffix == ".c"]
    arguments = [*command, *FLAGS, "-isystem", str(headers), "-o", draft, *units, "-lm"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        Path(draft).unlink(missing_ok=True)
        raise BuildError(f"{command[0]} could not compile the scripted NVML library:\n{done.stderr}")
    Path(draft).chmod(0o755)
    Path(draft).rename(folder / LIBRARY)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
