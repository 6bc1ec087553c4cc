# SPDX-License-Identifier: Apache-2.0
"""Strict JSON in bytes: one value has one form, and what was not expected is an error that names the field.

Sorted keys, no spaces, ASCII, integers only. Whoever decodes compares with his own encoding of what he understood,
so nothing can stand in the bytes that does not stand in the value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from gpuledger.errors import ReadingError

INTEGER_MAX = 2**63 - 1
TEXT_CHARACTERS_MAX = 256
_QUOTED_CHARACTERS_MAX = 80
_NO_AMOUNTS: dict[str, int] = {}


def fail(where: str, what: str) -> NoReturn:
    """Raise the ReadingError of a field."""
    raise ReadingError(f"reading: {where}: {what}")


def quote(value: object) -> str:
    """Return foreign input as it may stand in a sentence: printable and not too long."""
    text = ascii(value)
    return text if len(text) <= _QUOTED_CHARACTERS_MAX else text[:_QUOTED_CHARACTERS_MAX] + "..."


def present(pairs: Mapping[str, object | None]) -> dict[str, object]:
    """Return the fields that are there: what is unknown has none."""
    return {key: value for key, value in pairs.items() if value is not None}


def amounts(counts: Mapping[Any, int]) -> dict[str, int] | None:
    """Return counts by the text of their key, zeros left out; None where nothing is left."""
    return {str(key): count for key, count in counts.items() if count != 0} or None


def dump(value: object) -> bytes:
    """Return the one form of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def parse(data: bytes, where: str, bytes_max: int) -> Any:
    """Return the JSON value in `data`; raises ReadingError."""
    if len(data) > bytes_max:
        fail(where, f"{len(data)} bytes, and at most {bytes_max} are allowed")

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    fail(where, f"{quote(name)} stands twice in one object")
                seen.add(name)
        return fields

    def refuse_constant(name: str) -> NoReturn:
        fail(where, f"{name} is no number here")

    try:
        return json.loads(data, object_pairs_hook=refuse_twice, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise ReadingError(f"reading: {where}: not JSON ({ascii(str(exc))[1:-1]})") from exc


def is_integer(value: object) -> bool:
    """Return whether the value is an integer from 0 to 2^63 - 1, and neither a float nor a bool."""
    return type(value) is int and 0 <= value <= INTEGER_MAX


class Fields:
    """A JSON object whose fields are taken once each; what is left over is an error."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            fail(where, "not an object")
        self._fields: dict[str, Any] = dict(value)
        self._where = where

    # Every reading of the fleet passes here, so each method looks at its field once and calls nothing else.

    def take(self, name: str, default: object = ...) -> Any:
        value = self._fields.pop(name, default)
        if value is ...:
            fail(self._where, f"{name} is missing")
        return value

    def text(self, name: str, default: object = ...) -> Any:
        value = self._fields.pop(name, default)
        if value is default and default is not ...:
            return default
        if value is ...:
            fail(self._where, f"{name} is missing")
        if type(value) is not str or len(value) > TEXT_CHARACTERS_MAX or not value.isprintable():
            fail(self._where, f"{name} is not a printable text of at most {TEXT_CHARACTERS_MAX} characters")
        return value

    def name(self, name: str) -> Any:
        """Take a text that identifies something, so must not be empty."""
        value = self.text(name)
        if value == "":
            fail(self._where, f"{name} is empty")
        return value

    def integer(self, name: str, default: object = ...) -> Any:
        value = self._fields.pop(name, default)
        if value is default and default is not ...:
            return default
        if value is ...:
            fail(self._where, f"{name} is missing")
        if type(value) is not int or not 0 <= value <= INTEGER_MAX:
            fail(self._where, f"{name} is not an integer from 0 to 2^63 - 1")
        return value

    def amounts(self, name: str, legal: Mapping[str, Any]) -> dict[Any, int]:
        """Take an object of positive integers whose keys are among the legal ones; absent means empty."""
        value = self._fields.pop(name, _NO_AMOUNTS)
        if type(value) is not dict:
            fail(self._where, f"{name} is not an object")
        amounts = {}
        for key, amount in value.items():
            if key not in legal:
                fail(self._where, f"{name} has an unknown key {quote(key)}")
            if type(amount) is not int or not 0 < amount <= INTEGER_MAX:
                fail(self._where, f"{name}.{key} is not a positive integer")
            amounts[legal[key]] = amount
        return amounts

    def items(self, name: str, count_max: int) -> list[Any]:
        """Take a list that is not empty and not too long; absent means empty."""
        value = self._fields.pop(name, None)
        if value is None:
            return []
        if type(value) is not list or not 0 < len(value) <= count_max:
            fail(self._where, f"{name} is not a list of 1 to {count_max}")
        return value

    def end(self) -> None:
        if self._fields:
            fail(self._where, f"unknown field {quote(min(self._fields))}")
