# SPDX-License-Identifier: Apache-2.0
"""Takes packages from Debian's own archive: installed as root, otherwise unpacked into a folder of the checkout."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_S = 900
_QUIET = ["-qq", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30", "-o", "DPkg::Lock::Timeout=120"]


class DebianError(Exception):
    """Debian's archive did not give what was asked; the text is one sentence without a full stop."""


def available() -> bool:
    """Whether this machine has apt-get and dpkg-deb."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def is_root() -> bool:
    """Whether packages may be installed into the system."""
    return os.geteuid() == 0


def install(packages: Sequence[str]) -> None:
    """Install packages into the system (root only), refreshing apt's lists only when they do not know a package.

    Raises:
        DebianError: with apt's last line.
    """
    command = ["install", "--yes", "--no-install-recommends", *packages]
    try:
        _apt(command)
    except DebianError:
        _apt(["update"])
        _apt(command)


def unpack(packages: Sequence[str], into: Path, *, dependencies: bool) -> None:
    """Download packages and unpack them under `into`, as any user and without touching the system.

    `dependencies` asks for the packages they depend on that the system does not have, too. apt works on lists and an
    archive of its own beside `into`; what is installed is read from the system, so little is fetched twice.

    Raises:
        DebianError: with apt's or dpkg's last line.
    """
    apt_dir = into.parent / "apt"
    archives = apt_dir / "cache" / "archives"
    for folder in (apt_dir / "state" / "lists" / "partial", archives / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    private = [
        "-o", f"Dir::State={apt_dir / 'state'}",
        "-o", "Dir::State::Status=/var/lib/dpkg/status",
        "-o", f"Dir::Cache={apt_dir / 'cache'}",
        "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "Acquire::GzipIndexes=true",
        "-o", "Debug::NoLocking=true",
    ]  # fmt: skip
    staging = apt_dir / "debs"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    if dependencies:
        command = ["install", "--yes", "--no-install-recommends", "--download-only", *packages]
    else:
        command = ["download", *packages]
    try:
        _apt([*private, *command], folder=staging)
    except DebianError:
        _apt([*private, "update"])
        _apt([*private, *command], folder=staging)
    partial = into.with_name(into.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for deb in sorted([*staging.glob("*.deb"), *archives.glob("*.deb")]):
        _run(["dpkg-deb", "--extract", str(deb), str(partial)])
        deb.unlink()
    shutil.rmtree(into, ignore_errors=True)
    partial.rename(into)


def _apt(arguments: Sequence[str], *, folder: Path | None = None) -> None:
    _run(["apt-get", *_QUIET, *arguments], folder=folder)


def _run(command: Sequence[str], *, folder: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DebianError(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise DebianError(f"{command[0]} said: {lines[-1].strip() if lines else f'exit status {done.returncode}'}")
