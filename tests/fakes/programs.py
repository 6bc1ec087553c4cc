# SPDX-License-Identifier: Apache-2.0
"""Python programs of their own, with the checkout importable whether or not it is installed."""

import os
import subprocess
import sys
from collections.abc import Callable


def python_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def run_python(*arguments: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end; `before` runs in the new process first."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=python_environment(),
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
    )
