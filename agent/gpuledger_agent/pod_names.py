# SPDX-License-Identifier: Apache-2.0
"""What the containers of pods are called, from the names of the links that the kubelet keeps to their logs.

/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log: the kubelet makes it when it starts the container. The kubelet's
pod-resources interface knows no uid and no container id, so it cannot tell whose a process is; these names can, for
every container, and at once.
https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/kuberuntime/legacy.go
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from gpuledger_agent.workloads import PodName

_log = logging.getLogger(__name__)

LINKS_MAX = 20_000
_LINK = re.compile(r"([^_/]+)_([^_/]+)_([^_/]+)-([0-9a-f]{64})\.log")
"""Kubernetes allows no underscore in these names. A link of over 255 characters is cut, and tells nothing."""


class PodNames:
    """Looks names up by container id; the directory is read again only for an id that is new to it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names: dict[str, PodName] = {}
        self._stamp: int | None = None
        self._is_failing = False
        self.failures: dict[str, int] = {}
        """Failed reads by error, since whoever counts them last looked and cleared them."""

    def of(self, container_id: str) -> PodName | None:
        """Return what a container is called, or None where the directory does not say (yet)."""
        name = self._names.get(container_id)
        if name is None and self._read():
            name = self._names.get(container_id)
        return name

    def _read(self) -> bool:
        """Read the directory if it changed since it was last read; return whether it was read."""
        try:
            stamp = self._directory.stat().st_mtime_ns
            if stamp == self._stamp:
                return False
            names: dict[str, PodName] = {}
            with os.scandir(self._directory) as entries:
                for _, entry in zip(range(LINKS_MAX), entries, strict=False):
                    found = _LINK.fullmatch(entry.name)
                    if found is not None:
                        names[found[4]] = PodName(pod=found[1], namespace=found[2], container=found[3])
        except OSError as exc:
            self.failures["unreadable"] = self.failures.get("unreadable", 0) + 1
            if not self._is_failing:
                why = f"{self._directory}: cannot be read: {exc.strerror}"
                _log.warning("allocation_source_failed", extra={"source": "pod_names", "why": why})
            self._is_failing = True
            return False
        self._names, self._stamp, self._is_failing = names, stamp, False
        return True
