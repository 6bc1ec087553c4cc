# SPDX-License-Identifier: Apache-2.0
"""The log after a crash, a failing disk or an older copy: whole batches stand, torn ones go, a fork is refused."""

import os
import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.checkpoint import read_checkpoint, verify_checkpoint
from gpuledger.errors import SealError, StorageError
from gpuledger_collector.disk import Disk
from gpuledger_collector.log import Identity, Known, LogWriter
from gpuledger_collector.tiles import LogReader
from tests.fakes.logs import IDENTITY, FullDisk, append, entries, fill, open_log, some_batch
from tests.fakes.programs import run_python
from tests.fakes.readings import key_of


def spoil(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# ---------------------------------------------------------------------------------------------- crashes and repairs


def test_a_batch_that_is_whole_but_has_no_checkpoint_yet_is_published_on_open(tmp_path: Path) -> None:
    fill(tmp_path, 10, 250)
    older = (tmp_path / "checkpoint").read_bytes()
    roots = fill(tmp_path, 300, 5)
    newest = (tmp_path / "checkpoint").read_bytes()
    (tmp_path / "checkpoint").write_bytes(older)
    with open_log(tmp_path) as log:
        assert log.note() == newest
        assert log.root == roots[-1]
        append(log, 7)
        assert log.root_at(len(roots) - 1) == roots[-1]


def test_a_log_without_any_checkpoint_is_published_again_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path, 10, 400)
    newest = (tmp_path / "checkpoint").read_bytes()
    (tmp_path / "checkpoint").unlink()
    shutil.rmtree(tmp_path / "tile/0")
    shutil.rmtree(tmp_path / "tile/1")
    with open_log(tmp_path) as log:
        assert log.note() == newest
        assert len(entries(log)) == 412


@pytest.mark.parametrize("folder", ["tile/entries", "workloads"])
@pytest.mark.parametrize("kept", [0, 1, 5, -200, -1])
def test_a_batch_that_is_not_whole_is_cut_on_open(tmp_path: Path, folder: str, kept: int) -> None:
    fill(tmp_path, 10)
    older = (tmp_path / "checkpoint").read_bytes()
    ends = {name: (tmp_path / name / "000").stat().st_size for name in ("tile/entries", "workloads")}
    fill(tmp_path, 20)
    (tmp_path / "checkpoint").write_bytes(older)
    path = tmp_path / folder / "000"
    os.truncate(path, max(ends[folder], ends[folder] + kept if kept >= 0 else path.stat().st_size + kept))
    with open_log(tmp_path) as log:
        assert log.size == 11
        append(log, 2)
        assert log.size == 14
    fresh = tmp_path / "fresh"
    fill(fresh, 10, 2)
    for name in ("checkpoint", "tile/entries/000", "tile/0/000", "workloads/000"):
        assert (tmp_path / name).read_bytes() == (fresh / name).read_bytes(), name


@pytest.mark.parametrize("folder", ["tile/entries", "workloads"])
def test_a_changed_byte_in_a_batch_without_a_checkpoint_cuts_it(tmp_path: Path, folder: str) -> None:
    fill(tmp_path, 10)
    older = (tmp_path / "checkpoint").read_bytes()
    end = (tmp_path / folder / "000").stat().st_size
    fill(tmp_path, 20)
    (tmp_path / "checkpoint").write_bytes(older)
    spoil(tmp_path / folder / "000", end + 5)
    with open_log(tmp_path) as log:
        assert log.size == 11


def test_zeros_that_a_power_cut_left_behind_the_end_are_cut(tmp_path: Path) -> None:
    roots = fill(tmp_path, 10)
    for name in ("tile/entries/000", "tile/0/000", "workloads/000"):
        with (tmp_path / name).open("ab") as file:
            file.write(bytes(10_000))
    with open_log(tmp_path) as log:
        assert log.root == roots[-1]
        append(log, 1)
    assert len(entries(LogReader(tmp_path))) == 13


# ---------------------------------------------------------------------------------------------- what does not fit


def harm(path: Path, how: str | int) -> None:
    """Take a file away, cut its last byte, or change the byte at a place."""
    if how == "missing":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        spoil(path, int(how))


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("tile/0/001", "missing", r"tile/0/001: is missing, and the log has it: restore it from a copy"),
        ("tile/1/000", "missing", r"tile/1/000: is missing"),
        ("tile/entries/001", "missing", r"tile/entries/001: is missing"),
        ("workloads/001", "missing", r"workloads/001: is missing"),
        ("tile/0/001", "cut", r"tile/0/001: ends at \d+, and the log has more"),
        ("tile/entries/001", "cut", r"tile/entries/001: ends within entry 310, and the log has more"),
        ("workloads/001", "cut", r"workloads/001: ends within entry 310"),
        ("tile/0/001", 40, r"checkpoint: the tiles do not have the root that was signed at 311 entries"),
        ("tile/1/000", 0, r"checkpoint: the tiles do not have the root"),
        ("tile/entries/001", 5, r"tile/entries/001: entry 256 is not what the tree says"),
        ("checkpoint", 3, r"checkpoint: .*: the checkpoint or the log's key is not this log's"),
        ("checkpoint", 17, r"checkpoint: .*: the checkpoint or the log's key is not this log's"),
    ],
)
def test_files_that_do_not_fit_the_checkpoint_are_named_and_nothing_is_appended(
    tmp_path: Path, name: str, how: str | int, said: str
) -> None:
    fill(tmp_path, 300, 9)
    harm(tmp_path / name, how)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with pytest.raises(StorageError, match=said):
        open_log(tmp_path)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_an_entry_that_was_changed_is_named_whenever_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path, 300)
    spoil(tmp_path / "tile/entries/000", 5)
    with open_log(tmp_path) as log:
        with pytest.raises(StorageError, match=r"tile/entries/000: entry 0 is not what the tree says"):
            log.read(0)
        with pytest.raises(StorageError, match=r"tile/entries/000: entry 0 is not what the tree says"):
            entries(log)
        assert log.read(1).data == some_batch(1, 1)[0][0]
        assert len(list(log.iterate(1))) == 300


@pytest.mark.parametrize("older", ["tile/entries/000", "tile/0/000", "workloads/000"])
def test_a_file_from_an_older_copy_is_refused(tmp_path: Path, older: str) -> None:
    fill(tmp_path, 10)
    kept = (tmp_path / older).read_bytes()
    fill(tmp_path, 10)
    (tmp_path / older).write_bytes(kept)
    with pytest.raises(StorageError, match=f"{older}: ends (at|within)"):
        open_log(tmp_path)


def test_a_log_from_an_older_copy_is_refused_by_whoever_knows_it_further(tmp_path: Path) -> None:
    fill(tmp_path / "log", 10)
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    with open_log(tmp_path / "log") as log:
        append(log, 5)
        known = Known(size=log.size, root=log.root.hex())
    with open_log(tmp_path / "log", known=known) as log:
        append(log, 1)
    with pytest.raises(StorageError, match="the log ends at 11 entries, and the index knows 17: an older copy"):
        open_log(tmp_path / "copy", known=known)


def test_a_log_that_went_on_from_an_older_copy_is_refused_by_whoever_knew_the_other(tmp_path: Path) -> None:
    fill(tmp_path / "log", 10)
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    with open_log(tmp_path / "log") as log:
        append(log, 5)
        known = Known(size=log.size, root=log.root.hex())
    with open_log(tmp_path / "copy") as copy:
        copy.append([(b"something else", None)] * 20, 0)
    with pytest.raises(StorageError, match="not the one that the index knows: their first 17 entries differ"):
        open_log(tmp_path / "copy", known=known)


def test_another_key_or_name_than_the_logs_own_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    with pytest.raises(StorageError, match=r"note: not signed by key .* of 'log.example/fra1'"):
        LogWriter(tmp_path, Identity(origin=IDENTITY.origin, key=key_of("other")))
    with pytest.raises(StorageError, match=r"the log is log.example/fra1, and log.example/fra2 was expected"):
        LogWriter(tmp_path, Identity(origin="log.example/fra2", key=IDENTITY.key))
    with pytest.raises(SealError, match="origin 'two words' is not"):
        LogWriter(tmp_path, Identity(origin="two words", key=IDENTITY.key))


def test_a_successor_signs_the_same_tree_under_its_own_name(tmp_path: Path) -> None:
    roots = fill(tmp_path, 300)
    successor = Identity(origin="log.example/fra1-2", key=key_of("new"))
    with open_log(tmp_path) as log:
        log.append([(b"a new origin", None)], 0, successor=successor)
        append(log, 2)
        assert log.root_at(301) == roots[-1]
    found = verify_checkpoint((tmp_path / "checkpoint").read_bytes(), successor.key.public_bytes)
    assert (found.origin, found.size) == ("log.example/fra1-2", 306)
    with LogWriter(tmp_path, successor) as log:
        append(log, 2)
    with pytest.raises(StorageError, match="the checkpoint or the log's key is not this log's"):
        open_log(tmp_path)


def test_a_log_of_the_earlier_form_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "entries.log").write_bytes(b"gpuledger-log 1\n")
    with pytest.raises(StorageError, match=r"entries\.log: a log of an earlier form, .* begin with an empty state_dir"):
        open_log(tmp_path)


def test_a_log_that_is_refused_takes_nothing_and_says_why(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append(log, 1)
        log.refuse("somebody saw more")
        with pytest.raises(StorageError, match="somebody saw more"):
            append(log, 1)
        assert (log.size, log.refusal) == (2, "somebody saw more")


def test_a_second_writer_is_told_that_another_collector_is_at_work(tmp_path: Path) -> None:
    code = "import sys, pathlib\nfrom tests.fakes.logs import open_log\nopen_log(pathlib.Path(sys.argv[1]))\n"
    with open_log(tmp_path):
        done = run_python("-c", code, str(tmp_path))
    assert done.returncode == 1
    assert "lock: another collector is writing this log; one state_dir serves one" in done.stderr


# ---------------------------------------------------------------------------------------------- disks that fail


@pytest.mark.parametrize("room", [0, 1, 20, 2000, 7000])
def test_a_full_disk_leaves_the_log_as_it_was_and_says_so(tmp_path: Path, room: int) -> None:
    roots = fill(tmp_path, 250)
    disk = FullDisk(room)
    with open_log(tmp_path, disk=disk) as log:
        with pytest.raises(StorageError, match="cannot append to the log: No space left on device"):
            append(log, 100)
        assert (log.size, log.root) == (251, roots[-1])
        assert len(entries(log)) == 251
        disk.room = 1 << 30
        append(log, 100)
    assert fill(tmp_path) == fill(tmp_path / "fresh", 250, 100)


@pytest.mark.parametrize("step", ["sync", "rename", "truncate"])
def test_a_disk_that_fails_at_any_step_loses_the_batch_and_nothing_else(tmp_path: Path, step: str) -> None:
    fill(tmp_path, 250)
    disk = FullDisk()
    with open_log(tmp_path, disk=disk) as log:
        disk.fails_on = step
        with pytest.raises(StorageError, match="cannot append to the log: Input/output error"):
            append(log, 100)
        disk.fails_on = None
        append(log, 100)
    assert fill(tmp_path) == fill(tmp_path / "fresh", 250, 100)


class BrokenOff(Disk):
    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        raise KeyboardInterrupt


def test_an_append_that_was_broken_off_is_settled_by_the_next_start_only(tmp_path: Path) -> None:
    with open_log(tmp_path, disk=BrokenOff()) as log:
        with pytest.raises(KeyboardInterrupt):
            append(log, 5)
        with pytest.raises(StorageError, match="the last append was broken off; restart the collector"):
            append(log, 5)
    with open_log(tmp_path) as log:
        assert log.size == 6


def test_a_file_that_lost_its_end_under_the_writer_is_named_and_not_filled_with_zeros(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append(log, 5)
        os.truncate(tmp_path / "tile/entries/000", 7)
        with pytest.raises(StorageError, match=r"tile/entries/000: ends at 7, and \d+ were written"):
            append(log, 5)


def test_a_file_that_may_not_grow_is_a_full_disk_to_the_real_log(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.fakes.logs import open_log\n"
        "log = open_log(Path(sys.argv[1]))\n"
        "log.append([(b'kept', None)], 0)\n"
        "log.append([(bytes(5000), None)], 0)\n"
    )
    limit = (4096, 4096)
    done = run_python("-c", code, str(tmp_path), before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert "cannot append to the log: File too large" in done.stderr
    assert entries(LogReader(tmp_path))[0] == b"kept"
    assert LogReader(tmp_path).size == 2


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/log/lock: cannot open the log: Not a directory"):
        open_log(tmp_path / "file" / "log")


def test_a_checkpoint_that_is_none_is_named_by_readers(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"nothing\n")
    with pytest.raises(StorageError, match="checkpoint: note: no text, empty line and signatures"):
        _ = LogReader(tmp_path).size
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(StorageError, match="checkpoint: cannot be read: Is a directory"):
        LogReader(tmp_path).note()


# ---------------------------------------------------------------------------------------------- never a fork


@given(data=st.data())
def test_whatever_older_files_are_put_back_no_checkpoint_ever_contradicts_another(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Copies of single files and of all of them are put back between appends: refused, or the same tree goes on."""
    directory = tmp_path_factory.mktemp("log")
    published: dict[int, bytes] = {}
    copies: list[dict[str, bytes]] = []
    known: Known | None = None
    for _ in range(data.draw(st.integers(2, 6))):
        if len(copies) > 0 and data.draw(st.booleans()):
            copy = data.draw(st.sampled_from(copies))
            some = data.draw(st.lists(st.sampled_from(sorted(copy)), min_size=1))
            for name in sorted(copy) if data.draw(st.booleans()) else some:
                (directory / name).write_bytes(copy[name])
        try:
            with open_log(directory, known=known) as log:
                append(log, data.draw(st.integers(0, 120)))
                found = read_checkpoint(log.note() or b"")
                known = Known(size=log.size, root=log.root.hex())
                for size, root in published.items():
                    assert size <= found.size
                    assert log.root_at(size) == root
                published[found.size] = found.root
        except StorageError:
            break
        files = [path for path in directory.rglob("*") if path.is_file()]
        copies.append({str(path.relative_to(directory)): path.read_bytes() for path in files})
    shutil.rmtree(directory)
