# SPDX-License-Identifier: Apache-2.0
"""The only door to time. Everything else is handed a Clock."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Wall clock and CLOCK_BOOTTIME, both in nanoseconds."""

    def wall_ns(self) -> int:
        """Return POSIX time; it may step."""
        ...

    def boottime_ns(self) -> int:
        """Return CLOCK_BOOTTIME: never steps, runs on in suspend."""
        ...

    def wait_until(self, boottime_ns: int, stop: threading.Event | None = None) -> bool:
        """Wait for the deadline or for `stop`; return True when `stop` is set."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wait_until(self, boottime_ns: int, stop: threading.Event | None = None) -> bool:
        remaining_s = (boottime_ns - self.boottime_ns()) / 1e9
        if stop is None:
            if remaining_s > 0:
                time.sleep(remaining_s)
            return False
        return stop.wait(remaining_s) if remaining_s > 0 else stop.is_set()


def monotonic_ns() -> int:
    """Return a monotonic time in nanoseconds for measuring durations."""
    return time.monotonic_ns()
