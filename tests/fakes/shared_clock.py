# SPDX-License-Identifier: Apache-2.0
"""Virtual time in a small memory-mapped file, shared by the scripted NVML library and Python.

Nobody waits: the thread that paces the program jumps the shared time to its deadline, and a call's scripted latency
moves it inside the library. The layout is repeated in tests/abi/library/clock.c.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable
from pathlib import Path

MAGIC = 0x314B434C4C554750
MAX_STEPS = 64
MS_NS = 1_000_000
_POLL_S = 0.01


class _Step(ctypes.Structure):
    _fields_ = [("at_boottime_ns", ctypes.c_int64), ("delta_ns", ctypes.c_int64)]


class _Page(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_int64),
        ("boottime_ns", ctypes.c_int64),
        ("wall_offset_ns", ctypes.c_int64),
        ("start_boottime_ns", ctypes.c_int64),
        ("end_boottime_ns", ctypes.c_int64),
        ("step_count", ctypes.c_int64),
        ("steps", _Step * MAX_STEPS),
    ]


NEVER_NS = (1 << 63) - 1


class SharedClock:
    """A clock of virtual time (a `gpuledger.clock.Clock`) over the file at `path`.

    The first thread that waits paces the program: its deadline is reached at once. Any other thread that waits sleeps
    until the pacing thread (or another process) has moved the time past its own deadline. At the end of the script the
    time stands still and every wait says "stop".
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), ctypes.sizeof(_Page))
        self._page = _Page.from_buffer(self._memory)
        if self._page.magic != MAGIC:
            raise ValueError(f"{path}: not a shared clock")
        self._moved = threading.Condition()
        self._pacer: int | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        wall_ns: int,
        boottime_ns: int = 1_000_000 * MS_NS,
        duration_ms: int | None = None,
        steps_ms: Iterable[tuple[int, int]] = (),
    ) -> SharedClock:
        """Write a clock file whose script starts now, at `wall_ns` (POSIX) and `boottime_ns`, and open it.

        `steps_ms` are (script time, change of the wall clock) pairs. With `duration_ms` waits end there.
        """
        page = _Page(
            magic=MAGIC,
            boottime_ns=boottime_ns,
            wall_offset_ns=wall_ns - boottime_ns,
            start_boottime_ns=boottime_ns,
            end_boottime_ns=NEVER_NS if duration_ms is None else boottime_ns + duration_ms * MS_NS,
        )
        for index, (at_ms, delta_ms) in enumerate(steps_ms):
            page.steps[index] = _Step(boottime_ns + at_ms * MS_NS, delta_ms * MS_NS)
            page.step_count = index + 1
        path.write_bytes(bytes(page))
        return cls(path)

    def wall_ns(self) -> int:
        """POSIX time of the script; steps where the script says so."""
        boottime_ns: int = self._page.boottime_ns
        wall_ns: int = boottime_ns + self._page.wall_offset_ns
        for index in range(self._page.step_count):
            step = self._page.steps[index]
            if step.at_boottime_ns <= boottime_ns:
                wall_ns += step.delta_ns
        return wall_ns

    def boottime_ns(self) -> int:
        """The script's CLOCK_BOOTTIME."""
        boottime_ns: int = self._page.boottime_ns
        return boottime_ns

    def script_ms(self) -> float:
        """Milliseconds since the script began."""
        start_ns: int = self._page.start_boottime_ns
        return (self.boottime_ns() - start_ns) / MS_NS

    def end(self, at_boottime_ns: int) -> None:
        """Move the script's end; a test that restarts an agent gives each start its own."""
        self._page.end_boottime_ns = at_boottime_ns

    def advance_to(self, boottime_ns: int) -> None:
        """Move the time forward to `boottime_ns`; never back."""
        self._page.boottime_ns = max(self._page.boottime_ns, boottime_ns)
        with self._moved:
            self._moved.notify_all()

    def wait_until(self, boottime_ns: int, stop: threading.Event | None = None) -> bool:
        """Reach `boottime_ns`: at once in the pacing thread. True if `stop` was set or the script has ended."""
        me = threading.get_ident()
        with self._moved:
            if self._pacer is None:
                self._pacer = me
            pacing = self._pacer == me
        if not pacing:
            return self._follow(boottime_ns, stop)
        if stop is not None and stop.is_set():
            return True
        end_ns: int = self._page.end_boottime_ns
        self.advance_to(min(boottime_ns, end_ns))
        if boottime_ns < end_ns:
            return False
        if stop is not None:
            stop.set()
        return True

    def _follow(self, boottime_ns: int, stop: threading.Event | None) -> bool:
        while self.boottime_ns() < boottime_ns:
            if stop is not None and stop.is_set():
                return True
            if self.boottime_ns() >= self._page.end_boottime_ns:
                return True
            with self._moved:
                self._moved.wait(_POLL_S)
        return stop is not None and stop.is_set()
