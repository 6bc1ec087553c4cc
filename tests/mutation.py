# SPDX-License-Identifier: Apache-2.0
"""Plants each defect of tests/mutants.toml in a copy of the tree, sees that a test fails, and writes docs/mutation.md.

Run by hand or with `make mutation`; takes minutes. Exits 1 when a defect survives. Arguments choose defects by a part
of their file name or sentence, and then nothing is written.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.mutants import Mutant, load

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "mutation.md"
COPIED = ("common", "agent", "collector", "tests")
TIMEOUT_S = 600
FAILED = re.compile(r"^FAILED (?:\S+/)?(\w+)\.py::(\w+)", re.MULTILINE)

HEAD = """\
# Mutation check

Written by `make mutation`. Each line is a defect that was planted in a copy of the code, one at a time, and the first
test that failed because of it.

"""


class MutationError(click.ClickException):
    """A defect that cannot be planted or judged."""


def plant(mutant: Mutant, root: Path) -> None:
    """Write the defect into the tree at `root`."""
    path = root / mutant.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise MutationError(f"{mutant.path}: {mutant.old!r} stands there {text.count(mutant.old)} times, not once")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def run_tests(names: tuple[str, ...], root: Path) -> str | None:
    """Return the first test that fails in the tree at `root`, None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
    command += ["--hypothesis-profile=mutation"]
    command += [f"tests/unit/{name}.py" for name in names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode == 0:
        return None
    found = FAILED.search(done.stdout)
    if done.returncode != 1 or found is None:
        raise MutationError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return f"{found[1]}: {found[2].removeprefix('test_').replace('_', ' ')}"


def judge(mutant: Mutant, base: Path, work: Path) -> str | None:
    """Return the test that finds the defect, None where it survives."""
    tree = work / "tree"
    shutil.copytree(base, tree)
    try:
        plant(mutant, tree)
        return run_tests(mutant.tests, tree)
    finally:
        shutil.rmtree(tree)


def write_report(found: list[tuple[Mutant, str | None]]) -> None:
    """Write the list of defects and what found them."""
    killed = sum(test is not None for _, test in found)
    lines = [f"{killed} of {len(found)} defects were found.", "", "| file | defect | found by |", "|---|---|---|"]
    lines += [f"| {mutant.path} | {mutant.what} | {test or '**survived**'} |" for mutant, test in found]
    REPORT.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


@click.command()
@click.argument("parts", nargs=-1)
def main(parts: tuple[str, ...]) -> None:
    """Plant every defect (or those named by PARTS) and see it found."""
    chosen = [m for m in load() if not parts or any(part in f"{m.path} {m.what}" for part in parts)]
    found: list[tuple[Mutant, str | None]] = []
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        base = work / "base"
        for name in COPIED:
            shutil.copytree(ROOT / name, base / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
        shutil.copy(ROOT / "pyproject.toml", base)
        for number, mutant in enumerate(chosen, start=1):
            test = judge(mutant, base, work)
            found.append((mutant, test))
            click.echo(f"{number}/{len(chosen)} {mutant.path}: {mutant.what}: {test or 'SURVIVED'}")
    if not parts:
        write_report(found)
    survived = sum(test is None for _, test in found)
    click.echo(f"{len(found) - survived} of {len(found)} defects were found")
    if survived:
        raise MutationError(f"{survived} survived")


if __name__ == "__main__":
    main()
