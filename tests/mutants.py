# SPDX-License-Identifier: Apache-2.0
"""Defects to plant: one text in one file replaced by another. Each must be found by the tests of its file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands in `path` exactly once; `new` takes its place. `what` says what is wrong then.

    `tests` are the modules under tests/unit that are to find it.
    """

    path: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]


def load() -> tuple[Mutant, ...]:
    """Return the defects of tests/mutants.toml."""
    document = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return tuple(
        Mutant(path=file["path"], tests=tuple(file["tests"]), **defect)
        for file in document["file"]
        for defect in file["defect"]
    )
