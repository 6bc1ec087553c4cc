# SPDX-License-Identifier: Apache-2.0
"""The part of the door to NVML that finds the GPU instances of a divided GPU (MIG).

What NVML calls a MIG device is a compute instance; those of one GPU instance are one instance here. A handle outlives
its device and may then mean another one, so handles are looked up anew each time and never kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpuledger.cells import SLICES_PER_GPU
from gpuledger.gpu_time import INSTANCE_ID_MAX
from gpuledger_agent.nvml import CallFailed, Handle, Nvml
from gpuledger_agent.snapshot import InstanceIdentity

_ENABLED = 1
_MIB = 1 << 20
_HOLES = frozenset({"not_found", "invalid_argument"})
"""What a slot answers that is empty, and a handle whose device was destroyed since it was looked up."""
_PROFILE = re.compile(r"MIG (?:\d+c\.)?(\d+g\.\S+)$")
"""The name of a compute instance that is a part only begins with how much of it ("1c.3g.40gb")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundInstance:
    """A GPU instance as of this moment, and the handles of its compute instances, good for this moment only."""

    identity: InstanceIdentity
    handles: tuple[Handle, ...]


class Mig:
    """MIG through the binding that the door was given."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def is_enabled(self, board: Handle) -> bool | None:
        """Return whether the GPU is divided now (whatever is pending), None where it cannot be; raises CallFailed."""
        modes = self._nvml.offered(self._nvml.binding.nvmlDeviceGetMigMode, board)
        return None if modes is None else int(modes[0]) == _ENABLED

    def find(self, board: Handle, known: Iterable[InstanceIdentity]) -> tuple[FoundInstance, ...]:
        """Return the GPU instances of a divided GPU in order of slot; an instance without a device is not seen.

        `known` are those found before: of one that is still the same nothing more is asked. Raises CallFailed where
        not all can be told, or where they cannot be.
        """
        names = {(i.uuid, i.instance, i.slices, i.memory_total_bytes): i for i in known}
        handles: dict[int, list[Handle]] = {}
        identities: dict[int, InstanceIdentity] = {}
        binding = self._nvml.binding
        for slot in range(int(self._nvml.required(binding.nvmlDeviceGetMaxMigDeviceCount, board))):
            try:
                handle = self._nvml.required(binding.nvmlDeviceGetMigDeviceHandleByIndex, board, slot)
                instance = int(self._nvml.required(binding.nvmlDeviceGetGpuInstanceId, handle))
                if instance not in identities:
                    identities[instance] = self._identify(handle, instance, names)
            except CallFailed as exc:
                if exc.error in _HOLES:
                    continue
                raise
            handles.setdefault(instance, []).append(handle)
        if sum(identity.slices for identity in identities.values()) > SLICES_PER_GPU:
            raise CallFailed("nvmlDeviceGetAttributes", "more_slices_than_a_gpu")
        if len({identity.uuid for identity in identities.values()}) < len(identities):
            raise CallFailed("nvmlDeviceGetUUID", "two_with_one_name")
        return tuple(
            FoundInstance(identity=identity, handles=tuple(handles[instance]))
            for instance, identity in identities.items()
        )

    def _identify(
        self, handle: Handle, instance: int, names: dict[tuple[str, int, int, int], InstanceIdentity]
    ) -> InstanceIdentity:
        uuid = self._nvml.uuid(handle)
        attributes = self._nvml.required(self._nvml.binding.nvmlDeviceGetAttributes_v2, handle)
        slices, memory_bytes = int(attributes.gpuInstanceSliceCount), int(attributes.memorySizeMB) * _MIB
        known = names.get((uuid, instance, slices, memory_bytes))
        if known is not None:
            return known
        if not (1 <= slices <= SLICES_PER_GPU and 0 <= instance <= INSTANCE_ID_MAX):
            raise CallFailed("nvmlDeviceGetAttributes", "no_such_instance")
        return InstanceIdentity(
            uuid=uuid,
            instance=instance,
            profile=self._profile(handle),
            slices=slices,
            memory_total_bytes=memory_bytes,
        )

    def _profile(self, handle: Handle) -> str | None:
        try:
            found = _PROFILE.search(self._nvml.name(handle) or "")
        except CallFailed:
            return None  # nothing is counted from it
        return None if found is None else found[1]
