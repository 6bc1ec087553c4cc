# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of a report's JSON, made from the model itself: what the model says is what the schema says."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

from gpuledger_collector.report.model import SCHEMA, SCHEMA_VERSION, Weekly
from gpuledger_collector.report.to_json import BESIDE, beside_name

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_HEAD: dict[str, Any] = {
    "schema": {"const": SCHEMA},
    "schema_version": {"const": SCHEMA_VERSION},
    "language": {"type": "string", "description": "Of title, sentence and notices; all else is the same in each."},
    "title": {"type": "string"},
    "sentence": {"type": "string"},
    "notices": {"type": "array", "items": {"type": "string"}},
    "sampling_error_points": {"type": ["number", "null"]},
}


def schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12."""
    definitions: dict[str, Any] = {}
    root = _object(Weekly, definitions)
    root["properties"] |= _HEAD
    root["required"] = sorted({*root["required"], *_HEAD} - {"sampling_error_points"})
    return {
        "$schema": _DRAFT,
        "title": f"{SCHEMA} {SCHEMA_VERSION}",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """Return the schema as JSON text with a final line feed."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"


def _object(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    properties: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        properties[field.name] = _value(hints[field.name], definitions)
        name = beside_name(field.name)
        if name is not None:
            kind = BESIDE[name.rpartition("_")[2]]
            is_absent = type(None) in typing.get_args(hints[field.name])
            properties[name] = {"type": [kind, "null"] if is_absent else kind}
    document = " ".join((cls.__doc__ or "").split())
    return {
        "type": "object",
        "description": document,
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _value(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        return {"anyOf": [_value(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _value(arguments[0], definitions)}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}  # it may hold itself
            definitions[hint.__name__] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    plain = {
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        str: {"type": "string"},
        Decimal: {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"},
        date: {"type": "string", "format": "date"},
        type(None): {"type": "null"},
    }
    if hint not in plain:
        raise AssertionError(f"no schema for {hint}")
    return plain[hint]
