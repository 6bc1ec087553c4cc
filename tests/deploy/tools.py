# SPDX-License-Identifier: Apache-2.0
"""Where the tools of requirements/deploy.in are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".tools" / "deploy" / "bin"


def tool(name: str) -> str:
    """Return the path of a tool; without it the test is skipped, or fails under `make test-deploy`."""
    path = BIN / name
    if not path.exists():
        sentence = f"{name} is missing: `make test-deploy` installs it"
        if os.environ.get("GPULEDGER_TEST_DEPLOY"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)
    return str(path)


def run(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool(name), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
