# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and signed notes: the examples of their specifications, and whatever is not one refused."""

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.checkpoint import (
    Checkpoint,
    check_origin,
    line_of,
    note_of,
    open_note,
    parse_verifier_key,
    read_checkpoint,
    sign_checkpoint,
    sign_note,
    verifier_key,
    verify_checkpoint,
)
from gpuledger.errors import SealError
from gpuledger.reading import TEXT_CHARACTERS_MAX
from gpuledger.sealing import SigningKey

# The key and note with which golang.org/x/mod/sumdb/note documents the format (BSD-3-Clause).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_NOTE = (
    f"{PETER_TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The examples of C2SP signed-note and tlog-checkpoint (CC BY 4.0). Their keys are not published.
SALVATORE_NOTE = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
SOFA_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(sha256(b"log").digest()))
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(sha256(b"other").digest()))
ROOT = sha256(b"root").digest()
CHECKPOINT = Checkpoint(origin="example.com/log", size=7, root=ROOT)


def signed(text: str, name: str = "example.com/log") -> bytes:
    return sign_note(text, name, KEY).encode()


def test_the_note_of_the_go_implementation_verifies_and_is_made_again_byte_by_byte() -> None:
    name, public_key = parse_verifier_key(PETER)
    assert open_note(PETER_NOTE.encode(), name, public_key) == PETER_TEXT
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(base64.b64decode(PETER_PRIVATE)[1:]))
    assert key.public_bytes == public_key
    assert sign_note(PETER_TEXT, name, key) == PETER_NOTE
    assert verifier_key(name, public_key) == PETER


def test_the_notes_of_the_specifications_are_read() -> None:
    found = read_checkpoint(SOFA_CHECKPOINT.encode())
    assert (found.origin, found.size, found.root.hex()[:8]) == ("example.com/behind-the-sofa", 20852163, "0ac5186a")
    assert note_of(line_of(SOFA_CHECKPOINT)) == SOFA_CHECKPOINT.encode()
    with pytest.raises(SealError, match="not signed by key"):
        open_note(SALVATORE_NOTE.encode(), "quasimodo.example/salvatore", KEY.public_bytes)
    with pytest.raises(SealError, match="not three lines of origin, size and root"):
        read_checkpoint(SALVATORE_NOTE.encode())


@given(size=st.integers(0, 2**62), root=st.binary(min_size=32, max_size=32))
def test_a_checkpoint_survives_its_note_and_its_line_and_only_its_key_verifies_it(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin="o" * 64, size=size, root=root)
    note = sign_checkpoint(checkpoint, KEY)
    assert verify_checkpoint(note.encode(), KEY.public_bytes) == checkpoint
    line = line_of(note)
    assert note_of(line) == note.encode()
    assert len(line) <= TEXT_CHARACTERS_MAX
    assert line.isprintable()
    with pytest.raises(SealError, match="not signed by key"):
        verify_checkpoint(note.encode(), OTHER.public_bytes)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_note_with_one_bit_changed_does_not_verify(place: int, bit: int) -> None:
    data = bytearray(sign_checkpoint(CHECKPOINT, KEY).encode())
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(SealError):
        verify_checkpoint(bytes(data), KEY.public_bytes)


def test_signatures_of_others_are_passed_over_and_a_wrong_one_of_the_known_key_is_not() -> None:
    note = sign_checkpoint(CHECKPOINT, KEY)
    witness = sign_note(CHECKPOINT.text, "witness.example/w1", OTHER).split("\n")[-2]
    twice = f"{note}{witness}\n".encode()
    assert verify_checkpoint(twice, KEY.public_bytes) == CHECKPOINT
    assert open_note(twice, "witness.example/w1", OTHER.public_bytes) == CHECKPOINT.text
    forged = sign_note("something else\n", CHECKPOINT.origin, KEY).split("\n")[-2]
    with pytest.raises(SealError, match=r"the signature of 'example.com/log' does not hold"):
        verify_checkpoint(f"{note}{forged}\n".encode(), KEY.public_bytes)


@pytest.mark.parametrize(
    ("note", "said"),
    [
        (b"\xff", "not UTF-8"),
        (b"no signatures\n", "no text, empty line and signatures"),
        (b"a\n\n" + b"\xe2\x80\x94 x YWJjZGU=", "no text, empty line and signatures"),
        (b"a\tb\n\n" + b"\xe2\x80\x94 x YWJjZGU=\n", "control characters"),
        (b"a\n\n- x YWJjZGU=\n", "is not a signature line"),
        (b"a\n\n" + b"\xe2\x80\x94 x\n", "is not a signature line"),
        (b"a\n\n" + b"\xe2\x80\x94 x+y YWJjZGU=\n", "is not a signature line"),
        (b"a\n\n" + b"\xe2\x80\x94 x YWJj\n", "is not a signature line"),
        (b"a\n\n" + b"\xe2\x80\x94 x YWJjZGV=\n", "another spelling"),
        (b"a\n\n" + b"\xe2\x80\x94 x YWJjZGU=\n" * 65, "65 signatures, and at most 64"),
        (b"a\n" * 40_000, "at most 65536 are allowed"),
    ],
)
def test_what_is_no_note_is_refused_with_a_sentence(note: bytes, said: str) -> None:
    with pytest.raises(SealError, match=said):
        read_checkpoint(note)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("example.com/log\n7\n", "not three lines"),
        (f"example.com/log\n07\n{base64.b64encode(ROOT).decode()}\n", "not three lines"),
        (f"example.com/log\n-7\n{base64.b64encode(ROOT).decode()}\n", "not three lines"),
        (f"example.com/log\n7\n{base64.b64encode(ROOT).decode()}\n\nextension\n", "not three lines"),
        ("example.com/log\n7\nAAAA\n", "a root of 3 bytes, not 32"),
        (f"a log\n7\n{base64.b64encode(ROOT).decode()}\n", "origin 'a log' is not 1 to 64"),
    ],
)
def test_a_signed_note_that_is_no_checkpoint_is_refused(text: str, said: str) -> None:
    with pytest.raises(SealError, match=said):
        verify_checkpoint(signed(text), KEY.public_bytes)


def test_extension_lines_are_part_of_what_is_signed() -> None:
    note = signed(CHECKPOINT.text + "an extension\n")
    assert verify_checkpoint(note, KEY.public_bytes) == CHECKPOINT
    with pytest.raises(SealError, match="does not hold"):
        verify_checkpoint(note.replace(b"an ext", b"no ext"), KEY.public_bytes)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "ä", "o" * 65, "line\nbreak"])
def test_a_name_that_cannot_be_an_origin_is_refused(name: str) -> None:
    with pytest.raises(SealError, match="is not 1 to 64 printable ASCII characters"):
        check_origin(name)


@pytest.mark.parametrize(
    "text", [PETER[:-1], PETER.replace("c74f20a3", "c74f20a4"), "a", PETER.replace("ARpc", "ZRpc"), "x+y+"]
)
def test_a_verifier_key_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(SealError):
        parse_verifier_key(text)


@pytest.mark.parametrize("line", ["", "a b c", "a b c d e", "ä 1 2 3", "\ud800 1 2 3"])
def test_a_line_that_was_no_checkpoint_is_refused(line: str) -> None:
    with pytest.raises(SealError, match="is not ORIGIN SIZE ROOT SIGNATURE"):
        note_of(line)
