# SPDX-License-Identifier: Apache-2.0
"""Finds or installs the programs from outside Python that tests need. Usage: python tools/parts.py NAME...

A part is found on PATH or in .tools/bin. A missing one is installed with apt as root, else unpacked under .tools; what
still misses is named, and is a failure only when CI is set in the environment.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import debian
import environment

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Debian packages and the commands they bring.

    `standalone` packages bring programs that need nothing but the C library, and a server that their installation would
    start: they are unpacked, never installed, even by root.
    """

    commands: tuple[str, ...]
    packages: tuple[str, ...]
    standalone: bool = False
    needs_root: bool = False
    """Its programs look for each other where they were built for, so they cannot be unpacked elsewhere."""


PARTS = {
    "prometheus": Part(commands=("prometheus", "promtool"), packages=("prometheus",), standalone=True),
    "alertmanager": Part(
        commands=("prometheus-alertmanager", "amtool"), packages=("prometheus-alertmanager",), standalone=True
    ),
    "victoria-metrics": Part(commands=("victoria-metrics",), packages=("victoria-metrics",), standalone=True),
    # Slurm's daemons do not start without /etc/slurm/slurm.conf; munged may, with a key of its own, and is harmless.
    "slurm": Part(
        commands=("slurmctld", "slurmd", "sbatch", "srun", "scancel", "munged"),
        packages=("slurm-wlm", "munge"),
        needs_root=True,
    ),
    # What tests of PDFs look with, and what PDFs are set in; without the library of subsets WeasyPrint takes a minute.
    "pdf": Part(
        commands=("pdftotext", "pdffonts", "pdftoppm", "fc-list"),
        packages=("poppler-utils", "fonts-noto-cjk", "fontconfig", "libpangoft2-1.0-0", "libharfbuzz-subset0"),
        needs_root=True,
    ),
    "strace": Part(commands=("strace",), packages=("strace",)),
    "chromium": Part(commands=("chromium",), packages=("chromium", "fonts-dejavu-core")),
}

NVITOP = "nvitop-exporter"


class PartError(Exception):
    """A part cannot be had; the text is one sentence without a full stop."""


def main(names: Sequence[str]) -> int:
    """See to every named part; returns the exit status."""
    legal = [*PARTS, "cc", NVITOP]
    unknown = [name for name in names if name not in legal]
    if unknown or not names:
        print(f"usage: python tools/parts.py NAME..., of {', '.join(legal)}", file=sys.stderr)
        return 2
    strict = bool(os.environ.get("CI"))
    missing = False
    for name in names:
        try:
            if name == "cc":
                _provide_compiler()
            elif name == NVITOP:
                _provide_nvitop()
            else:
                _provide(name, PARTS[name])
        except (PartError, debian.DebianError, OSError) as error:
            missing = True
            outcome = "CI is set, so this is a failure" if strict else "the tests that need it will be skipped"
            print(f"parts: {name} is missing ({error}); {outcome}.", file=sys.stderr)
    return 1 if missing and strict else 0


def _found(command: str) -> bool:
    return shutil.which(command) is not None or shutil.which(command, path=str(BIN)) is not None


def _provide(name: str, part: Part) -> None:
    if all(_found(command) for command in part.commands):
        return
    if not debian.available():
        raise PartError(f"Debian's package {part.packages[0]} is not installed and this machine has no apt-get")
    if part.needs_root and not debian.is_root():
        raise PartError(f"Debian's package {part.packages[0]} is not installed, and only root can install it")
    print(f"Getting Debian's package {part.packages[0]}", flush=True)
    if debian.is_root() and not part.standalone:
        debian.install(part.packages)
    else:
        folder = TOOLS / name
        TOOLS.mkdir(exist_ok=True)
        debian.unpack(part.packages, folder, dependencies=not part.standalone)
        for command in part.commands:
            _wrap(command, folder)
    for command in part.commands:
        if not _found(command):
            raise PartError(f"Debian's package {part.packages[0]} brought no command {command}")


def _wrap(command: str, folder: Path) -> None:
    """Write .tools/bin/COMMAND, which runs the unpacked program with the libraries and fonts beside it."""
    program = folder / "usr/lib" / command / command  # a browser's own program, behind its start script
    if not program.exists():
        program = folder / "usr/bin" / command
    if not program.exists():
        raise PartError(f"Debian's package for {command} holds no {program.relative_to(folder)}")
    # Private folders of a library count as well: it names them by a path that is not there.
    folders = {
        path.parent for pattern in ("lib", "usr/lib") for path in (folder / pattern).glob("*-linux-gnu/**/lib*.so*")
    }
    libraries = ":".join(sorted(map(str, folders), key=len))
    lines = ["#!/bin/sh"]
    if libraries:
        lines += [
            f"export LD_LIBRARY_PATH={shlex.quote(libraries)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}",
            f"export XDG_DATA_HOME={shlex.quote(str(folder / 'usr/share'))}",
        ]
        if not Path("/etc/fonts/fonts.conf").exists() and (folder / "etc/fonts").is_dir():
            lines.append(f"export FONTCONFIG_PATH={shlex.quote(str(folder / 'etc/fonts'))}")
    _write_command(command, [*lines, f'exec {shlex.quote(str(program))} "$@"'])


def _provide_compiler() -> None:
    """A `cc`: the system's, else Zig's from the package index, installed beside the interpreter that runs this."""
    if _found("cc"):
        return
    print("Getting the Python package ziglang, for want of cc", flush=True)
    lock = ROOT / "requirements" / "compiler.txt"
    options = ["--disable-pip-version-check", "--no-input", "-qq", "--require-hashes", "--only-binary", ":all:"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--requirement", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PartError(f"no cc is installed, and pip said: {lines[-1].strip() if lines else 'nothing'}")
    cache = shlex.quote(str(TOOLS / "zig"))
    _write_command(
        "cc",
        [
            "#!/bin/sh",
            f"export ZIG_GLOBAL_CACHE_DIR={cache} ZIG_LOCAL_CACHE_DIR={cache}",
            f'exec {shlex.quote(sys.executable)} -m ziglang cc "$@"',
        ],
    )


def _provide_nvitop() -> None:
    """`nvitop-exporter` in an environment of its own: what it needs is not for ours to choose."""
    lock = ROOT / "requirements" / "nvitop.txt"
    folder = TOOLS / NVITOP
    stamp = folder / "lock.txt"
    wanted = lock.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted and _found(NVITOP):
        return
    print(f"Getting the Python package {NVITOP}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        environment.make(folder)
    except environment.BootstrapError as error:
        raise PartError(str(error)) from error
    options = ["--disable-pip-version-check", "--no-input", "-qq", "--require-hashes", "--only-binary", ":all:"]
    python = folder / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", *options, "--requirement", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PartError(f"pip said: {lines[-1].strip() if lines else 'nothing'}")
    _write_command(NVITOP, ["#!/bin/sh", f'exec {shlex.quote(str(python))} -m nvitop_exporter "$@"'])
    stamp.write_text(wanted, encoding="utf-8")


def _write_command(command: str, lines: Sequence[str]) -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    path = BIN / command
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o755)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
