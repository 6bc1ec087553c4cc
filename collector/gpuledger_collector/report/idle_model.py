# SPDX-License-Identifier: Apache-2.0
"""Lists of the report as data: where idle, dark and down time was, whose it was, and what of it can be sold.

Amounts are integer slice-ms; every list is whole and in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FreeKind(str, Enum):
    """How free a node was."""

    ALL_WEEK = "all_week"
    """Every GPU installed and free in every cell of the period."""
    WHEN_OBSERVED = "when_observed"
    """Every GPU free in every covered cell, but part of the period was dark or before the node's installation."""
    PARTLY = "partly"


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeNode:
    """A node with free time."""

    kind: FreeKind
    site: str
    node: str
    gpus: int
    free_slice_ms: int
    dark_slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A workload that held GPUs without work; names are None where nobody opened them, digests always stand."""

    site: str
    node: str
    user_name: str | None
    user_digest: str | None
    workload_name: str | None
    workload_digest: str
    gpus: int
    held_slice_ms: int
    busy_slice_ms: int
    memory_bytes_max: int | None
    """The most on any one GPU."""
    first_hour_ms: int
    last_hour_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DarkNode:
    """A node with dark time; hours are named by their start.

    `dark_since_ms` is the first of the wholly dark hours that the period ends in, None where the node was seen last;
    `last_seen_hour_ms` is the last hour in which anything of it was observed, None where nothing was.
    """

    site: str
    node: str
    gpus: int
    dark_slice_ms: int
    installed_slice_ms: int
    first_dark_hour_ms: int
    last_seen_hour_ms: int | None
    dark_since_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DownGpu:
    """A GPU with down time."""

    site: str
    node: str
    gpu: str
    down_slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedNode:
    """A node with time that was allocated and had no process."""

    site: str
    node: str
    gpus: int
    reserved_slice_ms: int
    installed_slice_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNode:
    """A node that is wholly free at the end of the figures, and since which hour.

    `is_longer` says that it was free when the period began, so it may be so for longer. `energy_mj` is what its GPUs
    drew while free, None where no energy was counted.
    """

    node: str
    gpus: int
    since_ms: int
    is_longer: bool
    free_slice_ms: int
    energy_mj: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Whole nodes of one pool at one site that are free at the end of the figures: what can be sold, longest first."""

    site: str
    pool: str
    gpus: int
    free_slice_ms: int
    """Since each of them is free, within the period."""
    nodes: tuple[BlockNode, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleList:
    """Where idle, dark and down time was: each list sums to the state's total, largest first."""

    free: tuple[FreeNode, ...]
    held: tuple[Holder, ...]
    held_without_holder_slice_ms: int
    """Held time for which no reading tells the workload."""
    reserved: tuple[ReservedNode, ...]
    dark: tuple[DarkNode, ...]
    down: tuple[DownGpu, ...]
