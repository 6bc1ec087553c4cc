# SPDX-License-Identifier: Apache-2.0
"""What a metric family is in the contract.

Names follow Prometheus naming: base units, `_total` on counters, ratios 0..1. Missing is absent: never 0, -1 or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """Prometheus metric types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric family; `name` is as exposed for gauges and histograms, with `_total` for counters.

    `bound` says what limits the number of series; `absent` says when there is none.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    absent: str
    bound: str


def family(name: str, kind: Kind, labels: str, help: str, absent: str, bound: str) -> Family:
    """Return a family; `labels` are separated by spaces."""
    return Family(name=name, kind=kind, labels=tuple(labels.split()), help=help, absent=absent, bound=bound)


def single(name: str, kind: Kind, help: str, absent: str = "never") -> Family:
    """Return a family of one series."""
    return family(name, kind, "", help, absent, "1")
