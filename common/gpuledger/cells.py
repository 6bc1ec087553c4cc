# SPDX-License-Identifier: Apache-2.0
"""The grid of time: cells of 300 s of UTC, hours and days made of whole cells, and exact division of integers.

All times are POSIX milliseconds; all spans are half-open [start, end).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CELL_MS = 300_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
SLICES_PER_GPU = 7
"""One H100 GPU-ms is 7 slice-ms, MIG or not."""
CELL_SLICE_MS = CELL_MS * SLICES_PER_GPU


def floor_to(time_ms: int, grid_ms: int) -> int:
    """Return the last edge of the grid at or before `time_ms`."""
    return time_ms - time_ms % grid_ms


def ceil_to(time_ms: int, grid_ms: int) -> int:
    """Return the first edge of the grid at or after `time_ms`."""
    return -(-time_ms // grid_ms) * grid_ms


def split_at(start_ms: int, end_ms: int, grid_ms: int) -> Iterator[tuple[int, int]]:
    """Cut [start, end) at the grid's edges; yields (start, end) pieces in order, none for an empty span."""
    while start_ms < end_ms:
        piece_end_ms = min(end_ms, floor_to(start_ms, grid_ms) + grid_ms)
        yield start_ms, piece_end_ms
        start_ms = piece_end_ms


def share_by_weight(total: int, weights: Sequence[int]) -> list[int]:
    """Divide `total` along consecutive pieces in proportion to `weights`; the parts sum to `total` exactly.

    Each piece but the last gets the floor of its share, so the last takes the remainder. Raises ValueError where there
    is no weight.
    """
    whole = sum(weights)
    if whole <= 0:
        raise ValueError("nothing has a weight to share by")
    parts = [total * weight // whole for weight in weights[:-1]]
    parts.append(total - sum(parts))
    return parts


def share_equally(total: int, count: int) -> list[int]:
    """Divide `total` >= 0 into `count` >= 1 parts that differ by at most one and sum to it (largest remainder)."""
    if count < 1:
        raise ValueError("there is nobody to share with")
    base, extra = divmod(total, count)
    return [base + 1 if index < extra else base for index in range(count)]
