# SPDX-License-Identifier: Apache-2.0
"""What agents say about this moment: shown on the page, part of no figure (only sealed readings are counted).

It is not signed and comes from the network, so each field is checked, bounded, and dropped alone when it is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuledger.cells import CELL_MS
from gpuledger.reading import GPUS_MAX, INTEGER_MAX, TEXT_CHARACTERS_MAX
from gpuledger.states import OBSERVED, State
from gpuledger_collector.targets import Target

HOLDERS_MAX = 16
STALLED_AFTER_MS = 120_000
STALLED_AFTER_INTERVALS = 3
"""An open cell whose edge has not moved for so long (the longer of both) is of an agent that does not measure."""

NODES_MAX = 200_000
POLLED_MS_MAX = 120_000
"""Who was polled within this is not shown from what it pushes."""
BEHIND_MS_MAX = 900_000
"""An open cell further from the collector's clock than this (a wrong clock, a simulated past) is not about now."""

_OBSERVED_NAMES = {state.value: state for state in OBSERVED}


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGpu:
    """One GPU at the last tick; `state` None means not covered, with the agent's `reason`; `holders` are digests.

    `since_ms` is when this collector first saw the state that still holds; `is_since_exact` is False while that is
    the first thing it ever saw, so the state may be older.
    """

    uuid: str
    state: State | None
    reason: str | None = None
    activity_ppm: int | None = None
    memory_used_bytes: int | None = None
    power_mw: int | None = None
    holders: tuple[str, ...] = ()
    since_ms: int = 0
    is_since_exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNode:
    """One agent's last answer; `seen_ms` is the collector's clock, `edge_ms` the agent's end of the open cell."""

    node: str
    node_id: str
    target: Target
    simulated: bool
    seen_ms: int
    edge_ms: int | None
    edge_moved_ms: int
    interval_ms: int
    gpus: tuple[LiveGpu, ...]
    """Empty while the agent serves no open cell (driver not attached, first tick)."""

    @property
    def behind_ms(self) -> int:
        """Return how far the open cell's edge was behind the collector's clock; 0 where there is none."""
        return 0 if self.edge_ms is None else self.edge_moved_ms - self.edge_ms

    def is_measuring(self, now_ms: int) -> bool:
        """Return whether the open cell is about now and has been growing lately."""
        if abs(self.behind_ms) > BEHIND_MS_MAX:
            return False
        allowed_ms = max(STALLED_AFTER_MS, STALLED_AFTER_INTERVALS * self.interval_ms)
        return self.edge_ms is not None and now_ms - self.edge_moved_ms <= allowed_ms


def parse(document: Mapping[str, Any], target: Target, now_ms: int) -> LiveNode | None:
    """Return what an answer says about now, or None where it does not even name its node."""
    node, node_id = _text(document.get("node")), _text(document.get("node_id"))
    if node is None or node_id is None:
        return None
    live = document.get("live")
    edge_ms = _integer(live.get("edge_ms")) if isinstance(live, dict) else None
    gpus = live.get("gpus") if isinstance(live, dict) else None
    interval_ms = _integer(live.get("interval_ms")) if isinstance(live, dict) else None
    parsed = [_gpu(item, now_ms) for item in gpus[:GPUS_MAX]] if isinstance(gpus, list) else []
    return LiveNode(
        node=node,
        node_id=node_id,
        target=target,
        # Anything but a plain false is shown as simulated: the error is then on the safe side.
        simulated=document.get("simulated") is not False,
        seen_ms=now_ms,
        edge_ms=edge_ms,
        edge_moved_ms=now_ms,
        # Without an interval nothing is added to what is allowed; with an absurd one no more than a cell's worth.
        interval_ms=0 if interval_ms is None else min(interval_ms, CELL_MS),
        gpus=tuple(gpu for gpu in parsed if gpu is not None) if edge_ms is not None else (),
    )


def follow(previous: LiveNode | None, current: LiveNode) -> LiveNode:
    """Return `current` with "since" carried over from the previous answer of the same agent."""
    if previous is None or previous.node_id != current.node_id:
        return current
    before = {gpu.uuid: gpu for gpu in previous.gpus}
    gpus = []
    for gpu in current.gpus:
        old = before.get(gpu.uuid)
        if old is not None and old.state is gpu.state:
            gpus.append(replace(gpu, since_ms=old.since_ms, is_since_exact=old.is_since_exact))
        else:
            gpus.append(replace(gpu, is_since_exact=old is not None))
    moved_ms = previous.edge_moved_ms if current.edge_ms == previous.edge_ms else current.edge_moved_ms
    return replace(current, gpus=tuple(gpus), edge_moved_ms=moved_ms)


class LiveBoard:
    """The last answer of every target; written by the poller's thread, read by the one that prepares the page."""

    def __init__(self) -> None:
        self._nodes: dict[str, LiveNode] = {}
        self._polled_ms: dict[str, int] = {}
        """When each key's agent last answered, by the collector's clock."""
        self._lock = threading.Lock()

    def note(self, document: Mapping[str, Any], target: Target, now_ms: int) -> None:
        current = parse(document, target, now_ms)
        if current is None:
            return
        with self._lock:
            self._nodes[target.url] = follow(self._nodes.get(target.url), current)
            self._polled_ms[current.node_id] = now_ms

    def note_pushed(self, document: Mapping[str, Any], sender: Target, now_ms: int) -> None:
        """Note a page that was pushed, unless the same agent answers when it is asked."""
        current = parse(document, sender, now_ms)
        if current is None:
            return
        with self._lock:
            polled_ms = self._polled_ms.get(current.node_id)
            is_polled = polled_ms is not None and now_ms - polled_ms <= POLLED_MS_MAX
            if not is_polled and (sender.url in self._nodes or len(self._nodes) < NODES_MAX):
                self._nodes[sender.url] = follow(self._nodes.get(sender.url), current)

    def forget(self, target: Target) -> None:
        """Forget what a target said that is no longer asked."""
        with self._lock:
            self._nodes.pop(target.url, None)

    def nodes(self) -> list[LiveNode]:
        """Return the last answers, in order of target."""
        with self._lock:
            return [self._nodes[url] for url in sorted(self._nodes)]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= TEXT_CHARACTERS_MAX else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INTEGER_MAX else None


def _gpu(item: object, now_ms: int) -> LiveGpu | None:
    if not isinstance(item, dict):
        return None
    uuid = _text(item.get("uuid"))
    if uuid is None:
        return None
    state = item.get("state")
    holders = item.get("holders")
    names = [_text(name) for name in holders[:HOLDERS_MAX]] if isinstance(holders, list) else []
    return LiveGpu(
        uuid=uuid,
        state=_OBSERVED_NAMES.get(state) if isinstance(state, str) else None,
        reason=_text(item.get("reason")),
        activity_ppm=_integer(item.get("activity_ppm")),
        memory_used_bytes=_integer(item.get("memory_used_bytes")),
        power_mw=_integer(item.get("power_mw")),
        holders=tuple(name for name in names if name is not None),
        since_ms=now_ms,
    )
