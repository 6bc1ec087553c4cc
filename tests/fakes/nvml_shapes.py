# SPDX-License-Identifier: Apache-2.0
"""Shapes of pynvml's own classes, as far as the door to NVML touches them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class FakeNvmlError(Exception):
    """Shaped like pynvml.NVMLError: compared but not hashed, the code in `value`."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __eq__(self, other: object) -> bool:
        return bool(self.value == other.value)  # type: ignore[attr-defined]


class FakeMismatchError(Exception):
    """Shaped like pynvml.NVMLLibraryMismatchError, which is no NVMLError."""


@dataclass(slots=True)
class FakeGpmRequest:
    """Shaped like pynvml.c_nvmlGpmMetricsGet_t, filled with what a careless reader would take for an answer."""

    is_in_use: bool = False
    version: int = 0
    numMetrics: int = 0
    sample1: Any = None
    sample2: Any = None
    metrics: list[SimpleNamespace] = field(
        default_factory=lambda: [SimpleNamespace(metricId=0, nvmlReturn=0, value=77.0) for _ in range(20)]
    )
