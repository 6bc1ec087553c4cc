# SPDX-License-Identifier: Apache-2.0
"""The interface's own description: it says of every answer what the answer is."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gpuledger.states import State
from gpuledger_collector.api import records
from gpuledger_collector.api.openapi import openapi
from gpuledger_collector.api.operations import OPERATIONS, ROOT
from gpuledger_collector.api.schema import Schemas, encode, plain

DOCUMENT = json.loads(openapi())


def test_every_operation_has_its_address_and_every_record_its_fields_in_words() -> None:
    assert list(DOCUMENT["paths"]) == [f"{ROOT}{operation.path}" for operation in OPERATIONS] + [f"{ROOT}/openapi.json"]
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field, part in schema["properties"].items():
            assert part.get("description") or field == "items", f"{name}.{field} is not described"


def test_every_reference_leads_somewhere() -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, Mapping):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    names = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) == names


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    number: int = records.told("A number.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Everything that a record may have."""

    text: str | None = records.told("A text.")
    is_so: bool = records.told("A flag.")
    parts: tuple[Part, ...] = records.told("Parts.")
    part: Part | None = records.told("One part.")
    times: Mapping[State, int] = records.told("By state.")
    state: State = records.told("A state.")


def test_a_record_and_its_schema_come_from_the_same_fields() -> None:
    schemas = Schemas()
    assert schemas.of(Whole) == {"$ref": "#/components/schemas/Whole"}
    whole = schemas.components["Whole"]
    assert whole["required"] == ["text", "is_so", "parts", "part", "times", "state"]
    assert whole["additionalProperties"] is False
    properties = whole["properties"]
    assert properties["text"] == {"description": "A text.", "type": ["string", "null"]}
    assert properties["part"]["anyOf"] == [{"$ref": "#/components/schemas/Part"}, {"type": "null"}]
    assert properties["times"]["propertyNames"]["enum"] == [state.value for state in State]
    value = Whole(text=None, is_so=True, parts=(Part(number=1),), part=None, times={State.BUSY: 2}, state=State.FREE)
    assert json.loads(encode(value)) == {
        "text": None,
        "is_so": True,
        "parts": [{"number": 1}],
        "part": None,
        "times": {"busy": 2},
        "state": "free",
    }


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_what_an_operation_takes_is_what_its_description_says(operation: Any) -> None:
    described = DOCUMENT["paths"][f"{ROOT}{operation.path}"]["get"]["parameters"]
    query = [parameter for parameter in described if parameter["in"] == "query"]
    assert [parameter["name"] for parameter in query] == [parameter.name for parameter in operation.parameters]
    for parameter, schema in zip(operation.parameters, query, strict=True):
        for value in schema["schema"].get("enum", ()):
            assert plain(parameter.read(value)) == value
