# SPDX-License-Identifier: Apache-2.0
"""Choosing from what is published: filters, and pages that go on behind the last item of the one before. Pure.

A page is found by bisection and looks at a bounded number of items, whatever the size of the fleet. Where few items
match it may therefore be short, or empty, and still not be the last.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from gpuledger.states import State
from gpuledger_collector.overview import GpuView, NodeView
from gpuledger_collector.published import IdleBlock, NodeKey, Published, WorkloadUse, block_key, node_key

LOOKED_AT_MAX = 4_000
"""Nodes, blocks or workloads that one page may pass over."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is wanted; None takes all."""

    site: str | None = None
    cluster: str | None = None
    pool: str | None = None
    model: str | None = None
    node: str | None = None
    state: State | None = None

    def takes_place(self, site: str, cluster: str, pool: str, node: str) -> bool:
        return (
            self.site in {None, site}
            and self.cluster in {None, cluster}
            and self.pool in {None, pool}
            and self.node in {None, node}
        )

    def takes_gpu(self, gpu: GpuView) -> bool:
        return self.state in {None, gpu.state} and self.model in {None, gpu.model}

    def takes_node(self, node: NodeView) -> bool:
        """Return whether the node stands where it was asked for and has a GPU of what was asked for."""
        if not self.takes_place(node.site, node.cluster, node.pool, node.node):
            return False
        return (self.state is None and self.model is None) or any(map(self.takes_gpu, node.gpus))

    def takes_block(self, block: IdleBlock) -> bool:
        return (
            self.takes_place(block.site, block.cluster, block.pool, block.node)
            and self.state in {None, block.state}
            and (self.model is None or self.model in block.models)
        )

    def takes_workload(self, use: WorkloadUse) -> bool:
        if self.site is None and self.node is None:
            return True
        return any(self.site in {None, part.site} and self.node in {None, part.node} for part in use.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some items, and behind what the next page begins; None on the last page."""

    items: tuple[T, ...]
    last: tuple[Any, ...] | None


def paged(
    items: Sequence[T],
    key_of: Callable[[T], tuple[Any, ...]],
    takes: Callable[[T], bool],
    after: tuple[Any, ...] | None,
    limit: int,
) -> Page[T]:
    """Return the items behind the key `after` that are taken; `items` are in ascending order of their keys."""
    first = 0 if after is None else bisect_right(items, after, key=key_of)
    looked_at = islice(items, first, first + LOOKED_AT_MAX)
    found = tuple(islice(filter(takes, looked_at), limit + 1))
    if len(found) > limit:
        return Page(items=found[:limit], last=key_of(found[limit - 1]))
    end = first + LOOKED_AT_MAX
    return Page(items=found, last=None if end >= len(items) else key_of(items[end - 1]))


def nodes(published: Published, wanted: Selection, after: tuple[NodeKey] | None, limit: int) -> Page[NodeView]:
    """Return the nodes with a GPU of what is wanted, in their order."""
    first, end = _span(published, wanted)
    view = published.view.nodes[first:end]
    return paged(view, lambda node: (node_key(node.site, node.node),), wanted.takes_node, after, limit)


def gpus(
    published: Published, wanted: Selection, after: tuple[NodeKey, str] | None, limit: int
) -> Page[tuple[NodeView, GpuView]]:
    """Return GPUs in the order of their nodes, then of their names."""
    first, end = _span(published, wanted)
    if after is not None:
        first = max(first, bisect_left(published.node_keys, after[0]))
    last = min(end, first + LOOKED_AT_MAX)
    found = tuple(islice(_gpus(published, wanted, after, range(first, last)), limit + 1))
    if len(found) > limit:
        node, gpu = found[limit - 1]
        return Page(items=found[:limit], last=(node_key(node.site, node.node), gpu.gpu))
    return Page(items=found, last=None if last >= end else (published.node_keys[last], ""))


def _gpus(
    published: Published, wanted: Selection, after: tuple[NodeKey, str] | None, positions: range
) -> Iterator[tuple[NodeView, GpuView]]:
    for position in positions:
        node = published.view.nodes[position]
        if not wanted.takes_node(node):
            continue
        is_begun = after is not None and published.node_keys[position] == after[0]
        for gpu in sorted(node.gpus, key=lambda gpu: gpu.gpu):
            if wanted.takes_gpu(gpu) and not (after is not None and is_begun and gpu.gpu <= after[1]):
                yield node, gpu


def _span(published: Published, wanted: Selection) -> tuple[int, int]:
    """Return the first and the end of the nodes that can be meant."""
    keys = published.node_keys
    if wanted.node is not None:
        position = published.nodes.get(wanted.node)
        return (0, 0) if position is None else (position, position + 1)
    if wanted.site is not None:
        site = wanted.site
        return bisect_left(keys, site, key=lambda key: key.site), bisect_right(keys, site, key=lambda key: key.site)
    return 0, len(keys)


def blocks(published: Published, wanted: Selection, after: tuple[NodeKey, int] | None, limit: int) -> Page[IdleBlock]:
    """Return idle blocks in the order of their nodes, then of their states."""
    return paged(published.blocks, block_key, wanted.takes_block, after, limit)


def workloads(published: Published, wanted: Selection, after: tuple[str] | None, limit: int) -> Page[WorkloadUse]:
    """Return workloads in the order of their digests."""
    return paged(published.workloads, lambda use: (use.workload,), wanted.takes_workload, after, limit)
