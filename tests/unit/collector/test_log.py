# SPDX-License-Identifier: Apache-2.0
"""The log: nothing acknowledged is lost, nothing half-written stays, nothing published is ever contradicted."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.checkpoint import note_of, verify_checkpoint
from gpuledger.errors import StorageError
from gpuledger.merkle import (
    TILE_BYTES,
    TILE_WIDTH,
    Frontier,
    Tile,
    hash_leaf,
    prove_consistency,
    prove_inclusion,
    tiles_of,
    verify_consistency,
    verify_inclusion,
)
from gpuledger_collector.closing import closing_of
from gpuledger_collector.tiles import LogReader
from tests.fakes.logs import IDENTITY, append, entries, fill, open_log, some_batch
from tests.profiles import examples

# ---------------------------------------------------------------------------------------------- what is written


def test_what_was_appended_is_read_by_its_index_and_in_order(tmp_path: Path) -> None:
    batch = some_batch(0, 300)
    with open_log(tmp_path) as log:
        clock = log.append(batch, 5)
        assert [(leaf.data, leaf.beside) for leaf in map(log.read, range(300))] == batch
        assert [(leaf.data, leaf.beside) for leaf in log.iterate()][:300] == batch
        assert closing_of(log.read(300).data, IDENTITY.key.public_bytes) == clock
        assert (clock.size, clock.at_ms, log.size) == (300, 5, 301)
        assert [leaf.index for leaf in log.iterate(290)] == list(range(290, 301))
        with pytest.raises(StorageError, match="there is no entry 301: the log has 301"):
            log.read(301)


def test_a_clock_entry_has_the_tree_that_it_completes(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append(log, 3)
        clock = append(log, 2)
        assert (clock.size, bytes.fromhex(clock.root)) == (6, log.root_at(6))


def test_the_checkpoint_is_of_the_tree_of_all_entries_and_signed_by_the_logs_key(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for _ in range(3):
            append(log, 4)
            tree = Frontier()
            for data in entries(log):
                tree.append(hash_leaf(data))
            note = (tmp_path / "checkpoint").read_bytes()
            found = verify_checkpoint(note, IDENTITY.key.public_bytes)
            assert (found.origin, found.size, found.root) == (IDENTITY.origin, log.size, tree.root())
            assert log.note() == note == note_of(str(log.line))
            assert log.root == tree.root()


@examples(0.4)
@given(counts=st.lists(st.integers(0, 300), max_size=4))
def test_files_are_those_of_tlog_tiles_whatever_the_batches_were(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("log")
    fill(directory, *counts)
    log = LogReader(directory)
    size = sum(counts) + len(counts)
    assert log.size == size
    read = entries(log)
    for level, count in tiles_of(size):
        for number in range(-(-count // TILE_WIDTH)):
            width = min(TILE_WIDTH, count - number * TILE_WIDTH)
            data = (directory / f"tile/{level}/{number:03d}").read_bytes()
            assert len(data) == width * 32
            assert log.tile(Tile(level=level, index=number, width=width)) == data
            if level == 0:
                bundle = (directory / f"tile/entries/{number:03d}").read_bytes()
                assert log.tile(Tile(level=None, index=number, width=width)) == bundle
                assert split(bundle) == read[number * TILE_WIDTH :][:width]
                assert b"".join(map(hash_leaf, split(bundle))) == data
    shutil.rmtree(directory)


def split(bundle: bytes) -> list[bytes]:
    """Undo the framing as the specification words it."""
    found = []
    while bundle:
        length = bundle[0] * 256 + bundle[1]
        found.append(bundle[2 : 2 + length])
        bundle = bundle[2 + length :]
    return found


def test_proofs_are_made_from_the_files_for_any_two_sizes(tmp_path: Path) -> None:
    roots = fill(tmp_path, 250, 20, 600)
    log = LogReader(tmp_path)
    leaves = [hash_leaf(data) for data in entries(log)]
    for size in (1, 5, 251, 256, 257, 272, 512, 873):
        path = prove_inclusion(size - 1, size, log.node)
        assert verify_inclusion(size - 1, size, leaves[size - 1], path, roots[size])
        proof = prove_consistency(size, 873, log.node)
        assert verify_consistency(size, 873, roots[size], roots[873], proof)


def test_only_what_is_published_is_served(tmp_path: Path) -> None:
    fill(tmp_path, 299)
    log = LogReader(tmp_path)
    assert log.size == 300
    assert log.tile(Tile(level=0, index=1, width=44)) is not None
    assert log.tile(Tile(level=0, index=1, width=45)) is None
    assert log.tile(Tile(level=None, index=1, width=45)) is None
    assert log.tile(Tile(level=0, index=1)) is None
    assert log.tile(Tile(level=1, index=0, width=1)) is not None
    assert log.tile(Tile(level=1, index=0, width=2)) is None
    assert log.tile(Tile(level=7, index=0, width=1)) is None
    assert (log.beside(1, 44) is not None, log.beside(1, 45)) == (True, None)
    before = log.tile(Tile(level=None, index=1, width=44))
    with open_log(tmp_path) as writer:
        append(writer, 300)
    assert log.tile(Tile(level=None, index=1, width=44)) == before
    full = log.tile(Tile(level=0, index=1))
    assert full is not None
    assert len(full) == TILE_BYTES


def test_a_reader_beside_the_writer_sees_every_finished_append(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    assert (reader.size, entries(reader), reader.note()) == (0, [], None)
    with open_log(tmp_path) as log:
        for _ in range(3):
            append(log, 100)
            assert entries(reader) == entries(log)
            assert reader.read(log.size - 1) == log.read(log.size - 1)


def test_a_log_is_continued_after_it_was_closed(tmp_path: Path) -> None:
    fill(tmp_path, 255, 300)
    with open_log(tmp_path) as log:
        before = entries(log)
        append(log, 3)
        assert entries(log)[:557] == before
        assert log.size == 561


@pytest.mark.parametrize("record", [(b"", None), (bytes(65_536), None), (b"x", bytes(65_536))])
def test_an_entry_over_its_limits_is_refused_before_anything_is_written(
    tmp_path: Path, record: tuple[bytes, bytes | None]
) -> None:
    with open_log(tmp_path) as log:
        with pytest.raises(StorageError, match="an entry is empty, or has more than 65535 bytes"):
            log.append([(b"ok", None), record], 0)
        assert log.size == 0
        assert log.append([(bytes(65_535), bytes(65_535))], 0).size == 1
