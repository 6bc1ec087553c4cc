# SPDX-License-Identifier: Apache-2.0
"""What does not follow from one reading of a key to the next: time that jumps, counters that fall. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gpuledger.reading import Reading

CLOCK_STEP_MS_MAX = 1_500
"""How far wall clock and timeline may part within a session; the agent begins a new one at 1,000."""


def compare_clocks(before: Reading | None, after: Reading) -> Iterator[str]:
    """Yield what is wrong with the time of a reading, by itself and against the one before it."""
    node, number = after.node_name, after.sequence
    offset_ms = after.wall_end_ms - after.end_ms
    if abs(offset_ms) > CLOCK_STEP_MS_MAX:
        yield f"reading {number} of {node} ends {offset_ms} ms away from its wall clock"
    if before is None:
        return
    is_other_part = (before.start_ms, before.end_ms) == (after.start_ms, after.end_ms) and after.part[0] > 1
    if after.start_ms < before.end_ms and not is_other_part:
        back_ms = before.end_ms - after.start_ms
        yield f"reading {number} of {node} begins {back_ms} ms before the one before it ended"


def compare_odometers(before: Reading | None, after: Reading) -> Iterator[str]:
    """Yield the energy counters that fell within a reading or since the one before it, in one boot of the node."""
    ends_mj = {}
    if before is not None and before.boot_id == after.boot_id and before.end_ms <= after.start_ms:
        ends_mj = {gpu.uuid: gpu.energy_end_mj for gpu in before.gpus}
    for gpu in after.gpus:
        where = f"the energy counter of {gpu.uuid} at {after.node_name} fell"
        if gpu.energy_epochs > 0:
            yield f"{where} {gpu.energy_epochs} times within reading {after.sequence}"
        end_mj = ends_mj.get(gpu.uuid)
        if end_mj is not None and gpu.energy_start_mj is not None and gpu.energy_start_mj < end_mj:
            yield f"{where} from {end_mj} to {gpu.energy_start_mj} mJ before reading {after.sequence}"
