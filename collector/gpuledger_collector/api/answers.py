# SPDX-License-Identifier: Apache-2.0
"""Answers of the interface as documents: lists in their envelope, problems after RFC 9457, and the routes to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from gpuledger_collector.api import resources
from gpuledger_collector.api.openapi import openapi
from gpuledger_collector.api.operations import OPERATIONS, ROOT, Listed, Operation
from gpuledger_collector.api.parameters import BadRequest, cursor, read_query
from gpuledger_collector.api.records import SCHEMA, Parameter, Problem
from gpuledger_collector.api.schema import encode, plain
from gpuledger_collector.documents import PRIVATE, Asked, Document
from gpuledger_collector.published import Published

JSON, PROBLEM = "application/json", "application/problem+json"
_MOMENTS = ("prepared_ms", "refreshed_ms")
"""Fields that change where nothing else does: they are no part of a tag."""


def problem(status: int, detail: str, faults: Mapping[str, str] | None = None) -> Document:
    """Return why there is no answer."""
    parameters = tuple(Parameter(name=name, detail=text) for name, text in (faults or {}).items())
    record = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        parameters=parameters,
    )
    return Document(body=encode(record), content_type=PROBLEM, status=status, headers=PRIVATE)


def answer(operation: Operation, state: Published, asked: Asked) -> Document:
    """Return the answer of an operation to one request."""
    try:
        values = {**read_query(operation.parameters, asked.query), **asked.path}
        found = operation.answer(state, values)
    except BadRequest as exc:
        return problem(400, str(exc), exc.faults)
    if found is None:
        (name, value), *_ = asked.path.items()
        return problem(404, f"there is no {name} {value!r}")
    if isinstance(found, Listed):
        return _list(operation, state, asked, found)
    return _document(plain(found))


def _list(operation: Operation, state: Published, asked: Asked, found: Listed) -> Document:
    following = None if found.last is None else cursor(found.last)
    content = {
        "schema": SCHEMA,
        "simulated": state.view.simulated,
        "prepared_ms": state.view.now_ms,
        "period": plain(resources.period(state)),
        "items": [plain(item) for item in found.items],
        "next": following,
    }
    headers: dict[str, str] = {}
    if following is not None:
        query = [(name, text) for name, text in asked.query if name != "after"]
        address = f"{ROOT}{operation.path}?{urlencode([*query, ('after', following)], errors='replace')}"
        headers["Link"] = f'<{address}>; rel="next"'
    return _document(content, headers)


def _document(content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Document:
    lasting = {name: value for name, value in content.items() if name not in _MOMENTS}
    return Document(
        body=_bytes(content), content_type=JSON, headers={**PRIVATE, **(headers or {})}, sameness=_bytes(lasting)
    )


def _bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def routes() -> Mapping[str, Callable[[Published, Asked], Document]]:
    """Return what answers each address, its own description included."""

    def bound(operation: Operation) -> Callable[[Published, Asked], Document]:
        return lambda state, asked: answer(operation, state, asked)

    description = Document(body=openapi(), content_type=JSON, headers=PRIVATE)

    def describe(state: Published, asked: Asked) -> Document:
        del state
        try:
            read_query((), asked.query)
        except BadRequest as exc:
            return problem(400, str(exc), exc.faults)
        return description

    found = {f"{ROOT}{operation.path}": bound(operation) for operation in OPERATIONS}
    return {**found, f"{ROOT}/openapi.json": describe}
