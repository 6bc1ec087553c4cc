# SPDX-License-Identifier: Apache-2.0
"""Every operation of the interface, declared once: address, parameters, what it returns, and how. Pure.

The server's routes and the OpenAPI document are both made of this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuledger.states import State
from gpuledger_collector import selection
from gpuledger_collector.api import resources
from gpuledger_collector.api.parameters import (
    CLUSTER,
    IDLE_STATE,
    KIND,
    LIMIT_DEFAULT,
    MODEL,
    NODE,
    PAGED,
    POOL,
    SITE,
    STATE,
    BadRequest,
    Parameter,
    checked_cursor,
)
from gpuledger_collector.api.records import Finding, Fleet, Gpu, IdleBlock, Node, Place, Site, Workload
from gpuledger_collector.overview import finding_key
from gpuledger_collector.published import STATE_ORDER, Published, node_key
from gpuledger_collector.selection import Selection, paged

ROOT = "/api/v1"

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One page of a list, and the names that the next one goes on behind; None on the last."""

    items: tuple[Any, ...]
    last: tuple[str | int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One address. `answer` gets what is published and the values of path and query, and returns a record or a page.

    It returns None where the path names nothing that is there, and raises BadRequest.
    """

    path: str
    name: str
    text: str
    record: type
    is_list: bool
    answer: Callable[[Published, Values], Any]
    parameters: Sequence[Parameter] = ()
    path_text: str = ""
    """What the part of the path in braces names."""


def _selection(values: Values) -> Selection:
    names = ("site", "cluster", "pool", "model", "node", "state")
    return Selection(**{name: values[name] for name in names if name in values})


def _limit(values: Values) -> int:
    limit: int = values.get("limit", LIMIT_DEFAULT)
    return limit


def _sites(state: Published, values: Values) -> Listed:
    after = checked_cursor(values.get("after"), str)
    found = paged(resources.sites(state), lambda site: (site.site,), lambda site: True, after, _limit(values))
    return Listed(items=found.items, last=found.last)


def _places(state: Published, values: Values) -> Listed:
    after = checked_cursor(values.get("after"), str, str)
    wanted = _selection(values)

    def takes(place: Place) -> bool:
        return wanted.site in {None, place.site} and wanted.model in {None, place.model}

    found = paged(resources.places(state), lambda place: (place.site, place.model or ""), takes, after, _limit(values))
    return Listed(items=found.items, last=found.last)


def _nodes(state: Published, values: Values) -> Listed:
    after = checked_cursor(values.get("after"), str, str)
    behind = None if after is None else (node_key(*after),)
    found = selection.nodes(state, _selection(values), behind, _limit(values))
    items = tuple(resources.node(state, node) for node in found.items)
    return Listed(items=items, last=None if found.last is None else (found.last[0].site, found.last[0].node))


def _gpus(state: Published, values: Values) -> Listed:
    after = checked_cursor(values.get("after"), str, str, str)
    behind = None if after is None else (node_key(*after[:2]), after[2])
    found = selection.gpus(state, _selection(values), behind, _limit(values))
    last = None if found.last is None else (found.last[0].site, found.last[0].node, found.last[1])
    return Listed(items=resources.gpus(state, found.items), last=last)


def _blocks(state: Published, values: Values) -> Listed:
    after = checked_cursor(values.get("after"), str, str, str)
    behind = None
    if after is not None:
        if after[2] not in STATE_ORDER:
            raise BadRequest({"after": f"ends in {after[2]!r}, which is no state"})
        behind = (node_key(*after[:2]), STATE_ORDER[State(after[2])])
    found = selection.blocks(state, _selection(values), behind, _limit(values))
    items = tuple(resources.idle_block(state, block) for block in found.items)
    last = None if found.last is None else (found.last[0].site, found.last[0].node, tuple(State)[found.last[1]].value)
    return Listed(items=items, last=last)


def _workloads(state: Published, values: Values) -> Listed:
    after = checked_cursor(values.get("after"), str)
    found = selection.workloads(state, _selection(values), after, _limit(values))
    return Listed(items=tuple(map(resources.workload, found.items)), last=found.last)


def _findings(state: Published, values: Values) -> Listed:
    after = checked_cursor(values.get("after"), int, str, str, str)
    kind = values.get("kind")
    found = paged(
        state.view.ledger.findings, finding_key, lambda found: kind in {None, found.kind}, after, _limit(values)
    )
    return Listed(items=tuple(map(resources.finding, found.items)), last=found.last)


def _node(state: Published, values: Values) -> Node | None:
    found = state.node(values["node"])
    return None if found is None else resources.node(state, found)


def _gpu(state: Published, values: Values) -> Gpu | None:
    place = state.node(state.nodes_of_gpus.get(values["gpu"], ""))
    if place is None:
        return None
    (found,) = resources.gpus(state, [(place, gpu) for gpu in place.gpus if gpu.gpu == values["gpu"]])
    return found


def _workload(state: Published, values: Values) -> Workload | None:
    found = state.workload(values["workload"])
    return None if found is None else resources.workload(found)


_PLACE = (SITE, CLUSTER, POOL, MODEL, NODE)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        path="/fleet",
        name="fleet",
        text="The whole fleet over the last 24 hours, and at this moment.",
        record=Fleet,
        is_list=False,
        answer=lambda state, values: resources.fleet(state),
    ),
    Operation(
        path="/sites",
        name="sites",
        text="Sites, by name.",
        record=Site,
        is_list=True,
        answer=_sites,
        parameters=PAGED,
    ),
    Operation(
        path="/places",
        name="places",
        text="Models at each site, by site and model.",
        record=Place,
        is_list=True,
        answer=_places,
        parameters=(SITE, MODEL, *PAGED),
    ),
    Operation(
        path="/nodes",
        name="nodes",
        text="Nodes that have a GPU of what is wanted, by site and name (node-9 before node-10).",
        record=Node,
        is_list=True,
        answer=_nodes,
        parameters=(*_PLACE, STATE, *PAGED),
    ),
    Operation(
        path="/nodes/{node}",
        name="node",
        text="One node.",
        record=Node,
        is_list=False,
        answer=_node,
        path_text="The node's name.",
    ),
    Operation(
        path="/gpus",
        name="gpus",
        text="GPUs, by site, node and name.",
        record=Gpu,
        is_list=True,
        answer=_gpus,
        parameters=(*_PLACE, STATE, *PAGED),
    ),
    Operation(
        path="/gpus/{gpu}",
        name="gpu",
        text="One GPU.",
        record=Gpu,
        is_list=False,
        answer=_gpu,
        path_text="Its UUID, or serial: and its serial number.",
    ),
    Operation(
        path="/idle-blocks",
        name="idleBlocks",
        text="GPUs of one node that were in the same idle state for the whole of the last settled cell, by node.",
        record=IdleBlock,
        is_list=True,
        answer=_blocks,
        parameters=(*_PLACE, IDLE_STATE, *PAGED),
    ),
    Operation(
        path="/workloads",
        name="workloads",
        text="Workloads that had a GPU in the period, by digest; with site or node, those that had one there.",
        record=Workload,
        is_list=True,
        answer=_workloads,
        parameters=(SITE, NODE, *PAGED),
    ),
    Operation(
        path="/workloads/{workload}",
        name="workload",
        text="One workload.",
        record=Workload,
        is_list=False,
        answer=_workload,
        path_text="The digest of its name.",
    ),
    Operation(
        path="/findings",
        name="findings",
        text="Findings of the period, newest first.",
        record=Finding,
        is_list=True,
        answer=_findings,
        parameters=(KIND, *PAGED),
    ),
)
"""The interface, in the order in which it is documented."""
