# SPDX-License-Identifier: Apache-2.0
"""A clock that moves only when a test, or a wait, moves it."""

from __future__ import annotations

import threading

MS_NS = 1_000_000
NOON_MS = 1_763_812_800_000
"""2025-11-22 12:00 UTC: the edge of a cell."""


class FakeClock:
    """A `gpuledger.clock.Clock` of virtual time; waiting takes no time and arrives exactly."""

    def __init__(self, wall_ms: int = NOON_MS, boottime_ms: int = 5_000_000) -> None:
        self._wall_ns = wall_ms * MS_NS
        self._boottime_ns = boottime_ms * MS_NS
        self.stop_after_waits: int | None = None

    def wall_ns(self) -> int:
        return self._wall_ns

    def boottime_ns(self) -> int:
        return self._boottime_ns

    def wait_until(self, boottime_ns: int, stop: threading.Event | None = None) -> bool:
        if self.stop_after_waits is not None:
            self.stop_after_waits -= 1
            if self.stop_after_waits < 0:
                return True
        self.advance_ns(max(0, boottime_ns - self._boottime_ns))
        return stop is not None and stop.is_set()

    @property
    def wall_ms(self) -> int:
        return self._wall_ns // MS_NS

    def advance_ns(self, time_ns: int) -> None:
        """Let time pass: both clocks run."""
        self._wall_ns += time_ns
        self._boottime_ns += time_ns

    def advance_ms(self, time_ms: int) -> None:
        """Let time pass, or let the machine sleep: CLOCK_BOOTTIME runs on in both."""
        self.advance_ns(time_ms * MS_NS)

    def step_ms(self, time_ms: int) -> None:
        """Set the wall clock forward (or, below 0, back) by so much."""
        self._wall_ns += time_ms * MS_NS
