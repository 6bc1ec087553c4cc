# SPDX-License-Identifier: Apache-2.0
"""Seals: what a key signed is what is read, whoever touched it in between; keys and secrets stay private."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.errors import SealError, StorageError
from gpuledger.reading import LEAF_BYTES_MAX
from gpuledger.sealing import (
    SALT_BYTES,
    NameSealer,
    SigningKey,
    digest_name,
    load_or_create_key,
    load_or_create_secret,
    node_id_of,
    open_envelope,
    pre_authentication_encoding,
    verify_envelope,
)
from tests.profiles import examples

KIND = "application/vnd.gpuledger.reading.v1+json"
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))


# --------------------------------------------------------------------------------------------------- DSSE, Ed25519


def test_the_pre_authentication_encoding_is_that_of_the_dsse_specification() -> None:
    # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, "Test Vectors".
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_pre_authentication_encoding_counts_bytes_not_characters() -> None:
    assert pre_authentication_encoding("ä", b"") == b"DSSEv1 2 \xc3\xa4 0 "


def test_signatures_are_those_of_rfc_8032() -> None:
    # RFC 8032, 7.1, test 2.
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(secret))
    assert key.public_bytes.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.private.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540")
    assert key.node_id == hashlib.sha256(key.public_bytes).hexdigest()


@examples(2)
@given(st.binary(max_size=300))
def test_what_was_sealed_is_what_is_verified(payload: bytes) -> None:
    envelope = KEY.seal(KIND, payload)
    assert verify_envelope(envelope, KEY.public_bytes, KIND) == payload
    opened = open_envelope(envelope)
    assert (opened.payload_type, opened.payload) == (KIND, payload)
    assert [key_id for key_id, _ in opened.signatures] == [KEY.node_id]


@examples(10)
@given(st.binary(max_size=60), st.integers(0, 2**32 - 1))
def test_an_envelope_with_any_changed_byte_is_refused(payload: bytes, seed: int) -> None:
    rng = Random(seed)
    envelope = bytearray(KEY.seal(KIND, payload))
    position, kind = rng.randrange(len(envelope)), rng.choice(("change", "drop", "insert"))
    before = bytes(envelope)
    if kind == "change":
        envelope[position] = rng.randrange(256)
    elif kind == "drop":
        del envelope[position]
    else:
        envelope.insert(position, rng.choice(b' \n"{}[],:A=+/\x00\xff'))
    if bytes(envelope) != before:
        with pytest.raises(SealError):
            verify_envelope(bytes(envelope), KEY.public_bytes, KIND)


def edit(**changes: Any) -> bytes:
    value = json.loads(KEY.seal(KIND, b"{}")) | changes
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


SIGNATURE = json.loads(KEY.seal(KIND, b"{}"))["signatures"][0]


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * LEAF_BYTES_MAX,
        b"\xff",
        edit(payload=None),
        edit(payload=7),
        edit(payload="e30"),
        edit(payload="e3 0="),
        edit(payload="e31="),
        edit(payload="\u00e4"),
        edit(payloadType=7),
        edit(payloadType=KIND + "x"),
        edit(signatures=[]),
        edit(signatures=None),
        edit(signatures="text"),
        edit(signatures={"keyid": 1}),
        edit(signatures=[None]),
        edit(signatures=[{**SIGNATURE, "sig": ""}]),
        edit(signatures=[{**SIGNATURE, "sig": "AAAA"}]),
        edit(signatures=[{**SIGNATURE, "keyid": 7}]),
        edit(signatures=[{**SIGNATURE, "keyid": "ab" * 32}]),
        edit(signatures=[{**SIGNATURE, "note": "x"}]),
        edit(note="x"),
        b" " + KEY.seal(KIND, b"{}"),
        KEY.seal(KIND, b"{}") + b"\n",
    ],
)
def test_what_is_not_the_one_form_of_an_envelope_is_refused_with_a_sentence(envelope: bytes) -> None:
    with pytest.raises(SealError) as caught:
        verify_envelope(envelope, KEY.public_bytes, KIND)
    assert str(caught.value).startswith("envelope: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_an_envelope_of_another_key_or_kind_is_refused() -> None:
    envelope = OTHER_KEY.seal(KIND, b"{}")
    with pytest.raises(SealError, match="no signature of key"):
        verify_envelope(envelope, KEY.public_bytes, KIND)
    with pytest.raises(SealError, match="payload type"):
        verify_envelope(envelope, OTHER_KEY.public_bytes, KIND + "2")


def test_a_signature_under_a_foreign_name_does_not_hold() -> None:
    value = json.loads(OTHER_KEY.seal(KIND, b"{}"))
    value["signatures"][0]["keyid"] = KEY.node_id
    envelope = json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
    with pytest.raises(SealError, match="does not hold"):
        verify_envelope(envelope, KEY.public_bytes, KIND)


def test_a_signature_over_another_kind_does_not_hold() -> None:
    # The kind is signed with the payload, so a checkpoint can never be passed off as a reading.
    value = json.loads(KEY.seal(KIND + "x", b"{}"))
    value["payloadType"] = KIND
    envelope = json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
    with pytest.raises(SealError, match="does not hold"):
        verify_envelope(envelope, KEY.public_bytes, KIND)


def test_a_public_key_that_is_none_is_refused() -> None:
    with pytest.raises(SealError, match="public key"):
        verify_envelope(KEY.seal(KIND, b"{}"), b"short", KIND)


def test_an_envelope_over_the_limit_is_neither_sealed_nor_opened() -> None:
    largest = b"x" * (LEAF_BYTES_MAX // 4 * 3 - 300)
    assert verify_envelope(KEY.seal(KIND, largest), KEY.public_bytes, KIND) == largest
    with pytest.raises(SealError, match=f"at most {LEAF_BYTES_MAX}"):
        KEY.seal(KIND, b"x" * LEAF_BYTES_MAX)
    with pytest.raises(SealError, match=f"at most {LEAF_BYTES_MAX}"):
        open_envelope(b"x" * (LEAF_BYTES_MAX + 1))


# ------------------------------------------------------------------------------------------------------------ keys


def test_a_key_is_created_once_for_its_owner_only_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "key.pem"
    first = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path).node_id == first.node_id == node_id_of(first.public_bytes)
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]


def test_a_key_left_half_written_by_a_crash_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "key.pem.new").write_bytes(b"-----BEGIN PRIV")
    assert load_or_create_key(tmp_path / "key.pem").node_id == load_or_create_key(tmp_path / "key.pem").node_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
@pytest.mark.parametrize("load", [load_or_create_key, load_or_create_secret])
def test_a_key_or_secret_that_others_can_use_is_refused_naming_file_and_mode(
    tmp_path: Path, mode: int, load: Any
) -> None:
    path = tmp_path / "private"
    load(path)
    path.chmod(mode)
    with pytest.raises(StorageError, match=f"{path}: mode 0{mode:o} .*0600"):
        load(path)


def pem(key: Any, encryption: serialization.KeySerializationEncryption) -> bytes:
    data: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        b"\xff" * 100,
        KEY.public_bytes,
        pem(generate_private_key(SECP256R1()), serialization.NoEncryption()),
        pem(KEY.private, serialization.BestAvailableEncryption(b"word")),
    ],
    ids=["empty", "text", "bytes", "raw", "other kind", "encrypted"],
)
def test_a_file_that_is_no_usable_key_is_refused_naming_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StorageError, match=f"^{path}: "):
        load_or_create_key(path)


@pytest.mark.parametrize("load", [load_or_create_key, load_or_create_secret])
def test_a_directory_in_the_place_of_a_key_or_secret_is_refused(tmp_path: Path, load: Any) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    with pytest.raises(StorageError, match=f"^{tmp_path}/private: "):
        load(tmp_path / "private")


@pytest.mark.parametrize("load", [load_or_create_key, load_or_create_secret])
def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path, load: Any) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageError, match=f"^{tmp_path}/state/private: "):
        load(tmp_path / "state" / "private")


# ----------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("length", [0, 1, 31, 33])
def test_a_secret_that_was_cut_short_is_refused_because_names_could_be_guessed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(os.urandom(length))
    path.chmod(0o600)
    with pytest.raises(StorageError, match=f"^{path}: .*32"):
        load_or_create_secret(path)


@examples(2)
@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_an_opening_gives_the_digest_and_no_two_names_share_one(name: str, other: str) -> None:
    sealer = NameSealer(b"s" * 32)
    salt = sealer.salt_of(name)
    assert len(salt) == SALT_BYTES
    assert digest_name(salt, name) == sealer.digest_of(name) == sealer.digest_of(name)
    assert (sealer.digest_of(other) == sealer.digest_of(name)) == (name == other)


def test_one_name_has_different_digests_on_different_nodes() -> None:
    assert NameSealer(b"a" * 32).digest_of("training") != NameSealer(b"b" * 32).digest_of("training")


def test_a_name_that_is_not_unicode_has_a_digest_too() -> None:
    # Any user may start a process whose name is no UTF-8; Python gives such bytes as lone surrogates.
    name = os.fsdecode(b"train\xff")
    assert len(NameSealer(b"s" * 32).digest_of(name)) == 64


def test_base64_of_a_payload_has_one_form() -> None:
    # "e31=" and "e30=" decode to the same bytes; only the second is what an encoder writes.
    assert base64.b64decode("e31=") == base64.b64decode("e30=")
    with pytest.raises(SealError):
        open_envelope(edit(payload="e31="))
