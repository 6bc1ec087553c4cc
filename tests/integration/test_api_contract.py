# SPDX-License-Identifier: Apache-2.0
"""The JSON interface over real HTTP against its own description: schemathesis asks whatever that allows, and more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from gpuledger_collector.api.openapi import openapi
from tests.fakes.large_fleet import a_large_fleet
from tests.fakes.served import serving

SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi()))
PATHS = sorted(json.loads(openapi())["paths"])
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
EXAMPLES = 12
LINE_BYTES_MAX = 7_000
"""Longer addresses the port does not read to the end, so what is in them does not matter."""
REAL = {"node": "node-3", "gpu": "GPU-node-1-0", "workload": "01" * 32}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server that shows a SIMULATED fleet."""
    with serving(a_large_fleet(24, 4)) as desk:
        yield desk.url


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_is_asked_the_answer_is_one_that_the_description_has(
    path: str, mode: GenerationMode, url: str, session: requests.Session
) -> None:
    operation = SCHEMA[path]["GET"]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case: Any = data.draw(operation.as_strategy(mode))
        address = requests.Request("GET", url, params=case.query).prepare().url
        assume(address is not None and len(address) < LINE_BYTES_MAX)
        # Any text may stand where a cursor goes, and only those that an answer gave out are taken.
        is_cursor = "after" in (case.query or {})
        wanted = CHECKS if is_cursor else [*CHECKS, positive_data_acceptance]
        case.call_and_validate(base_url=url, session=session, checks=wanted)

    try:
        ask()
    except Exception as exc:
        if type(exc).__name__ != "Unsatisfiable":  # an operation without parameters cannot be asked wrongly
            raise


@pytest.mark.parametrize("path", PATHS)
def test_what_is_there_is_told_as_described(path: str, url: str, session: requests.Session) -> None:
    operation: Any = SCHEMA[path]["GET"]
    name = path[path.index("{") + 1 : -1] if "{" in path else None
    case = operation.Case(path_parameters={} if name is None else {name: REAL[name]})
    answer = case.call_and_validate(base_url=url, session=session, checks=CHECKS)
    assert answer.status_code == 200
    if '"next"' in answer.text and path != "/api/v1/openapi.json":
        assert answer.json()["items"] != []
        case = operation.Case(query={"limit": 1})
        first = case.call_and_validate(base_url=url, session=session, checks=CHECKS)
        if first.json()["next"] is not None:
            case = operation.Case(query={"limit": 1, "after": first.json()["next"]})
            second = case.call_and_validate(base_url=url, session=session, checks=CHECKS)
            assert second.json()["items"] != first.json()["items"]
