# SPDX-License-Identifier: Apache-2.0
"""Engines in a reading: an integral over time that was known, and nothing from nothing."""

from __future__ import annotations

import pytest

from gpuledger.errors import ReadingError
from gpuledger.reading import decode
from tests.unit.test_reading import edit


def with_engines(known: str, active: str) -> bytes:
    engines = f'"engine_known_ms":{known},"engine_ns":{active},'
    return edit('"memory_used_bytes_max":0', f'{engines}"memory_used_bytes_max":0')


@pytest.mark.parametrize(
    ("known", "active", "named"),
    [
        ('{"sm":1000}', '{"sm":1000000001}', "engine_ns of sm"),
        ('{"sm":1001}', '{"sm":1}', "engine_ns of sm"),
        ('{"sm":1000}', '{"tensor":1}', "engine_ns of tensor"),
        ('{"sm":1000}', '{"sm":0}', "sm"),
        ('{"nvlink":1000}', '{"sm":1}', "nvlink"),
    ],
)
def test_an_engine_that_was_active_for_longer_than_known_is_refused(known: str, active: str, named: str) -> None:
    with pytest.raises(ReadingError, match=named):
        decode(with_engines(known, active))


def test_an_engine_that_did_nothing_is_known_and_one_that_is_not_there_is_not() -> None:
    (gpu,) = decode(with_engines('{"dram":7,"sm":1000}', '{"sm":1000000000}')).gpus
    assert (gpu.engine_known_ms, gpu.engine_ns) == ({"sm": 1000, "dram": 7}, {"sm": 10**9})
