# SPDX-License-Identifier: Apache-2.0
"""Lists cut to what an entry of the log may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from gpuledger import wire

PART_BYTES_MAX = 40_000
"""Of a list in an entry of ours, so that its envelope is no larger than an entry may be."""

_Value = TypeVar("_Value", bound=Any)


def cut(values: Sequence[_Value]) -> Iterator[tuple[_Value, ...]]:
    """Yield the values, which are dataclasses, in parts of which each fits; one that is larger is a part of its own."""
    part: list[_Value] = []
    room = PART_BYTES_MAX
    for value in values:
        length = len(wire.dump(asdict(value)))
        if part and length > room:
            yield tuple(part)
            part, room = [], PART_BYTES_MAX
        part.append(value)
        room -= length + 1
    if part:
        yield tuple(part)
