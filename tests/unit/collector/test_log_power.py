# SPDX-License-Identifier: Apache-2.0
"""A power cut in the middle of an append: what was not flushed is gone, half there or zeros, names and renames too."""

import contextlib
import shutil
import threading
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger_collector.check_tree import TreeCheck
from gpuledger_collector.disk import Disk
from gpuledger_collector.tiles import LogReader
from tests.fakes.logs import append, open_log
from tests.profiles import examples


class PowerCut(BaseException):
    """Nothing that the program would still do is done."""


class Killed(PowerCut):
    """The same, but the machine goes on: what was written is still on its way to the disk."""


class VolatileDisk(Disk):
    """A disk that surely keeps only what was flushed; the program ends before step `last`, or the machine does."""

    def __init__(self, last: int, end: type[PowerCut] = PowerCut) -> None:
        self._last, self._end = last, end
        self._mutex = threading.Lock()
        self.steps = 0
        self._paths: dict[int, Path] = {}
        self._contents: dict[Path, bytes] = {}
        """What of each file was flushed."""
        self._names: set[Path] = set()
        """Files and directories whose name was flushed."""
        self._directories: list[Path] = []
        """Those that were made."""
        self._replaced: dict[Path, bytes | None] = {}
        """What a file was before a rename that was not flushed took its place."""

    def take_for_flushed(self, directory: Path) -> None:
        for path in directory.rglob("*"):
            self._names.add(path)
            if path.is_file():
                self._contents[path] = path.read_bytes()

    def start_again(self, last: int, end: type[PowerCut] = PowerCut) -> None:
        """The next run of the program, on the same machine."""
        self.steps, self._last, self._end = 0, last, end

    def _step(self) -> None:
        # Files are flushed at once, in threads; after the cut nothing reaches the disk any more.
        with self._mutex:
            self.steps += 1
            if self.steps >= self._last:
                raise self._end

    def create_directory(self, path: Path) -> None:
        self._step()
        super().create_directory(path)
        self._directories.append(path)

    def open(self, path: Path) -> int:
        self._step()
        file = super().open(path)
        self._paths[file] = path
        self._contents.setdefault(path, b"")
        return file

    def write(self, file: int, data: bytes, offset: int) -> int:
        self._step()
        return super().write(file, data, offset)

    def truncate(self, file: int, size: int) -> None:
        self._step()
        super().truncate(file, size)

    def sync(self, file: int) -> None:
        self._step()
        self._contents[self._paths[file]] = self._paths[file].read_bytes()

    def sync_directory(self, path: Path) -> None:
        self._step()
        self._names |= set(path.iterdir())

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        self._replaced[target] = target.read_bytes() if target.exists() else None
        super().rename(source, target)
        self._contents[target] = self._contents.pop(source)
        self._names.add(target)

    def cut(self, rng: Random) -> None:
        """Make the files what a power cut may leave of them."""
        for directory in self._directories:
            if directory not in self._names and rng.random() < 0.5:
                shutil.rmtree(directory, ignore_errors=True)
        for path, flushed in self._contents.items():
            if not path.parent.exists():
                continue
            now = path.read_bytes() if path.exists() else b""
            if path not in self._names and rng.random() < 0.5:
                path.unlink(missing_ok=True)
                continue
            if path not in self._replaced:
                same = [one == other for one, other in zip(flushed, now, strict=False)]
                start = same.index(False) if False in same else len(same)
                kept = rng.choice((start, len(now), rng.randint(start, len(now))))
                zeros = bytes(rng.choice((0, len(now) - kept)))
                path.write_bytes(rng.choice((flushed, now[:kept] + zeros)))
        for path, before in self._replaced.items():
            if rng.random() < 0.5:
                path.write_bytes(self._contents[path])
            elif before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)


def close(log: LogReader | None) -> None:
    if log is not None:
        with contextlib.suppress(OSError):
            log.close()


COUNTS = st.integers(0, 270)


@examples(2)
@given(
    last=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    counts=st.lists(COUNTS, min_size=1, max_size=3),
)
def test_what_was_acknowledged_outlives_a_power_cut_and_no_checkpoint_is_contradicted(
    tmp_path_factory: pytest.TempPathFactory, last: int, seed: int, counts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("power") / "log"
    with open_log(directory) as log:
        append(log, seed % 300)
        acknowledged = {log.size: log.root}
    disk = VolatileDisk(last)
    disk.take_for_flushed(directory)
    log = open_log(directory, disk=disk)
    try:
        for count in counts:
            append(log, count)
            acknowledged[log.size] = log.root
    except PowerCut:
        pass
    close(log)
    published = LogReader(directory).checkpoint()
    assert published is not None
    acknowledged[published.size] = published.root
    disk.cut(Random(seed))
    with open_log(directory) as log:
        for size, root in acknowledged.items():
            assert log.size >= size
            assert log.root_at(size) == root
        append(log, 3)
        failures: list[str] = []
        tree = TreeCheck(log, failures.append)
        assert len(list(tree.entries(log.size))) == log.size
        assert (failures, tree.frontier.root()) == ([], log.root)
    shutil.rmtree(directory.parent)


@examples(2)
@given(
    killed=st.integers(1, 40), last=st.integers(1, 60), seed=st.integers(0, 2**32), counts=st.lists(COUNTS, max_size=3)
)
def test_names_that_a_killed_run_left_behind_are_flushed_before_anything_is_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, killed: int, last: int, seed: int, counts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("killed") / "log"
    disk = VolatileDisk(killed, Killed)
    acknowledged: dict[int, bytes] = {}
    for count in (3, *counts):
        log = None
        try:
            log = open_log(directory, disk=disk)
            append(log, count)
            acknowledged[log.size] = log.root
        except PowerCut:
            pass
        close(log)
        disk.start_again(last)
    disk.cut(Random(seed))
    with open_log(directory) as log:
        for size, root in acknowledged.items():
            assert (log.size >= size, log.root_at(size)) == (True, root)
        assert len(list(log.iterate())) == log.size
    shutil.rmtree(directory.parent)
