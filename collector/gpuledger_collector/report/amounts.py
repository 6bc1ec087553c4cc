# SPDX-License-Identifier: Apache-2.0
"""Amounts as people read them in every language: GPU-hours, tenths, differences, memory."""

from __future__ import annotations

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU

GPU_HOUR_SLICE_MS = HOUR_MS * SLICES_PER_GPU
ABSENT = "–"
"""What stands where there is no figure; a zero is written as 0.0."""


def hours(slice_ms: int) -> str:
    """Return GPU-hours to a tenth, half up; what is less than that but not nothing is "<0.1"."""
    if 0 < slice_ms < GPU_HOUR_SLICE_MS // 20:
        return "<0.1"
    tenths = (slice_ms * 20 + GPU_HOUR_SLICE_MS) // (2 * GPU_HOUR_SLICE_MS)
    return f"{tenths // 10:,}.{tenths % 10}"


def tenths_text(tenths: int) -> str:
    """Return a number of tenths >= 0 as "61.2"."""
    return f"{tenths // 10}.{tenths % 10}"


def points(tenths: int | None) -> str:
    """Return a difference as "+1.8" or "−0.3" percentage points."""
    if tenths is None:
        return ABSENT
    sign = "+" if tenths > 0 else "−" if tenths < 0 else "±"
    return sign + tenths_text(abs(tenths))


def memory(amount_bytes: int | None) -> str:
    """Return gibibytes to a tenth."""
    if amount_bytes is None:
        return ABSENT
    tenths = (amount_bytes * 20 + (1 << 30)) // (2 << 30)
    return f"{tenths // 10:,}.{tenths % 10} GiB"
