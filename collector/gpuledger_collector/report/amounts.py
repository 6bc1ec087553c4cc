# SPDX-License-Identifier: Apache-2.0
"""Amounts as people read them: GPU-hours, percentages, memory, counts, times."""

from __future__ import annotations

from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger_collector.report.periods import minute_text
from gpuledger_collector.report.shares import Range, Share

GPU_HOUR_SLICE_MS = HOUR_MS * SLICES_PER_GPU
ABSENT = "–"
"""What stands where there is no figure; a zero is written as 0.0."""


def hours(slice_ms: int) -> str:
    """Return GPU-hours to a tenth, half up; what is less than that but not nothing is "<0.1"."""
    if 0 < slice_ms < GPU_HOUR_SLICE_MS // 20:
        return "<0.1"
    tenths = (slice_ms * 20 + GPU_HOUR_SLICE_MS) // (2 * GPU_HOUR_SLICE_MS)
    return f"{tenths // 10:,}.{tenths % 10}"


def percent(share: Share | None) -> str:
    """Return "61.2 %"."""
    return ABSENT if share is None else f"{tenths_text(share.tenths)} %"


def tenths_text(tenths: int) -> str:
    """Return a number of tenths >= 0 as "61.2"."""
    return f"{tenths // 10}.{tenths % 10}"


def percent_range(found: Range | None) -> str:
    """Return "61.2 – 63.0 %", or one number where nothing is unknown and rounding keeps it one."""
    if found is None:
        return ABSENT
    if found.low.tenths == found.high.tenths:
        return percent(found.low)
    return f"{tenths_text(found.low.tenths)} – {percent(found.high)}"


def fraction(share: Share | None) -> str:
    """Return "3,290.1 of 5,376.0 GPU-hours"."""
    return ABSENT if share is None else f"{hours(share.part_slice_ms)} of {hours(share.whole_slice_ms)} GPU-hours"


def hours_range(found: Range | None) -> str:
    """Return "3,290.1 – 3,386.9 of 5,376.0 GPU-hours"."""
    if found is None:
        return ABSENT
    if found.low.part_slice_ms == found.high.part_slice_ms:
        return fraction(found.low)
    return f"{hours(found.low.part_slice_ms)} – {fraction(found.high)}"


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


def seconds(amount_ms: int) -> str:
    """Return "1 s", or "250 ms" where seconds are not whole."""
    return f"{amount_ms // 1000} s" if amount_ms % 1000 == 0 else f"{amount_ms} ms"


def count(number: int, noun: str) -> str:
    """Return "1 node" or "2 nodes"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def utc(time_ms: int) -> str:
    """Return "Mon 16 Nov 2026 00:00 UTC"."""
    return f"{minute_text(time_ms)} UTC"
