# SPDX-License-Identifier: Apache-2.0
"""An agent's answer to /v1/readings, checked for shape and size; whether it is genuine is intake's question."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gpuledger.errors import ReadingError
from gpuledger.reading import GPUS_MAX, INTEGER_MAX, TEXT_CHARACTERS_MAX, WORKLOADS_MAX

READINGS_MAX = 5_000
"""Readings in one answer."""
OPENINGS_MAX = 2 * (WORKLOADS_MAX + 1) * GPUS_MAX
CHECKPOINTS_MAX = 16
KEY_BYTES = 32
SALT_BYTES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One reading as served: bytes as received, and openings as digest -> (salt, name)."""

    sequence: int
    envelope: bytes
    workloads: bytes | None = None
    openings: Mapping[str, tuple[bytes, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One node's answer. `first_sequence` and `last_sequence` are what its journal holds."""

    node_id: str
    node: str
    public_key: bytes
    journal: str
    first_sequence: int | None
    last_sequence: int
    simulated: bool
    items: tuple[Item, ...]
    checkpoints: tuple[str, ...] = ()
    """What the agent says it was shown, each in one line; no seal stands behind it, but each has its own signature."""


def _fail(where: str, what: str) -> NoReturn:
    raise ReadingError(f"answer: {where}: {what}")


def _take(value: Any, name: str, where: str) -> Any:
    if name not in value:
        _fail(where, f"{name} is missing")
    return value[name]


def _text(value: Any, name: str, where: str) -> str:
    text = _take(value, name, where)
    if not isinstance(text, str) or not 0 < len(text) <= TEXT_CHARACTERS_MAX:
        _fail(where, f"{name} is not a text of 1 to {TEXT_CHARACTERS_MAX} characters")
    return text


def _integer(value: Any, name: str, where: str) -> int:
    number = _take(value, name, where)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= INTEGER_MAX:
        _fail(where, f"{name} is not an integer from 0 to 2^63 - 1")
    return number


def parse_answer(document: object) -> Answer:
    """Return the answer in a JSON document; raises ReadingError naming the field at fault.

    Unknown fields are left alone: a newer agent may say more.
    """
    if not isinstance(document, dict):
        _fail("document", "not an object")
    value: dict[str, Any] = document
    try:
        public_key = base64.b64decode(_take(value, "public_key", "document"), validate=True)
    except (TypeError, ValueError, binascii.Error) as exc:
        raise ReadingError("answer: document: public_key is not base64") from exc
    if len(public_key) != KEY_BYTES:
        _fail("document", f"public_key has {len(public_key)} bytes, not {KEY_BYTES}")
    readings = _take(value, "readings", "document")
    if not isinstance(readings, list) or len(readings) > READINGS_MAX:
        _fail("document", f"readings is not a list of at most {READINGS_MAX}")
    simulated = value.get("simulated", False)
    if not isinstance(simulated, bool):
        _fail("document", "simulated is not true or false")
    checkpoints = value.get("checkpoints", [])
    if not (
        isinstance(checkpoints, list)
        and len(checkpoints) <= CHECKPOINTS_MAX
        and all(isinstance(line, str) and len(line) <= TEXT_CHARACTERS_MAX for line in checkpoints)
    ):
        _fail("document", f"checkpoints is not a list of at most {CHECKPOINTS_MAX} texts")
    has_first = _take(value, "first_sequence", "document") is not None
    return Answer(
        node_id=_text(value, "node_id", "document"),
        node=_text(value, "node", "document"),
        public_key=public_key,
        journal=_text(value, "journal", "document"),
        first_sequence=_integer(value, "first_sequence", "document") if has_first else None,
        last_sequence=_integer(value, "last_sequence", "document"),
        simulated=simulated,
        items=tuple(_parse_item(item, f"readings[{index}]") for index, item in enumerate(readings)),
        checkpoints=tuple(checkpoints),
    )


def _parse_item(value: Any, where: str) -> Item:
    if not isinstance(value, dict):
        _fail(where, "not an object")
    envelope = _take(value, "envelope", where)
    workloads = value.get("workloads")
    if not isinstance(envelope, str) or not (workloads is None or isinstance(workloads, str)):
        _fail(where, "envelope or workloads is not a text")
    return Item(
        sequence=_integer(value, "sequence", where),
        envelope=_bytes(envelope, where),
        workloads=None if workloads is None else _bytes(workloads, where),
        openings=_parse_openings(value.get("openings", {}), where),
    )


def _bytes(text: str, where: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ReadingError(f"answer: {where}: a text with half a character in it") from exc


def _parse_openings(value: Any, where: str) -> dict[str, tuple[bytes, str]]:
    """Return openings by digest; one of the wrong shape is kept as an empty one, which opens nothing and is counted."""
    if not isinstance(value, dict) or len(value) > OPENINGS_MAX:
        _fail(where, f"openings is not an object of at most {OPENINGS_MAX}")
    return {str(digest): _opening(item) for digest, item in value.items()}


def _opening(item: Any) -> tuple[bytes, str]:
    match item:
        case [str() as salt, str() as name] if len(salt) <= 2 * SALT_BYTES_MAX and len(name) <= TEXT_CHARACTERS_MAX:
            try:
                name.encode("utf-8")
                return bytes.fromhex(salt), name
            except (ValueError, UnicodeEncodeError):
                return b"", ""
    return b"", ""
