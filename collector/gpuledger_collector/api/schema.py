# SPDX-License-Identifier: Apache-2.0
"""Records to JSON, and to JSON Schema (2020-12): both from the same fields, so that they cannot differ."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Hashable, Mapping
from enum import Enum
from functools import cache
from typing import Any, cast

Json = dict[str, Any]


def encode(record: Any) -> bytes:
    """Return a record as JSON; keys stand in the order of the fields."""
    return json.dumps(plain(record), separators=(",", ":")).encode("ascii")


def plain(value: Any) -> Any:
    """Return what the json module takes for a value of a record."""
    if dataclasses.is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in _names(cast("Hashable", type(value)))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


@cache
def _names(record: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cast("Any", record)))


class Schemas:
    """Collects the schemas of records by name, as an OpenAPI document has them."""

    def __init__(self) -> None:
        self.components: dict[str, Json] = {}

    def of(self, hint: Any, text: str = "") -> Json:
        """Return the schema of a type; records go to `components` and are referred to."""
        described = {"description": text} if text else {}
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            (inner,) = (argument for argument in arguments if argument is not type(None))
            return described | self._or_null(self.of(inner))
        if origin is tuple:
            return described | {"type": "array", "items": self.of(arguments[0])}
        if origin is not None:
            return described | self._mapping(*arguments)
        if dataclasses.is_dataclass(hint):
            self._add(hint)
            return described | {"$ref": _reference(hint)}
        if issubclass(hint, Enum):
            return described | {"type": "string", "enum": [member.value for member in hint]}
        return described | {"type": _TYPES[hint]}

    def _or_null(self, schema: Json) -> Json:
        return (
            {"anyOf": [schema, {"type": "null"}]} if "$ref" in schema else schema | {"type": [schema["type"], "null"]}
        )

    def _mapping(self, key: Any, value: Any) -> Json:
        names = {"propertyNames": self.of(key)} if issubclass(key, Enum) else {}
        return {"type": "object", "additionalProperties": self.of(value), **names}

    def _add(self, record: Any) -> None:
        name = record.__name__
        if name in self.components:
            return
        self.components[name] = {}
        hints = typing.get_type_hints(record)
        fields = dataclasses.fields(record)
        self.components[name] = {
            "type": "object",
            "description": (record.__doc__ or "").strip(),
            "properties": {field.name: self.of(hints[field.name], field.metadata["text"]) for field in fields},
            "required": [field.name for field in fields],
            "additionalProperties": False,
        }


def _reference(record: Any) -> str:
    return f"#/components/schemas/{record.__name__}"


_TYPES = {str: "string", int: "integer", bool: "boolean"}
