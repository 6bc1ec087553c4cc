# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the ABI tests: the compiled library, and a stage to play a script on."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi import metered
from tests.abi.asking import Ask
from tests.abi.build import BuildError, build
from tests.abi.script import Script
from tests.abi.sealed import Meter, Sealed, run_meter
from tests.abi.stage import Stage, set_up


@pytest.fixture(scope="session")
def library() -> Path:
    """The folder of the compiled library; without a compiler the test skips, and fails under CI."""
    try:
        return build()
    except BuildError as error:
        if os.environ.get("CI") or "could not compile" in str(error):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture
def stage(library: Path, tmp_path: Path) -> Callable[..., Stage]:
    """`stage(script, duration_ms=..., ...)`: the script set up in a folder of this test."""

    def put(script: Script, **options: object) -> Stage:
        return set_up(tmp_path / "stage", library, script, **options)  # type: ignore[arg-type]

    return put


@pytest.fixture
def ask(stage: Callable[..., Stage]) -> Ask:
    """`ask(script, request, ...)`: the answers to the requests, after nvmlInit at script time 0."""

    def answers(script: Script, *requests: list[object], **options: object) -> list[object]:
        return stage(script, **options).probe([[None, "nvmlInit"], *requests])[1:]

    return answers


@pytest.fixture
def meter(stage: Callable[..., Stage], tmp_path: Path) -> Meter:
    """`meter(script, end_ms, interval_ms=...)`: what the agent sealed of the first GPU, once the oracle agrees."""

    def run(script: Script, *times: int, **options: int) -> Sealed:
        return run_meter(stage, tmp_path / "state", script, *times, **options)

    return run


@pytest.fixture
def meter_instances(stage: Callable[..., Stage], tmp_path: Path) -> metered.Meter:
    """`meter_instances(script, end_ms)`: what the agent sealed of the first GPU, once the oracle agrees."""

    def run(script: Script, end_ms: int = metered.END_MS) -> metered.Metered:
        return metered.meter_first(stage, tmp_path / "state", script, end_ms)

    return run
