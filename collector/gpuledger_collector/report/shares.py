# SPDX-License-Identifier: Apache-2.0
"""Percentages that stay bounds when rounded: integer arithmetic, to a tenth of a percent.

A printed percentage never flatters the operator. Rounded down: lower bounds (of busy and of idle), coverage,
measured, engine-active and the state busy. Rounded up: upper bounds, out of service, declared and uncovered, and
every state but busy. So the printed states of a row may sum to a little over 100 %; the GPU-hours beside them are
exact. Differences are taken between printed figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger.accounting import Account, Bounds
from gpuledger.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A quotient with its integer numerator and denominator; `tenths` is tenths of a percent, as printed."""

    part_slice_ms: int
    whole_slice_ms: int
    tenths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A share known only to lie between two."""

    low: Share
    high: Share


def share_down(part_slice_ms: int, whole_slice_ms: int) -> Share:
    """Return the share rounded down; `whole_slice_ms` must be positive."""
    tenths = part_slice_ms * 1000 // whole_slice_ms
    return Share(part_slice_ms=part_slice_ms, whole_slice_ms=whole_slice_ms, tenths=tenths)


def share_up(part_slice_ms: int, whole_slice_ms: int) -> Share:
    """Return the share rounded up; `whole_slice_ms` must be positive."""
    tenths = -(-part_slice_ms * 1000 // whole_slice_ms)
    return Share(part_slice_ms=part_slice_ms, whole_slice_ms=whole_slice_ms, tenths=tenths)


def share_of_state(account: Account, state: State) -> Share:
    """Return the state's share of installed time, which must be positive: busy rounded down, all others up."""
    rounded = share_down if state is State.BUSY else share_up
    return rounded(account.slice_ms(state), account.installed_slice_ms)


def range_of(bounds: Bounds) -> Range:
    """Return the bounds as printed: the lower rounded down, the upper rounded up."""
    return Range(
        low=share_down(bounds.low_slice_ms, bounds.installed_slice_ms),
        high=share_up(bounds.high_slice_ms, bounds.installed_slice_ms),
    )
