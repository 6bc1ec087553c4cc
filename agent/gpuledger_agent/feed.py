# SPDX-License-Identifier: Apache-2.0
"""What leaves the node of the journal: pages of sealed readings in one JSON document, the same polled and pushed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any

from gpuledger.cells import CELL_MS, floor_to
from gpuledger.sealing import SigningKey
from gpuledger.states import State
from gpuledger_agent.journal import Journal
from gpuledger_agent.loop import View
from gpuledger_agent.privacy import Privacy
from gpuledger_agent.snapshot import GpuSnapshot, InstanceIdentity
from gpuledger_agent.tally import Part
from gpuledger_agent.witness import Witness


class Feed:
    """Makes the pages. Safe to call from any thread; nothing here touches hardware."""

    def __init__(
        self,
        *,
        view: Callable[[], View],
        journal: Journal,
        key: SigningKey,
        node_name: str,
        is_simulated: bool,
        interval_ms: int,
        privacy: Privacy | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._view = view
        self._journal = journal
        self._key = key
        self._node_name = node_name
        self._is_simulated = is_simulated
        self._interval_ms = interval_ms
        self._privacy = Privacy() if privacy is None else privacy
        self._witness = Witness() if witness is None else witness

    @property
    def journal_id(self) -> str:
        return self._journal.id

    @property
    def last_sequence(self) -> int:
        return self._journal.last.sequence

    def show(self, checkpoint: str, log_key: str) -> None:
        """Take note of what a collector shows of its log, if it verifies: the next reading seals it."""
        self._witness.show(checkpoint, log_key)

    def page(self, after: int, count_max: int, bytes_max: int) -> bytes:
        """Return the document with the readings after sequence `after`, oldest first; one at least if there is any."""
        records = [self._privacy.strip(record) for record in self._journal.read(after, count_max, bytes_max)]
        head = {
            "node_id": self._key.node_id,
            "node": self._node_name,
            "public_key": base64.b64encode(self._key.public_bytes).decode("ascii"),
            "journal": self._journal.id,
            "first_sequence": self._journal.first_sequence,
            "last_sequence": self._journal.last.sequence,
            "simulated": self._is_simulated,
            "checkpoints": self._witness.lines(),
            "live": live_document(self._view(), self._interval_ms),
        }
        # Records are spliced in as the bytes that are on disk: nothing is decoded to be encoded again.
        return json.dumps(head).encode("ascii")[:-1] + b', "readings": [' + b",".join(records) + b"]}\n"


def live_document(view: View, interval_ms: int) -> dict[str, Any] | None:
    """Return the open cell as it stands: for looking at, never logged or counted; None before the first tick."""
    if view.edge_ms is None:
        return None
    return {
        "cell_ms": floor_to(view.edge_ms, CELL_MS),
        "edge_ms": view.edge_ms,
        "interval_ms": interval_ms,
        "gpus": [
            {
                "uuid": gpu.identity.uuid,
                "state": gpu.result.value if isinstance(gpu.result, State) else None,
                "reason": None if isinstance(gpu.result, State) else gpu.result.value,
                "activity_ppm": gpu.seen.activity_ppm,
                "memory_used_bytes": gpu.seen.memory_used_bytes,
                "power_mw": None if gpu.power_mw is None else round(gpu.power_mw),
                "holders": _holders(gpu.parts) if gpu.seen.is_divided else _holders_of(gpu.seen),
                "instances": [_live_instance(part.instance, part) for part in gpu.parts if part.instance is not None],
            }
            for gpu in view.gpus
        ],
    }


def _live_instance(identity: InstanceIdentity, part: Part) -> dict[str, Any]:
    seen, result = part.seen, part.result
    return {
        "uuid": identity.uuid,
        "instance": identity.instance,
        "profile": identity.profile,
        "slices": identity.slices,
        "state": result.value if isinstance(result, State) else None,
        "reason": None if isinstance(result, State) else result.value,
        "activity_ppm": seen.activity_ppm,
        "memory_used_bytes": seen.memory_used_bytes,
        "holders": _holders_of(seen),
    }


def _holders_of(seen: GpuSnapshot) -> list[str] | None:
    return None if seen.holders is None else [holder.workload for holder in seen.holders]


def _holders(parts: Iterable[Part]) -> list[str] | None:
    """Return who holds any part of a divided GPU, each once; None where nothing is known of any."""
    known = [holders for part in parts if (holders := _holders_of(part.seen)) is not None]
    return sorted({workload for holders in known for workload in holders}) if known else None
