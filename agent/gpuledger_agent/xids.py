# SPDX-License-Identifier: Apache-2.0
"""What Xid errors mean for a GPU's time. Versioned: a change moves time, so it is part of the configuration digest.

Numbers and meanings are those of NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors). Fatal are those whose
immediate action there is a reset of the GPU or a restart of the machine, for data-centre GPUs from Ampere on. An
application's are those that NVIDIA's own device plugin for Kubernetes takes for no fault of the GPU
(github.com/NVIDIA/k8s-device-plugin, internal/rm/health.go). All others are only counted, as an application's are.
"""

from __future__ import annotations

from collections.abc import Mapping

XIDS_VERSION = 1

FATAL: Mapping[int, str] = {
    46: "GPU stopped processing",
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    64: "memory row could not be remapped",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    95: "uncontained memory error",
    110: "security fault",
    119: "GSP RPC timeout",
    120: "GSP error",
    136: "NVLink training failed",
    140: "unrecovered ECC error",
    143: "GPU initialisation error",
    158: "GPU fatal timeout",
}
"""A GPU that reports one of these is down until its health reads clean, or it works all the same."""

APPLICATION: Mapping[int, str] = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    43: "GPU stopped processing for an application",
    45: "preemptive clean-up after an earlier error",
    68: "video processor exception",
    109: "context switch timeout",
}
"""The program's own fault, as a rule."""


def meaning(xid: int) -> str | None:
    """Return what is publicly known of a number in a few words; None where it is in neither list."""
    return FATAL.get(xid, APPLICATION.get(xid))
