# SPDX-License-Identifier: Apache-2.0
"""Programs from outside Python that some tests need; `make test` looks after them (tools/parts.py).

A missing part skips the tests that need it and names the package. With CI set in the environment it fails them.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

UNPACKED = Path(__file__).resolve().parent.parent / ".tools" / "bin"
PACKAGES = {
    "amtool": "Debian's package prometheus-alertmanager",
    "cc": "Debian's packages gcc and libc6-dev (or the Python package ziglang)",
    "chromium": "Debian's package chromium",
    "munged": "Debian's package munge",
    "nvitop-exporter": "the Python package nvitop-exporter",
    "prometheus": "Debian's package prometheus",
    "prometheus-alertmanager": "Debian's package prometheus-alertmanager",
    "promtool": "Debian's package prometheus",
    "slurmctld": "Debian's package slurm-wlm",
    "slurmd": "Debian's package slurm-wlm",
    "strace": "Debian's package strace",
    "victoria-metrics": "Debian's package victoria-metrics",
}


def find_part(command: str) -> Path | None:
    """Where the command is: on PATH, else unpacked in the checkout, else None."""
    found = shutil.which(command) or shutil.which(command, path=str(UNPACKED))
    return None if found is None else Path(found)


def require_part(command: str) -> Path:
    """The command's path; skips the test when it is missing, and fails it under CI. Use it in a test or a fixture."""
    return find_part(command) or _missing(command)


def _missing(command: str) -> NoReturn:
    sentence = f"{command} is missing: install {PACKAGES[command]}, or run `make test` with a network"
    if os.environ.get("CI"):
        pytest.fail(f"{sentence} (a failure, not a skip, because CI is set)", pytrace=False)
    pytest.skip(sentence)
