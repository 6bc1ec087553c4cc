# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document, made of the operations and records themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpuledger_collector.api.operations import OPERATIONS, ROOT, Operation
from gpuledger_collector.api.parameters import TEXT_CHARACTERS_MAX
from gpuledger_collector.api.records import Problem, Span
from gpuledger_collector.api.schema import Json, Schemas

_ABOUT = """\
What the collector knows of its fleet. Everything is read-only, and a request only reads what the collector put together
last. Figures are integers, in slice-milliseconds: a GPU-hour is 25,200,000. Times are POSIX milliseconds. What is not
known is null, never 0. SIMULATED fleets say so in every answer."""

_REFUSALS: Mapping[str, str] = {
    "400": "A parameter is wrong; the answer names it.",
    "401": "The port wants a login.",
    "429": "A wrong password came just now.",
    "503": "Nothing is prepared yet, or too much is asked at once.",
}
_HEADERS: Json = {
    "ETag": {"description": "Weak; for If-None-Match.", "schema": {"type": "string"}},
    "Cache-Control": {"description": "private, no-cache", "schema": {"type": "string"}},
}
_NOT_MODIFIED = "If-None-Match named what would have been the answer."


def openapi() -> bytes:
    """Return the document as JSON, two spaces deep."""
    schemas = Schemas()
    paths = {f"{ROOT}{operation.path}": {"get": _operation(operation, schemas)} for operation in OPERATIONS}
    paths[f"{ROOT}/openapi.json"] = {"get": _own()}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "gpuledger collector", "version": "1", "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
        # The first: a collector on an address that only its own machine reaches may want no login.
        "security": [{}, {"bearer": []}, {"basic": []}],
    }
    return (json.dumps(document, indent=2) + "\n").encode("ascii")


def _operation(operation: Operation, schemas: Schemas) -> Json:
    record = schemas.of(operation.record)
    content = _envelope(operation, record, schemas) if operation.is_list else record
    responses = {"200": {"description": operation.text, "headers": _headers(operation), "content": _json(content)}}
    responses["304"] = {"description": _NOT_MODIFIED}
    refused = {"application/problem+json": {"schema": schemas.of(Problem)}}
    refusals = dict(_REFUSALS)
    if operation.path_text:
        refusals["404"] = "There is no such thing."
    responses |= {status: {"description": text, "content": refused} for status, text in sorted(refusals.items())}
    return {
        "operationId": operation.name,
        "summary": operation.text,
        "parameters": [*_path(operation), *_query(operation), _IF_NONE_MATCH],
        "responses": responses,
    }


def _envelope(operation: Operation, record: Json, schemas: Schemas) -> Json:
    name = f"{operation.record.__name__}Page"
    properties = {
        "schema": {"type": "integer", "description": "Version of the interface's meaning."},
        "simulated": {"type": "boolean", "description": "True where any of it came from a simulator."},
        "prepared_ms": {"type": "integer", "description": "When this was put together, POSIX milliseconds."},
        "period": schemas.of(Span | None, "What the figures cover; null while the ledger is empty."),
        "items": {"type": "array", "items": record},
        "next": {
            "type": ["string", "null"],
            "description": "What `after` takes to go on; null on the last page. A page may be short, or empty, and not "
            "be the last.",
        },
    }
    schemas.components[name] = {
        "type": "object",
        "description": f"One page: {operation.text}",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"$ref": f"#/components/schemas/{name}"}


def _headers(operation: Operation) -> Json:
    if not operation.is_list:
        return _HEADERS
    link = {"description": "The next page, rel=next; none on the last.", "schema": {"type": "string"}}
    return {**_HEADERS, "Link": link}


def _path(operation: Operation) -> list[Json]:
    if not operation.path_text:
        return []
    name = operation.path[operation.path.index("{") + 1 : -1]
    schema = {"type": "string", "minLength": 1, "maxLength": TEXT_CHARACTERS_MAX}
    return [{"name": name, "in": "path", "required": True, "description": operation.path_text, "schema": schema}]


def _query(operation: Operation) -> list[Json]:
    return [
        {"name": parameter.name, "in": "query", "description": parameter.text, "schema": dict(parameter.schema)}
        for parameter in operation.parameters
    ]


_IF_NONE_MATCH: Json = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an earlier answer.",
    "schema": {"type": "string"},
}


def _json(schema: Json) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _own() -> Json:
    document = {"description": "This document.", "content": _json({"type": "object"})}
    refused = {"description": _REFUSALS["400"], "content": {"application/problem+json": {"schema": _PROBLEM}}}
    return {
        "operationId": "openapi",
        "summary": "This document.",
        "parameters": [],
        "responses": {"200": document, "304": {"description": _NOT_MODIFIED}, "400": refused},
    }


_PROBLEM: Json = {"$ref": "#/components/schemas/Problem"}
