# SPDX-License-Identifier: Apache-2.0
"""Process trees as files have them (tests/data/process_trees): one line a process, PID PARENT FLAGS COMMAND.

FLAGS are g (it holds a GPU, or would), l (it listens), t (the rest is a title, not a command line), - for none of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuledger.process_matching import KINDS, ProcessFact
from gpuledger.settings import read_toml

FOLDER = Path(__file__).resolve().parents[1] / "data" / "process_trees"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One workload's processes, and what it is: a kind, or "none" where its processes do not tell."""

    program: str
    version: str
    source: str
    kind: str
    tag: str | None
    processes: tuple[ProcessFact, ...]
    listens: bool
    is_recorded: bool


def read(file: Path) -> Iterator[Tree]:
    """Yield the trees of a file."""
    for number, row in enumerate(read_toml(file)["tree"]):
        where = f"{file.name}: tree {number + 1}"
        assert set(row) <= {"program", "version", "source", "kind", "tag", "processes", "command"}, where
        assert row["kind"] in {*KINDS, "none"}, where
        lines = row["processes"].strip().splitlines()
        yield Tree(
            program=row["program"],
            version=row["version"],
            source=row["source"],
            kind=row["kind"],
            tag=row.get("tag"),
            processes=tuple(parse(line) for line in lines),
            listens=any("l" in line.split()[2] for line in lines),
            is_recorded=file.parent.name == "recorded",
        )


def parse(line: str) -> ProcessFact:
    """Return the process of a line."""
    pid, parent, flags, rest = line.split(None, 3)
    argv = (rest,) if "t" in flags else tuple(shlex.split(rest))
    exe = "/usr/bin/python3.11" if "t" in flags else None
    return ProcessFact(pid=int(pid), parent=int(parent), argv=argv, exe=exe, holds_gpu="g" in flags)


def positives() -> list[Tree]:
    """Return every tree whose processes tell a kind, documented and recorded."""
    return [tree for tree in everything() if tree.kind != "none"]


def everything() -> list[Tree]:
    """Return every documented and recorded tree."""
    return [tree for file in sorted(FOLDER.rglob("*.toml")) for tree in read(file)]
