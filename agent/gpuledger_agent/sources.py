# SPDX-License-Identifier: Apache-2.0
"""What each source cost and whether it answered: the agent's account of its own reads.

A failed read is counted and gives None; a lost GPU or a library that is gone is counted and goes on up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpuledger.clock import monotonic_ns
from gpuledger.errors import GpuledgerError
from gpuledger_agent.nvml import CallFailed, DriverUnavailable, GpuLost, ResetRequired

T = TypeVar("T")


class SourceFailed(GpuledgerError):
    """A read of a source other than NVML failed; `error` is a short name for it, for a metric's label."""

    def __init__(self, error: str, why: str) -> None:
        super().__init__(why)
        self.error = error


@dataclass(slots=True)
class SourceReport:
    """What a source cost and whether it answered, in the last tick it ran in."""

    duration_ns: int = 0
    is_success: bool = True
    failures: dict[str, int] = field(default_factory=dict)
    """Failed reads by error (NVML's name for it, or that of SourceFailed), since the agent started."""
    failed: int = 0
    """Failed reads in this tick."""
    last_error: str = ""

    def count(self, error: str) -> None:
        self.last_error = error
        self.is_success = False
        self.failed += 1
        self.failures[error] = self.failures.get(error, 0) + 1


class TickReads:
    """All reads of one tick; `ran` has the reports of the sources that ran in it."""

    def __init__(self, before: Mapping[str, SourceReport]) -> None:
        """`before` are the reports of earlier ticks: whoever holds them keeps them, they are never changed."""
        self._before = before
        self.ran: dict[str, SourceReport] = {}

    def report(self, source: str) -> SourceReport:
        """Return the report of a source that runs in this tick."""
        report = self.ran.get(source)
        if report is None:
            report = self.ran[source] = SourceReport()
            if source in self._before:
                report.failures = dict(self._before[source].failures)
        return report

    def read(self, source: str, read: Callable[..., T | None], *arguments: Any) -> T | None:
        """Call a read; a failure for one GPU is counted and gives None, any other is counted and goes on up."""
        report = self.report(source)
        began_ns = monotonic_ns()
        try:
            return read(*arguments)
        except (CallFailed, SourceFailed) as exc:
            report.count(exc.error)
            return None
        except (GpuLost, ResetRequired) as exc:
            report.count("gpu_is_lost" if isinstance(exc, GpuLost) else "reset_required")
            raise
        except DriverUnavailable as exc:
            report.count(exc.reason)
            raise
        finally:
            report.duration_ns += monotonic_ns() - began_ns


class GpuReads:
    """One GPU's reads in one tick: how many answered, how many failed; one that is not offered did neither."""

    def __init__(self, reads: TickReads) -> None:
        self._reads = reads
        self.answered = 0
        self.failed = 0
        self._errors: set[str] = set()

    @property
    def only_error(self) -> str | None:
        """Return what every read that failed failed with; None where there were several errors, or none."""
        return next(iter(self._errors)) if len(self._errors) == 1 else None

    def ask(self, source: str, read: Callable[..., T | None], *arguments: Any) -> T | None:
        """Read one value of the GPU, and count whether it answered."""
        report = self._reads.report(source)
        failures = report.failed
        value = self._reads.read(source, read, *arguments)
        if value is not None:
            self.answered += 1
        elif report.failed > failures:
            self.failed += 1
            self._errors.add(report.last_error)
        return value

    def note(self, source: str) -> None:
        """Note that a source answered with what another call brought."""
        self._reads.report(source)

    def count(self, source: str, error: str) -> None:
        """Count a part of an answer that failed."""
        self._reads.report(source).count(error)
