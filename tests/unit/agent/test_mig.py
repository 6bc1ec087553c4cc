# SPDX-License-Identifier: Apache-2.0
"""The door to MIG on a fake driver: what a slot may answer, and what no GPU can be divided into."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuledger_agent.mig import FoundInstance, Mig
from gpuledger_agent.nvml import CallFailed, GpuLost, Nvml
from gpuledger_agent.snapshot import InstanceIdentity
from tests.fakes.clock import FakeClock
from tests.fakes.nvml import (
    INVALID_ARGUMENT,
    LOST,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    UNKNOWN,
    FakeInstance,
    FakeNvml,
    gpus,
    instance,
)

SLOT, ID, ATTRIBUTES = "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetAttributes_v2"
UUID, NAME, COUNT = "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMaxMigDeviceCount"


class Door:
    """One GPU, divided into the instances in its slots."""

    def __init__(self, *slots: FakeInstance | None) -> None:
        (self.gpu,) = gpus(1)
        self.gpu.instances = list(slots)
        self.driver = FakeNvml(FakeClock(), [self.gpu])
        nvml = Nvml(self.driver)
        nvml.attach()
        self.handle = nvml.handle(0)
        self.mig = Mig(nvml)

    def find(self, *known: InstanceIdentity) -> tuple[FoundInstance, ...]:
        return self.mig.find(self.handle, known)


def identities(found: tuple[FoundInstance, ...]) -> list[tuple[int, int, str | None]]:
    return [(one.identity.instance, one.identity.slices, one.identity.profile) for one in found]


def test_instances_are_found_in_order_of_slot_across_holes() -> None:
    door = Door(None, instance(9, 1), None, None, instance(2, 3), None, instance(5, 2))
    assert identities(door.find()) == [(9, 1, "1g.10gb"), (2, 3, "3g.30gb"), (5, 2, "2g.20gb")]


def test_compute_instances_of_one_gpu_instance_are_one_with_all_their_handles() -> None:
    pooled = instance(1, 4)
    door = Door(pooled, None, pooled, instance(2, 3))
    assert [(one.identity.instance, len(one.handles)) for one in door.find()] == [(1, 2), (2, 1)]
    assert (door.driver.calls[ID], door.driver.calls[UUID], door.driver.calls[ATTRIBUTES]) == (3, 2, 2)


@pytest.mark.parametrize("function", [ID, UUID, ATTRIBUTES])
@pytest.mark.parametrize("code", [NOT_FOUND, INVALID_ARGUMENT])
def test_an_instance_that_is_destroyed_while_it_is_looked_at_is_a_hole(function: str, code: int) -> None:
    gone = instance(1, 4)
    gone.fails[function] = code
    assert identities(Door(gone, instance(2, 3)).find()) == [(2, 3, "3g.30gb")]


@pytest.mark.parametrize("function", [SLOT, ID, UUID, ATTRIBUTES])
@pytest.mark.parametrize(
    ("code", "error"), [(UNKNOWN, "unknown"), (NO_PERMISSION, "no_permission"), (NOT_SUPPORTED, "not_supported")]
)
def test_an_instance_that_cannot_be_told_is_never_taken_for_none(function: str, code: int, error: str) -> None:
    sick = instance(1, 4)
    sick.fails[function] = code
    with pytest.raises(CallFailed) as caught:
        Door(sick, instance(2, 3)).find()
    assert caught.value.error == error


def test_a_lost_gpu_is_lost() -> None:
    door = Door(instance(1, 7))
    door.gpu.fails[COUNT] = LOST
    with pytest.raises(GpuLost):
        door.find()


def test_of_an_instance_that_is_still_the_same_the_name_is_not_asked_again() -> None:
    door = Door(instance(1, 3), instance(2, 3))
    first = [one.identity for one in door.find()]
    assert door.driver.calls[NAME] == 2
    again = [one.identity for one in door.find(*first)]
    assert door.driver.calls[NAME] == 2
    assert again == first


@pytest.mark.parametrize("change", [{"uuid": "MIG-x"}, {"instance": 3}, {"slices": 2}, {"memory_total_bytes": 5 << 30}])
def test_one_that_differs_in_anything_is_another(change: dict[str, object]) -> None:
    one = instance(1, 3)
    door = Door(one)
    (before,) = (found.identity for found in door.find())
    for name, value in change.items():
        setattr(one, name, value)
    (after,) = (found.identity for found in door.find(before))
    assert after != before


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "3g.40gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb", "3g.40gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "1g.10gb+me"),
        ("NVIDIA H100 80GB HBM3", None),
        ("", None),
    ],
)
def test_the_profile_is_the_gpu_instances_own(monkeypatch: pytest.MonkeyPatch, name: str, profile: str | None) -> None:
    door = Door(instance(1, 3))
    monkeypatch.setattr(door.driver, "nvmlDeviceGetName", lambda handle: name)
    ((_, _, found),) = identities(door.find())
    assert found == profile


def test_a_name_that_fails_costs_the_profile_alone() -> None:
    shy = instance(1, 3)
    shy.fails[NAME] = UNKNOWN
    assert identities(Door(shy).find()) == [(1, 3, None)]


@pytest.mark.parametrize(
    "slots",
    [
        [instance(1, 4), instance(2, 4)],
        [instance(1, 0)],
        [instance(1, 8)],
        [instance(256, 1)],
        [instance(1, 1), instance(2, 1, uuid=instance(1, 1).uuid)],
    ],
)
def test_what_no_gpu_can_be_divided_into_is_a_failure(slots: list[FakeInstance | None]) -> None:
    with pytest.raises(CallFailed):
        Door(*slots).find()


def test_the_mode_is_the_current_one_and_none_where_there_is_none() -> None:
    door = Door()
    assert door.mig.is_enabled(door.handle) is True
    door.gpu.instances = None
    assert door.mig.is_enabled(door.handle) is False
    door.gpu.fails["nvmlDeviceGetMigMode"] = NOT_SUPPORTED
    assert door.mig.is_enabled(door.handle) is None


def test_an_identity_is_told_from_another_by_all_that_it_has() -> None:
    (found,) = (one.identity for one in Door(instance(1, 3)).find())
    assert found == replace(found)
    assert len({found, replace(found, uuid="x"), replace(found, instance=2), replace(found, slices=2)}) == 4
