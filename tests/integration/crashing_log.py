# SPDX-License-Identifier: Apache-2.0
"""A log that is killed before, or within, each single thing that it does to its files: `python crashing_log.py DIR`.

One child runs undisturbed and counts its steps. Then for every step a child ends itself there with SIGKILL, and the
next start is looked at: all that was acknowledged is there, every checkpoint that was ever published is a beginning of
the log, and the same entries appended again make the log of the undisturbed child, byte by byte.

Prints for every step: its number, what it was, how it was cut, and at how many entries the next start took the log up.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from gpuledger.checkpoint import read_checkpoint
from gpuledger.merkle import Frontier, hash_leaf
from gpuledger_collector.log import LogWriter
from gpuledger_collector.tiles import LogReader
from tests.fakes.logs import CountingDisk, end_here, open_log, some_batch

BATCHES = (3, 0, 250, 5, 260)
"""Small ones, an empty one, one that fills a tile, and one that fills one and begins the next."""

AGAIN_STEPS = 14
"""As many as a start needs to publish a batch that was left whole, and some of what it does then."""


def append_from(log: LogWriter, number: int) -> None:
    first = sum(BATCHES[:number])
    log.append(some_batch(first, BATCHES[number]), number)


def live(directory: Path, disk: CountingDisk, pipe: int) -> None:
    """Append what is not there yet, batch by batch, and say on the pipe what was acknowledged."""
    log = open_log(directory, disk=disk)
    for number in range(batches_in(log.size), len(BATCHES)):
        append_from(log, number)
        os.write(pipe, (str(log.line) + "\n").encode())


def batches_in(size: int) -> int:
    """Return how many whole batches make a log of so many entries."""
    for number in range(len(BATCHES) + 1):
        if size == sum(BATCHES[:number]) + number:
            return number
    raise AssertionError(f"{size} entries are no whole batches")


def run(directory: Path, disk: CountingDisk) -> tuple[list[tuple[int, bytes]], bool]:
    """Run one child; return (size, root) of each checkpoint that it acknowledged, and whether it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            live(directory, disk, writer)
            os.write(writer, f"steps {len(disk.steps)} {' '.join(disk.steps)}\n".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    if lines and lines[-1].startswith("steps "):
        disk.steps.extend(lines.pop().split()[2:])
    found = []
    for line in lines:
        origin, size, root, _ = line.split(" ")
        checkpoint = read_checkpoint(f"{origin}\n{size}\n{root}\n\n— x YWJjZGU=\n".encode())
        found.append((checkpoint.size, checkpoint.root))
    return found, os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def killing_disk(step: int, part: float | None) -> CountingDisk:
    """A disk that ends the program before the step, or with a part of it done if it is a write."""

    def before(number: int, what: str) -> float | None:
        if number == step:
            if part is not None and what == "write":
                return part
            end_here()
        return None

    return CountingDisk(before)


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("lock", "checkpoint.new")
    }


def root_of_entries(log: LogReader) -> bytes:
    tree = Frontier()
    for leaf in log.iterate():
        tree.append(hash_leaf(leaf.data))
    return tree.root()


def check(directory: Path, published: list[tuple[int, bytes]], expected: dict[str, bytes]) -> int:
    """Look at what a crash left; return at how many entries the next start takes the log up."""
    seen = LogReader(directory).checkpoint()
    if seen is not None:
        published.append((seen.size, seen.root))
    with open_log(directory) as log:
        size = log.size
        for known, root in published:
            if known > size or log.root_at(known) != root:
                raise SystemExit(f"a checkpoint of {known} entries was published, and the log has {size} others")
        if root_of_entries(log) != log.root:
            raise SystemExit("the tiles are not those of the entries")
        for number in range(batches_in(size), len(BATCHES)):
            append_from(log, number)
    if files(directory) != expected:
        raise SystemExit("the log that went on is not the one that was never disturbed")
    return size


def crash_again(crashed: Path, published: list[tuple[int, bytes]], expected: dict[str, bytes]) -> None:
    """Kill the next start, too, before each step in which it publishes what the crash left without a checkpoint."""
    directory = crashed.with_name("again")
    for step in range(1, AGAIN_STEPS + 1):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(crashed, directory)
        more, _ = run(directory, killing_disk(step, None))
        check(directory, [*published, *more], expected)


def main(parent: Path) -> None:
    undisturbed = parent / "undisturbed"
    disk = CountingDisk()
    run(undisturbed, disk)
    expected = files(undisturbed)
    for step, what in enumerate(disk.steps, start=1):
        for part in (None, 0.5, 1.0) if what == "write" else (None,):
            directory = parent / "log"
            shutil.rmtree(directory, ignore_errors=True)
            published, was_killed = run(directory, killing_disk(step, part))
            if not was_killed:
                raise SystemExit(f"the child lived on after step {step}, {what}")
            if what == "rename":
                crash_again(directory, published, expected)
            size = check(directory, published, expected)
            sys.stdout.write(f"{step} {what} {part} {size}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
