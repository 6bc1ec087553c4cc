# SPDX-License-Identifier: Apache-2.0
"""The peers that benchmarks run beside the agent: pinned, each in a Python environment of its own under build/peers.

One environment each, since they disagree about whose `pynvml` is installed. Locks are requirements/peer-NAME.txt.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.abi.build import ROOT

ENVIRONMENTS = ROOT / "build" / "peers"
MINOR_NEWEST = 14
_TIMEOUT_S = 600


class PeerMissing(Exception):
    """A peer cannot be had here; the text is one sentence without a full stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer by its name on the package index; `python` is the least minor version of Python 3 that it runs on."""

    name: str
    program: str
    python: int

    @property
    def lock(self) -> Path:
        return ROOT / "requirements" / f"peer-{self.name}.txt"

    @property
    def version(self) -> str:
        """The version that is locked."""
        found = re.search(rf"^{re.escape(self.name)}==(\S+)", self.lock.read_text(encoding="utf-8"), re.MULTILINE)
        if found is None:
            raise PeerMissing(f"{self.lock.name} does not pin {self.name}")
        return found[1]


NVITOP = Peer(name="nvitop-exporter", program="nvitop-exporter", python=11)
GUA = Peer(name="gpu-usage-audit", program="gua", python=12)
GPUCM = Peer(name="gpucm", program="gcm", python=11)


def provide(peer: Peer) -> Path:
    """Return the peer's program, installed if it is not yet; raises PeerMissing."""
    digest = hashlib.sha256(peer.lock.read_bytes()).hexdigest()[:12]
    folder = ENVIRONMENTS / f"{peer.name}-{digest}"
    program = folder / "bin" / peer.program
    if (folder / "complete").exists():
        return program
    python = _python(peer)
    shutil.rmtree(folder, ignore_errors=True)
    _run([python, "-m", "venv", "--without-pip", str(folder)], f"no environment for {peer.name} could be made")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    options = ["--no-input", "-qq", "--require-hashes", "--only-binary", ":all:", "--requirement", str(peer.lock)]
    _run([*pip, "install", *options], f"{peer.name} could not be installed")
    (folder / "complete").touch()
    return program


def _python(peer: Peer) -> str:
    for command in _interpreters():
        code = f"import sys, venv; sys.exit(sys.version_info < (3, {peer.python}))"
        # A shim of a version manager may be there and lead nowhere.
        if subprocess.run([command, "-c", code], capture_output=True, check=False).returncode == 0:
            return command
    raise PeerMissing(f"{peer.name} wants Python 3.{peer.python} or newer, which was not found")


def _interpreters() -> Iterator[str]:
    yield sys.executable
    for minor in range(11, MINOR_NEWEST + 1):
        found = shutil.which(f"python3.{minor}")
        if found is not None:
            yield found
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from (str(path) for path in sorted(versions.glob("3.1[1-9]*/bin/python3")))


def _run(command: list[str], sentence: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise PeerMissing(f"{sentence} within {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise PeerMissing(f"{sentence}: {lines[-1] if lines else 'nothing was said'}")
