# SPDX-License-Identifier: Apache-2.0
"""The crash file: whatever byte its writer died at, the document before is whole."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.errors import StorageError
from gpuledger_agent.crash_file import SLOT_BYTES, CrashFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "open"


def written(path: Path, *documents: bytes | None) -> bytes:
    file = CrashFile(path)
    file.read()
    for document in documents:
        file.write(document)
    file.close()
    return path.read_bytes()


def test_there_is_no_document_before_the_first(path: Path) -> None:
    assert CrashFile(path).read() is None


def test_the_newest_document_is_read_again(path: Path) -> None:
    written(path, b"one", b"two", b"three")
    assert CrashFile(path).read() == b"three"
    written(path, None)
    assert CrashFile(path).read() is None


def test_a_writer_goes_on_where_the_one_before_died(path: Path) -> None:
    for number in range(7):
        written(path, b"%d" % number)
        assert CrashFile(path).read() == b"%d" % number


def test_a_write_cut_short_at_any_byte_leaves_the_document_before(path: Path) -> None:
    """The slot holds an older, longer document, then the beginning of the new one."""
    before = written(path, b"a" * 90, b"kept" * 5, None, b"older" * 30, b"the one before")
    after = written(path, b"the newest" * 7)
    changed = [index for index in range(len(before)) if before[index : index + 1] != after[index : index + 1]]
    assert changed[-1] - changed[0] > 70
    for length in range(changed[0], changed[-1] + 1):
        path.write_bytes(after[:length] + before[length:])
        assert CrashFile(path).read() == b"the one before"
    path.write_bytes(after)
    assert CrashFile(path).read() == b"the newest" * 7


def test_a_file_cut_short_at_any_byte_of_its_second_slot_leaves_the_first(path: Path) -> None:
    whole = written(path, b"second", b"first")
    for length in range(SLOT_BYTES, len(whole)):
        path.write_bytes(whole[:length])
        assert CrashFile(path).read() == b"first"


@given(garbage=st.binary(max_size=200), offset=st.sampled_from([0, 8, 16, 20, 24, SLOT_BYTES, SLOT_BYTES + 8]))
def test_what_a_power_loss_leaves_is_a_whole_document_or_none(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, offset: int
) -> None:
    path = tmp_path_factory.mktemp("crash") / "open"
    whole = written(path, b"one", b"two")
    path.write_bytes(whole[:offset] + garbage + whole[offset + len(garbage) :])
    assert CrashFile(path).read() in (None, b"one", b"two")


def test_a_document_that_does_not_fit_is_refused_and_the_one_before_stays(path: Path) -> None:
    file = CrashFile(path)
    file.write(b"kept")
    with pytest.raises(StorageError, match="do not fit"):
        file.write(b"x" * SLOT_BYTES)
    assert CrashFile(path).read() == b"kept"


def test_a_full_disk_leaves_the_document_before_and_writing_goes_on_later(path: Path) -> None:
    file = CrashFile(path)
    file.write(b"one")
    file.write(b"two")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SLOT_BYTES + 30, before[1]))
    try:
        with pytest.raises(StorageError):
            file.write(b"x" * 500)
        assert CrashFile(path).read() == b"two"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file.write(b"three" * 100)
    assert CrashFile(path).read() == b"three" * 100


def test_a_crash_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        CrashFile(tmp_path).read()
