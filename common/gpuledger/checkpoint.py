# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a log: its origin, size and root in a note that the log's key signed (C2SP tlog-checkpoint).

A note is text, an empty line, and signature lines (C2SP signed-note). The same checkpoint with its one signature also
fits one line, "ORIGIN SIZE ROOT SIGNATURE": so it is carried to agents and sealed into their readings.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from gpuledger import wire
from gpuledger.errors import SealError
from gpuledger.merkle import HASH_BYTES
from gpuledger.sealing import SigningKey, is_signed

NOTE_BYTES_MAX = 64 << 10
"""Room for the signatures of many witnesses."""
SIGNATURES_MAX = 64
ORIGIN_CHARACTERS_MAX = 64
"""So that a checkpoint in one line is a text of a reading."""
_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_PUBLIC_KEY_BYTES = 32
_MARK = "\N{EM DASH} "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_NAME = re.compile(r"[!-*,-~]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's tree at one size."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """Return what is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


def check_origin(name: str) -> str:
    """Return the name if it can be a log's origin and the name of its key; raises SealError."""
    if _NAME.fullmatch(name) is None or len(name) > ORIGIN_CHARACTERS_MAX:
        raise SealError(
            f"origin {wire.quote(name)} is not 1 to {ORIGIN_CHARACTERS_MAX} printable ASCII characters without spaces"
            " and plus signs"
        )
    return name


# ---------------------------------------------------------------------------------------------- keys


def key_id_of(name: str, public_key: bytes) -> bytes:
    """Return the four bytes that name an Ed25519 key in signature lines."""
    return sha256(name.encode("utf-8") + b"\n" + _ED25519 + public_key).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, public_key: bytes) -> str:
    """Return NAME+ID+KEY, the form in which verifiers of notes are told a key."""
    return f"{name}+{key_id_of(name, public_key).hex()}+{_base64(_ED25519 + public_key)}"


def parse_verifier_key(text: str) -> tuple[str, bytes]:
    """Return (name, public key) of a key in NAME+ID+KEY form; raises SealError."""
    name, _, rest = text.partition("+")
    key_id, _, data = rest.partition("+")
    public_key = _from_base64(data, "verifier key")[1:]
    if len(public_key) != _PUBLIC_KEY_BYTES or _NAME.fullmatch(name) is None or verifier_key(name, public_key) != text:
        raise SealError(f"verifier key {wire.quote(text)} is not NAME+ID+KEY of an Ed25519 key (key id {key_id[:8]})")
    return name, public_key


# ---------------------------------------------------------------------------------------------- notes


def sign_note(text: str, name: str, key: SigningKey) -> str:
    """Return the signed note; `text` ends with a newline."""
    signature = key_id_of(name, key.public_bytes) + key.sign(text.encode("utf-8"))
    return f"{text}\n{_MARK}{name} {_base64(signature)}\n"


def open_note(note: bytes, name: str, public_key: bytes) -> str:
    """Return the note's text if the key signed it; raises SealError. Signatures of other keys are passed over."""
    text, signatures = _split_note(note)
    key_id = key_id_of(name, public_key)
    is_known = False
    for who, signature in signatures:
        if who == name and signature[:_KEY_ID_BYTES] == key_id:
            if not is_signed(text.encode("utf-8"), signature[_KEY_ID_BYTES:], public_key):
                raise SealError(f"note: the signature of {wire.quote(name)} does not hold")
            is_known = True
    if not is_known:
        raise SealError(f"note: not signed by key {key_id.hex()} of {wire.quote(name)}")
    return text


def _split_note(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """Return the text and (name, key id and signature) of each signature, none of them verified."""
    if len(note) > NOTE_BYTES_MAX:
        raise SealError(f"note: {len(note)} bytes, and at most {NOTE_BYTES_MAX} are allowed")
    try:
        decoded = note.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SealError("note: not UTF-8") from exc
    text, separator, signed = decoded.rpartition("\n\n")
    if any(character < " " and character != "\n" for character in decoded):
        raise SealError("note: has control characters")
    if separator == "" or not signed.endswith("\n"):
        raise SealError("note: no text, empty line and signatures, ending in a newline")
    lines = signed[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise SealError(f"note: {len(lines)} signatures, and at most {SIGNATURES_MAX} are allowed")
    return text + "\n", [_parse_signature(line) for line in lines]


def _parse_signature(line: str) -> tuple[str, bytes]:
    name, _, data = line.removeprefix(_MARK).partition(" ")
    # Names of other people's keys may be any Unicode without spaces.
    is_name = name != "" and not any(character.isspace() or character == "+" for character in name)
    if line.startswith(_MARK) and is_name:
        signature = _from_base64(data, "note")
        if len(signature) > _KEY_ID_BYTES:
            return name, signature
    raise SealError(f"note: {wire.quote(line)} is not a signature line")


# ---------------------------------------------------------------------------------------------- checkpoints


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """Return the checkpoint as a note, signed in the name of its origin."""
    return sign_note(checkpoint.text, checkpoint.origin, key)


def read_checkpoint(note: bytes) -> Checkpoint:
    """Return what a checkpoint says, believing nobody; raises SealError where it is not one."""
    return _parse(_split_note(note)[0])


def verify_checkpoint(note: bytes, public_key: bytes) -> Checkpoint:
    """Return the checkpoint if its origin's key signed it; raises SealError."""
    found = read_checkpoint(note)
    open_note(note, found.origin, public_key)
    return found


def _parse(text: str) -> Checkpoint:
    lines = text.split("\n")
    # Extension lines may follow; they are signed and not understood.
    if len(lines) < 4 or any(line == "" for line in lines[:-1]) or _SIZE.fullmatch(lines[1]) is None:
        raise SealError("checkpoint: not three lines of origin, size and root")
    root = _from_base64(lines[2], "checkpoint")
    if len(root) != HASH_BYTES:
        raise SealError(f"checkpoint: a root of {len(root)} bytes, not {HASH_BYTES}")
    return Checkpoint(origin=check_origin(lines[0]), size=int(lines[1]), root=root)


def line_of(note: str) -> str:
    """Return a checkpoint signed by its origin alone as one line: ORIGIN SIZE ROOT SIGNATURE."""
    origin, size, root, _, signature = note.rstrip("\n").split("\n")
    return f"{origin} {size} {root} {signature.rpartition(' ')[2]}"


def note_of(line: str) -> bytes:
    """Return the note that `line_of` made a line of; raises SealError where it cannot have been one."""
    parts = line.split(" ")
    if len(parts) != 4 or not line.isascii():
        raise SealError(f"checkpoint: {wire.quote(line)} is not ORIGIN SIZE ROOT SIGNATURE")
    origin, size, root, signature = parts
    return f"{origin}\n{size}\n{root}\n\n{_MARK}{origin} {signature}\n".encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as exc:
        raise SealError(f"{what}: {wire.quote(text)} is not base64") from exc
    if _base64(data) != text:
        raise SealError(f"{what}: {wire.quote(text)} is base64 in another spelling than its one")
    return data
