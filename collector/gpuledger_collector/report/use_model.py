# SPDX-License-Identifier: Apache-2.0
"""What GPU time was used for, as data: the part of a report's model that is about kinds of workloads."""

from __future__ import annotations

from dataclasses import dataclass

from gpuledger_collector.classify.kinds import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class KindUse:
    """Busy and held time of one kind; kinds sum to the period's. `whole_node_slice_ms`: of workloads with whole nodes.

    `burstiness_percent` is the deviation of hourly busy time over its mean; None without any.
    """

    kind: Kind
    busy_slice_ms: int
    held_slice_ms: int
    whole_node_slice_ms: int
    burstiness_percent: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UseWeek:
    """Busy and held time of one week by kind, as verdicts stand now; `is_whole`: the ledger has all of it."""

    start_ms: int
    is_whole: bool
    training_slice_ms: int
    inference_slice_ms: int
    synthetic_slice_ms: int
    other_slice_ms: int
    unclassified_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UseHour:
    """Mean busy time of one hour of the week (0 to 167, from Monday 00:00 UTC on), as slice-ms in that hour."""

    hour: int
    training_slice_ms: int
    inference_slice_ms: int
    synthetic_slice_ms: int
    other_slice_ms: int
    unclassified_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What GPU time was used for: all kinds, in a fixed order; weeks up to the period's end; hours that there were."""

    kinds: tuple[KindUse, ...]
    weeks: tuple[UseWeek, ...]
    hours: tuple[UseHour, ...]
