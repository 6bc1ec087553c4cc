# SPDX-License-Identifier: Apache-2.0
"""What SIMULATED nodes do, minute by minute; the same second always gives the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

BARE_W = 70
PARKED_W = 115
FULL_W = 690
CAPPED_PERCENT = 95
MINUTE_S = 60
_GIB = 1 << 30
_DAY_S = 86_400
_MONDAY_S = 4 * _DAY_S
"""1970-01-05, the first Monday of POSIX time."""


@dataclass(frozen=True, slots=True)
class Slices:
    """What one simulated GPU instance does for one minute."""

    instance: int
    slices: int
    percent: int = 0
    pid: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """What one simulated GPU does for one minute; `pid` 0 means that nobody holds it.

    A divided GPU (MIG) has `instances` and nothing of its own.
    """

    percent: int = 0
    pid: int = 0
    memory_bytes: int = 0
    is_lost: bool = False
    xid: int = 0
    """The Xid error that it reports at the minute's beginning; 0 is none."""
    instances: tuple[Slices, ...] | None = None

    @property
    def power_w(self) -> int:
        if self.instances is not None:
            work = sum(one.percent * one.slices for one in self.instances) // 7
            return PARKED_W + (FULL_W - PARKED_W) * work // 100 if any(one.pid for one in self.instances) else BARE_W
        if self.pid == 0:
            return BARE_W
        return PARKED_W + (FULL_W - PARKED_W) * self.percent // 100

    @property
    def capped_share(self) -> float:
        """Return the share of the time in which the power limit holds the clocks down."""
        return max(0, self.percent - CAPPED_PERCENT) / (100 - CAPPED_PERCENT)


_FREE = Moment()
_LOST = Moment(is_lost=True)
_FALLING = Moment(is_lost=True, xid=79)

PEOPLE = {
    4100: ("python3", "mei"),
    4200: ("vllm", "serving"),
    4300: ("jupyter-lab", "li.wei"),
    4400: ("python3", "sofia"),
    **{4500 + seat: ("jupyter-lab", f"student-{seat}") for seat in range(7)},
}


_GRAPHICS, _SM, _OCCUPANCY, _TENSOR, _DRAM, _PCIE_TX, _PCIE_RX, _NVLINK_RX, _NVLINK_TX = 1, 2, 3, 5, 10, 20, 21, 60, 61
_ENGINES = {_GRAPHICS: 1.0, _SM: 0.8, _OCCUPANCY: 0.35}
_ANYTHING = {_TENSOR: 0.2, _DRAM: 0.3, _PCIE_TX: 4.0, _PCIE_RX: 9.0, _NVLINK_RX: 0.0, _NVLINK_TX: 0.0}
_MIXES = {
    4100: {_TENSOR: 0.55, _DRAM: 0.5, _PCIE_TX: 6.0, _PCIE_RX: 20.0, _NVLINK_RX: 1900.0, _NVLINK_TX: 1900.0},
    4200: {_TENSOR: 0.12, _DRAM: 0.6, _PCIE_TX: 3.0, _PCIE_RX: 3.0, _NVLINK_RX: 240.0, _NVLINK_TX: 240.0},
}
"""By process, what GPM says beside each percent of activity: percent of the time, and MiB/s over the links."""
_LINKS = (_PCIE_TX, _PCIE_RX, _NVLINK_RX, _NVLINK_TX)


def means_of(moment: Moment, instance: int | None) -> dict[int, float]:
    """Return what GPM says of a moment, by number of the metric; of one instance, which has no links of its own."""
    if instance is None:
        mix = _ENGINES | _MIXES.get(moment.pid, _ANYTHING)
        return {metric: moment.percent * share for metric, share in mix.items()}
    found = next((one for one in moment.instances or () if one.instance == instance), None)
    if found is None:
        return {}
    mix = _ENGINES | _MIXES.get(found.pid, _ANYTHING)
    return {metric: found.percent * share for metric, share in mix.items() if metric not in _LINKS}


def chance(*parts: object) -> float:
    """Return a number in 0..1 that is always the same for the same parts."""
    text = "/".join(map(str, parts)).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") / 0xFFFFFFFF


def _hour_of_week(second: int) -> float:
    return (second - _MONDAY_S) % (7 * _DAY_S) / 3600


def _training(gpu: int, second: int) -> Moment:
    """One job over all GPUs from Monday 06:00 to Sunday 20:00, with checkpoint pauses and an evening of debugging."""
    hour = _hour_of_week(second)
    if not 6 <= hour < 164:
        return _FREE
    minute = second // MINUTE_S
    if 54 <= hour < 60:
        return Moment(percent=0, pid=4100, memory_bytes=71 * _GIB)
    if minute % 45 == 0:
        return Moment(percent=3, pid=4100, memory_bytes=71 * _GIB)
    return Moment(percent=94 + int(6 * chance("t", gpu, minute)), pid=4100, memory_bytes=71 * _GIB)


def _inference(gpu: int, second: int) -> Moment:
    """A server with the day's rhythm: near nothing at night, so it is held and not busy."""
    minute = second // MINUTE_S
    day = math.sin((second % _DAY_S / _DAY_S - 0.3) * 2 * math.pi)
    percent = int(38 * (day + 0.75) * (0.6 + 0.8 * chance("i", gpu, minute)))
    return Moment(percent=max(0, min(100, percent)), pid=4200, memory_bytes=66 * _GIB)


def _serving_node(gpu: int, second: int) -> Moment:
    """Four GPUs and half of a divided one serve, two and a bit are held by notebooks that do nothing, one gets lost.

    It falls off the bus every Monday at 06:00.
    """
    if gpu < 4:
        return _inference(gpu, second)
    if gpu == 4:
        served = _inference(gpu, second)
        notebook = Slices(instance=3, slices=2, pid=4300, memory_bytes=9 * _GIB)
        return Moment(instances=(_part(served, 1, 3), notebook, Slices(instance=9, slices=1)))
    if gpu < 7:
        return Moment(percent=0, pid=4300, memory_bytes=48 * _GIB)
    hour = _hour_of_week(second)
    if hour < 6:
        return _FREE
    return _FALLING if hour < 6 + 1 / 60 else _LOST


def _fine_tuning(gpu: int, second: int) -> Moment:
    """Short jobs on half of the node during office hours."""
    hour = _hour_of_week(second) % 24
    if gpu >= 4 or not 8 <= hour < 20:
        return _FREE
    minute = second // MINUTE_S
    # A job that runs into its own mistakes: a page fault now and then, which is no fault of the GPU.
    xid = 31 if chance("x", gpu, minute) > 0.999 else 0
    return Moment(percent=55 + int(40 * chance("f", gpu, minute)), pid=4400, memory_bytes=40 * _GIB, xid=xid)


def _part(moment: Moment, instance: int, slices: int) -> Slices:
    """Return a GPU instance that does what a GPU would."""
    memory_bytes = moment.memory_bytes * slices // 8
    return Slices(instance=instance, slices=slices, percent=moment.percent, pid=moment.pid, memory_bytes=memory_bytes)


def _shared(gpu: int, second: int) -> Moment:
    """GPUs divided for many: notebooks, small servers, one that is divided anew every morning and evening."""
    minute = second // MINUTE_S
    if gpu < 3:
        percents = [int(30 * chance("n", gpu, seat, minute // 7)) - 20 for seat in range(7)]
        seats = [(seat, max(0, percent)) for seat, percent in enumerate(percents) if (seat + gpu) % 3 > 0]
        return Moment(
            instances=tuple(Slices(7 + seat, 1, percent, pid=4500 + seat, memory_bytes=_GIB) for seat, percent in seats)
        )
    if gpu < 5:
        served = _inference(gpu, second)
        return Moment(instances=(_part(served, 1, 3), Slices(instance=2, slices=3)))
    if gpu < 7:
        served = _inference(gpu, second)
        notebook = Slices(instance=5, slices=2, pid=4300, memory_bytes=9 * _GIB)
        return Moment(instances=(_part(served, 1, 4), notebook))
    tuned = _fine_tuning(0, second)
    if tuned.pid != 0:
        return Moment(instances=(_part(tuned, 1, 4), _part(tuned, 2, 3)))
    return Moment(instances=tuple(Slices(instance=7 + seat, slices=1) for seat in range(7)))


SCENARIOS: dict[str, Callable[[int, int], Moment]] = {
    "training": _training,
    "serving": _serving_node,
    "free": lambda gpu, second: _FREE,
    "tuning": _fine_tuning,
    "shared": _shared,
}
"""Name -> what GPU `index` does in the minute that holds POSIX second `s`."""
