# SPDX-License-Identifier: Apache-2.0
"""What a GPU's health adds up to over a span: Xid errors, memory errors, time with clocks held down. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuledger_agent.snapshot import GpuSnapshot


@dataclass(slots=True)
class HealthTally:
    """Errors are counted in the tick that read them, throttled time where it was spent."""

    xids: dict[int, int] = field(default_factory=dict)
    ecc_errors: dict[str, int] = field(default_factory=dict)
    throttled_ns: dict[str, int] = field(default_factory=dict)

    def copy(self) -> HealthTally:
        return HealthTally(xids=dict(self.xids), ecc_errors=dict(self.ecc_errors), throttled_ns=dict(self.throttled_ns))

    def count(self, seen: GpuSnapshot) -> None:
        """Add the errors that a tick read."""
        for xid, _ in seen.xids:
            self.xids[xid] = self.xids.get(xid, 0) + 1
        for kind, errors in seen.ecc_errors.items():
            self.ecc_errors[kind] = self.ecc_errors.get(kind, 0) + errors

    def add_throttled(self, seen: GpuSnapshot, edge_ms: int, from_ms: int | None, to_ms: int) -> None:
        """Add what of the throttled time that the tick at `edge_ms` read lies in [from_ms, to_ms), spread evenly.

        Without `from_ms`, all of it.
        """
        for reason, growth in seen.throttled.items():
            part_ns = growth.amount
            if from_ms is not None:
                overlap_ms = max(0, to_ms - max(from_ms, growth.since_ms))
                part_ns = growth.amount * overlap_ms // (edge_ms - growth.since_ms)
            if part_ns > 0:
                self.throttled_ns[reason] = self.throttled_ns.get(reason, 0) + part_ns
