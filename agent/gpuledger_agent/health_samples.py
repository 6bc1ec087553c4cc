# SPDX-License-Identifier: Apache-2.0
"""The samples of families that say how GPUs and the driver fare; see gpuledger_agent.exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuledger_agent.health import action_name
from gpuledger_agent.loop import GpuView, View

Samples = list[tuple[tuple[str, ...], float]]


def per_gpu(value: Callable[[GpuView], float | None]) -> Callable[[View], Samples]:
    """Return what makes one sample for each GPU for which there is a value."""

    def samples(view: View) -> Samples:
        pairs = [(gpu.identity.uuid, value(gpu)) for gpu in view.gpus]
        return [((uuid,), number) for uuid, number in pairs if number is not None]

    return samples


def _xids(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, str(xid)), float(count))
        for gpu in view.gpus
        for xid, count in gpu.total.health.xids.items()
    ]


def _ecc_errors(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, kind), float(count))
        for gpu in view.gpus
        for kind, count in gpu.total.health.ecc_errors.items()
    ]


def _throttled_seconds(view: View) -> Samples:
    return [
        ((gpu.identity.uuid, reason), time_ns / 1e9)
        for gpu in view.gpus
        for reason, time_ns in gpu.total.health.throttled_ns.items()
    ]


def _recovery_actions(view: View) -> Samples:
    actions = [(gpu.identity.uuid, _fact(gpu, "recovery_action")) for gpu in view.gpus]
    return [((uuid, action_name(int(action))), 1.0) for uuid, action in actions if action is not None]


def _remapped_rows(view: View) -> Samples:
    rows = [
        ((gpu.identity.uuid, kind), _fact(gpu, f"remapped_{kind}"))
        for gpu in view.gpus
        for kind in ("correctable", "uncorrectable")
    ]
    return [(labels, count) for labels, count in rows if count is not None]


def _fact(gpu: GpuView, name: str) -> float | None:
    value = None if gpu.seen.health_facts is None else getattr(gpu.seen.health_facts, name)
    return None if value is None else float(value)


HEALTH_SAMPLES: Mapping[str, Callable[[View], Samples]] = {
    "gpuledger_gpu_xid_errors_total": _xids,
    "gpuledger_gpu_ecc_errors_total": _ecc_errors,
    "gpuledger_gpu_throttled_seconds_total": _throttled_seconds,
    "gpuledger_gpu_recovery_action": _recovery_actions,
    "gpuledger_gpu_remapped_rows": _remapped_rows,
    "gpuledger_gpu_row_remap_pending": per_gpu(lambda gpu: _fact(gpu, "is_remap_pending")),
    "gpuledger_gpu_row_remap_failed": per_gpu(lambda gpu: _fact(gpu, "is_remap_failed")),
    "gpuledger_agent_driver_released": lambda view: [((), float(view.is_released))],
    "gpuledger_agent_stuck_calls": lambda view: [((), float(view.stuck_calls))],
    "gpuledger_agent_hung_gpus": lambda view: [((), float(view.hung_gpus))],
    "gpuledger_agent_hung_calls_total": lambda view: [
        ((function,), float(count)) for function, count in view.hung_calls.items()
    ],
}
"""Family -> its samples."""
