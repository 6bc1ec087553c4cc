# SPDX-License-Identifier: Apache-2.0
"""Merkle trees: the vectors that implementations of RFC 6962 share, and laws for trees of any size."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_WIDTH,
    Frontier,
    NodeSource,
    Tile,
    fold_hashes,
    frontier_of,
    hash_leaf,
    hash_node,
    nodes_of_tiles,
    number_path,
    parse_tile_path,
    prove_consistency,
    prove_inclusion,
    root_of,
    tiles_of,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves, their roots and proofs that the reference implementations of Certificate Transparency test with
# (github.com/transparency-dev/merkle, proof/verify_test.go, Apache-2.0).
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
INCLUSION = {
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
    (6, 7): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
}

SIZES = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 511, 512, 513, 600]))
HASHES = [sha256(b"%d" % number).digest() for number in range(700)]


def proof_of(texts: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """The definition of RFC 6962, 2.1, word by word, over leaf hashes."""
    if len(leaves) == 0:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def nodes_of(leaves: Sequence[bytes]) -> NodeSource:
    def node(level: int, index: int) -> bytes:
        part = leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "a subtree that is not complete was asked for"
        return naive_root(part)

    return node


def spoil(value: bytes, place: int) -> bytes:
    data = bytearray(value)
    data[place % HASH_BYTES] ^= 1 << place % 8
    return bytes(data)


@pytest.mark.parametrize("size", range(1, 9))
def test_the_shared_roots_are_found(size: int) -> None:
    leaves = [hash_leaf(data) for data in LEAVES[:size]]
    assert root_of(size, nodes_of(leaves)) == ROOTS[size - 1]
    grown = Frontier()
    for leaf in leaves:
        grown.append(leaf)
    assert grown.root() == ROOTS[size - 1]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert Frontier().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Frontier().root() == EMPTY_ROOT == root_of(0, nodes_of([]))


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_the_shared_inclusion_proofs_are_made_and_verify(index: int, size: int) -> None:
    leaves = [hash_leaf(data) for data in LEAVES]
    proof = prove_inclusion(index, size, nodes_of(leaves))
    assert proof == proof_of(INCLUSION[index, size])
    assert verify_inclusion(index, size, leaves[index], proof, ROOTS[size - 1])


@pytest.mark.parametrize(("old_size", "size"), CONSISTENCY)
def test_the_shared_consistency_proofs_are_made_and_verify(old_size: int, size: int) -> None:
    proof = prove_consistency(old_size, size, nodes_of([hash_leaf(data) for data in LEAVES]))
    assert proof == proof_of(CONSISTENCY[old_size, size])
    assert verify_consistency(old_size, size, ROOTS[old_size - 1], ROOTS[size - 1], proof)


@given(size=st.integers(0, 300))
def test_a_tree_of_any_size_has_the_root_of_the_definition_however_it_is_reached(size: int) -> None:
    leaves = HASHES[:size]
    grown = Frontier()
    for leaf in leaves:
        grown.append(leaf)
    expected = naive_root(leaves)
    assert grown.root() == root_of(size, nodes_of(leaves)) == expected
    assert frontier_of(size, nodes_of(leaves)).root() == expected
    again = grown.copy()
    again.append(HASHES[size])
    assert again.root() == naive_root(HASHES[: size + 1])
    assert grown.root() == expected


@given(data=st.data(), size=SIZES)
def test_every_leaf_is_proven_and_nothing_else_verifies(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = HASHES[:size]
    root, proof = naive_root(leaves), prove_inclusion(index, size, nodes_of(leaves))
    leaf = leaves[index]
    assert verify_inclusion(index, size, leaf, proof, root)
    place = data.draw(st.integers(0, 10_000))
    assert not verify_inclusion(index, size, spoil(leaf, place), proof, root)
    assert not verify_inclusion(index, size, leaf, proof, spoil(root, place))
    assert not verify_inclusion(index, size, leaf, [*proof, root], root)
    assert not verify_inclusion(index, size, leaf, [root, *proof], root)
    assert not verify_inclusion(index, size, leaf, [*proof, b""], root)
    assert not verify_inclusion(size, size, leaf, proof, root)
    assert not verify_inclusion(-1, size, leaf, proof, root)
    assert not verify_inclusion(index, 2 * size, leaf, proof, root)
    assert not verify_inclusion(index, size // 2, leaf, proof, root)
    other = data.draw(st.integers(0, size - 1))
    assert verify_inclusion(other, size, leaf, proof, root) == (other == index)
    if proof:
        position = place % len(proof)
        spoiled = [*proof[:position], spoil(proof[position], place), *proof[position + 1 :]]
        assert not verify_inclusion(index, size, leaf, spoiled, root)
        assert not verify_inclusion(index, size, leaf, proof[:-1], root)
        assert not verify_inclusion(index, size, leaf, proof[1:], root)


@given(data=st.data(), size=SIZES)
def test_every_prefix_is_proven_and_nothing_else_verifies(data: st.DataObject, size: int) -> None:
    old_size = data.draw(st.integers(0, size))
    leaves = HASHES[:size]
    root, old_root = naive_root(leaves), naive_root(leaves[:old_size])
    proof = prove_consistency(old_size, size, nodes_of(leaves))
    assert verify_consistency(old_size, size, old_root, root, proof)
    place = data.draw(st.integers(0, 10_000))
    assert not verify_consistency(old_size, size, spoil(old_root, place), root, proof)
    assert not verify_consistency(old_size, size, old_root, root, [*proof, root])
    assert not verify_consistency(size, old_size, root, old_root, proof) or old_size == size
    assert not verify_consistency(old_size, 2 * size, old_root, root, proof) or old_size == 0
    if old_size > 0:
        assert not verify_consistency(old_size, size, old_root, spoil(root, place), proof)
        assert not verify_consistency(old_size, size, old_root, root, [root, *proof])
        # A fork: one leaf of the old tree was another.
        forked = [*leaves]
        forked[place % old_size] = HASHES[-1]
        fork_root = naive_root(forked)
        fork_proof = prove_consistency(old_size, size, nodes_of(forked))
        assert not verify_consistency(old_size, size, old_root, fork_root, fork_proof)
    for position, beside in enumerate(proof):
        spoiled = [*proof[:position], spoil(beside, place), *proof[position + 1 :]]
        assert not verify_consistency(old_size, size, old_root, root, spoiled)
    if proof:
        assert not verify_consistency(old_size, size, old_root, root, proof[:-1])


def test_proofs_of_what_is_not_in_the_tree_are_not_made() -> None:
    with pytest.raises(ValueError, match="leaf 3 is not in a tree of 3"):
        prove_inclusion(3, 3, nodes_of(HASHES[:3]))
    with pytest.raises(ValueError, match="a tree of 4 leaves is no prefix of one of 3"):
        prove_consistency(4, 3, nodes_of(HASHES[:3]))
    with pytest.raises(ValueError, match="a tree of 3 leaves has 2 peaks, not 1"):
        Frontier(3, [HASHES[0]])


@pytest.mark.parametrize("size", [1, 7, 255, 256, 257, 600, 256 * 256 + 256 + 3])
def test_tiles_hold_every_complete_subtree(size: int) -> None:
    leaves = [HASHES[number % 700] for number in range(size)]
    levels = [b"".join(leaves)]
    tile_bytes = TILE_WIDTH * HASH_BYTES
    while len(levels[-1]) >= tile_bytes:
        below = levels[-1]
        whole = len(below) // tile_bytes
        levels.append(b"".join(fold_hashes(below[n * tile_bytes : (n + 1) * tile_bytes]) for n in range(whole)))
    assert [(level, len(data) // HASH_BYTES) for level, data in enumerate(levels)] == tiles_of(size)

    def read(level: int, index: int, width: int) -> bytes:
        data = levels[level][index * tile_bytes : index * tile_bytes + width * HASH_BYTES]
        assert len(data) == width * HASH_BYTES, "more of a tile was asked for than there is"
        return data

    grown = Frontier()
    for leaf in leaves:
        grown.append(leaf)
    node = nodes_of_tiles(read)
    assert root_of(size, node) == grown.root()
    index = size // 3
    assert verify_inclusion(index, size, leaves[index], prove_inclusion(index, size, node), grown.root())
    proof = prove_consistency(size // 2, size, node)
    assert verify_consistency(size // 2, size, root_of(size // 2, node), grown.root(), proof)


def test_the_tiles_of_a_size_are_those_of_the_specification() -> None:
    # C2SP tlog-tiles, "Partial Tiles": the example of 70,000 entries, and the one of 256.
    counts = [(level, *divmod(count, TILE_WIDTH)) for level, count in tiles_of(70_000)]
    assert counts == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert tiles_of(256) == [(0, 256), (1, 1)]
    assert tiles_of(0) == []


@pytest.mark.parametrize(
    ("number", "path"), [(0, "000"), (7, "007"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067")]
)
def test_numbers_are_spelt_in_elements_of_three_digits(number: int, path: str) -> None:
    assert number_path(number) == path
    assert parse_tile_path(f"tile/0/{path}") == Tile(level=0, index=number)


@given(level=st.one_of(st.none(), st.integers(0, 63)), index=st.integers(0, 2**50), width=st.integers(1, TILE_WIDTH))
def test_every_tile_has_one_path_that_names_it(level: int | None, index: int, width: int) -> None:
    tile = Tile(level=level, index=index, width=width)
    assert parse_tile_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "checkpoint",
        "tile/0",
        "tile/0/1",
        "tile/0/0001",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/../../key",
        "tile/0/000\n",
        "tile/0/٠٠٠",
        "tile/entries/x000",
    ],
)
def test_any_other_spelling_names_no_tile(path: str) -> None:
    assert parse_tile_path(path) is None


def test_leaves_and_nodes_cannot_be_taken_for_each_other() -> None:
    left, right = HASHES[:2]
    assert hash_node(left, right) != hash_leaf(left + right)
    assert hash_node(left, right) != hash_node(right, left)
