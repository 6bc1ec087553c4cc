# SPDX-License-Identifier: Apache-2.0
"""Seals: DSSE envelopes over raw bytes with Ed25519 keys, and salted digests of names (evidence.md, 1).

DSSE: https://github.com/secure-systems-lab/dsse (protocol, version 1). Ed25519: RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gpuledger import wire
from gpuledger.errors import SealError, StorageError
from gpuledger.reading import LEAF_BYTES_MAX

SALT_BYTES = 16
SECRET_BYTES = 32


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that DSSE signs for a payload and its type."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def node_id_of(public_key: bytes) -> str:
    """Return the fingerprint that names a node: SHA-256 of its raw public key, in hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A node's key: signs, and names the node by its fingerprint."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @property
    def public_bytes(self) -> bytes:
        """Return the raw 32 bytes of the public key."""
        return self.private.public_key().public_bytes_raw()

    @property
    def node_id(self) -> str:
        return node_id_of(self.public_bytes)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of an Ed25519 signature over the message itself."""
        return self.private.sign(message)

    def seal(self, payload_type: str, payload: bytes) -> bytes:
        """Return the DSSE envelope of `payload`, as the bytes to be stored and hashed.

        Raises SealError where the envelope would be over the limit.
        """
        signature = self.sign(pre_authentication_encoding(payload_type, payload))
        data = _envelope_bytes(payload_type, payload, [(self.node_id, signature)])
        if len(data) > LEAF_BYTES_MAX:
            raise SealError(f"envelope: {len(data)} bytes, and at most {LEAF_BYTES_MAX} are allowed")
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An opened, not yet verified DSSE envelope: whose signatures it carries over which bytes."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]


def _envelope_bytes(payload_type: str, payload: bytes, signatures: Sequence[tuple[str, bytes]]) -> bytes:
    return wire.dump(
        {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": payload_type,
            "signatures": [
                {"keyid": key_id, "sig": base64.b64encode(signature).decode("ascii")}
                for key_id, signature in signatures
            ],
        }
    )


def open_envelope(data: bytes) -> Envelope:
    """Return the envelope's parts without trusting them; raises SealError where it is malformed or too large.

    An envelope has one form, as a reading has: its bytes are hashed and compared, and nobody who handles them without
    the key may make a second, equally valid envelope of one reading.
    """
    if len(data) > LEAF_BYTES_MAX:
        raise SealError(f"envelope: {len(data)} bytes, and at most {LEAF_BYTES_MAX} are allowed")
    try:
        value = json.loads(data)
        envelope = Envelope(
            payload_type=str(value["payloadType"]),
            payload=base64.b64decode(value["payload"], validate=True),
            signatures=tuple(
                (str(item["keyid"]), base64.b64decode(item["sig"], validate=True)) for item in value["signatures"]
            ),
        )
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as exc:
        raise SealError(f"envelope: not a DSSE envelope ({type(exc).__name__}: {wire.quote(str(exc))})") from exc
    if _envelope_bytes(envelope.payload_type, envelope.payload, envelope.signatures) != data:
        raise SealError("envelope: not in its one form: sorted keys, no spaces, no other fields, padded base64")
    return envelope


def verify_envelope(data: bytes, public_key: bytes, payload_type: str) -> bytes:
    """Return the payload of `data` if `public_key` signed it as `payload_type`; raises SealError otherwise."""
    envelope = open_envelope(data)
    if envelope.payload_type != payload_type:
        raise SealError(f"envelope: payload type {wire.quote(envelope.payload_type)} is not {payload_type!r}")
    key_id = node_id_of(public_key)
    signed = pre_authentication_encoding(payload_type, envelope.payload)
    key = _public_key(public_key)
    for name, signature in envelope.signatures:
        if name == key_id:
            if not _holds(key, signature, signed):
                raise SealError(f"envelope: the signature of key {key_id[:16]} does not hold")
            return envelope.payload
    raise SealError(f"envelope: no signature of key {key_id[:16]}")


def is_signed(message: bytes, signature: bytes, public_key: bytes) -> bool:
    """Return whether the Ed25519 signature over the message is the key's; raises SealError where the key is none."""
    return _holds(_public_key(public_key), signature, message)


def _public_key(data: bytes) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(data)
    except ValueError as exc:
        raise SealError(f"the public key to verify with is none ({len(data)} bytes)") from exc


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def load_or_create_key(path: Path) -> SigningKey:
    """Return the key in `path` (PEM, PKCS #8), creating it with mode 0600 on first use.

    Raises StorageError where the file is readable by others, unreadable or not an Ed25519 key.
    """
    try:
        if not path.exists():
            _create_private(path, _pem(SigningKey.generate()))
        key = serialization.load_pem_private_key(_read_private(path, "the signing key"), password=None)
    except OSError as exc:
        raise StorageError(f"{path}: cannot use the signing key: {exc.strerror}") from exc
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        # TypeError is how an encrypted key says that it wants a password.
        raise StorageError(f"{path}: not an unencrypted private key in PEM") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"{path}: not an Ed25519 key")
    return SigningKey(key)


def _pem(key: SigningKey) -> bytes:
    return key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_private(path: Path, what: str) -> bytes:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise StorageError(f"{path}: mode {mode:04o} lets others use {what}; set it to 0600")
    return path.read_bytes()


def _create_private(path: Path, data: bytes) -> None:
    # Written beside and renamed, so that a crash leaves no half key under the final name; the directory is synced too,
    # so that what a key has sealed never outlives the key.
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _bytes_of(name: str) -> bytes:
    # Names of processes and users need not be UTF-8; what is not comes as lone surrogates.
    return name.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class NameSealer:
    """Turns names into digests that only an opening reveals: SHA-256(128-bit salt ‖ name).

    The salt is derived from a secret of the node, so one name has one digest on one node and different digests on
    different nodes, and no table of salts has to be kept.
    """

    secret: bytes

    def salt_of(self, name: str) -> bytes:
        return hmac.new(self.secret, _bytes_of(name), hashlib.sha256).digest()[:SALT_BYTES]

    def digest_of(self, name: str) -> str:
        return digest_name(self.salt_of(name), name)


def digest_name(salt: bytes, name: str) -> str:
    """Return SHA-256(salt ‖ name) in hexadecimal: what an opening (salt, name) must give."""
    return hashlib.sha256(salt + _bytes_of(name)).hexdigest()


def load_or_create_secret(path: Path) -> bytes:
    """Return the node's 32-byte secret for name digests, creating it with mode 0600 on first use.

    Raises StorageError where others can read it or where it is not whole: with a short secret names can be guessed.
    """
    try:
        if not path.exists():
            _create_private(path, os.urandom(SECRET_BYTES))
        secret = _read_private(path, "the name secret")
    except OSError as exc:
        raise StorageError(f"{path}: cannot use the name secret: {exc.strerror}") from exc
    if len(secret) != SECRET_BYTES:
        raise StorageError(f"{path}: the name secret has {len(secret)} bytes, not {SECRET_BYTES}")
    return secret
