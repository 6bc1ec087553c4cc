# SPDX-License-Identifier: Apache-2.0
"""Sources of allocations that are files: what Slurm's prolog notes of each job, and the site's leases.

Each source answers with what it last read, and says how far that goes: an answer that is not whole leaves the GPUs that
it does not name unknown. A failure is counted, and said once until it is another.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpuledger.errors import ConfigurationError
from gpuledger.settings import read_toml
from gpuledger_agent.allocations import (
    JOB_FILE_BYTES_MAX,
    Allocation,
    Job,
    Lease,
    MalformedAllocation,
    SlurmGpus,
    leases_of,
    parse_job,
)
from gpuledger_agent.sources import SourceFailed, TickReads

_log = logging.getLogger(__name__)

JOB_FILES_MAX = 1_024
REREAD_MS = 30_000
"""Files are read again when their time stamps change, and this often, since a time stamp may stand still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The allocations of a source; `is_whole` says that it named all there are."""

    allocations: tuple[Allocation, ...] = ()
    is_whole: bool = False


class AllocationSource(Protocol):
    """Something that knows who was given GPUs."""

    def poll(self, now_ms: int, reads: TickReads) -> Answer:
        """Return what is known at a tick's edge, having read what is due; never waits for anybody."""
        ...

    def close(self) -> None:
        """Let go of whatever is under way."""
        ...


class Complaints:
    """Says why a source fails, once until it is for another reason or works again."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._why: str | None = None

    def fail(self, why: str) -> None:
        if why != self._why:
            _log.warning("allocation_source_failed", extra={"source": self._source, "why": why})
        self._why = why

    def work(self) -> None:
        if self._why is not None:
            _log.info("allocation_source_recovered", extra={"source": self._source})
        self._why = None


class JobFiles:
    """Slurm's jobs as prolog and epilog keep them, one file each (deploy/slurm)."""

    NAME = "job_files"

    def __init__(self, directory: Path, gpus: SlurmGpus, cluster: str | None, boot_id: str) -> None:
        self._directory = directory
        self._gpus = gpus
        self._cluster = cluster
        self._boot_id = boot_id
        self._complaints = Complaints(self.NAME)
        self._malformed: dict[str, str] = {}
        self._stamp: int | None = None
        self._read_ms: int | None = None
        self._answer = Answer()
        self.job_by_sluid: Mapping[str, str] = {}
        """Slurm's two ids of its jobs, as of the last read."""

    def poll(self, now_ms: int, reads: TickReads) -> Answer:
        stamp = self._stamp_now()
        is_due = self._read_ms is None or not 0 <= now_ms - self._read_ms < REREAD_MS
        if stamp != self._stamp or is_due:
            # The stamp is taken before the reading, so that what comes during it is read next time.
            answer = reads.read(self.NAME, self._read, reads)
            self._answer = Answer() if answer is None else answer
            self._stamp, self._read_ms = stamp, now_ms
        return self._answer

    def close(self) -> None:
        return

    def _stamp_now(self) -> int | None:
        try:
            return self._directory.stat().st_mtime_ns
        except OSError:
            return None

    def _read(self, reads: TickReads) -> Answer:
        jobs: list[Job] = []
        malformed: dict[str, str] = {}
        try:
            if self._directory.stat().st_mode & stat.S_IWOTH:
                raise self._failed("writable_by_all", "anybody may write to it, so anybody could reserve GPUs")
            names = sorted(path.name for path in self._directory.iterdir() if not path.name.startswith("."))
        except OSError as exc:
            raise self._failed("unreadable", f"cannot be read: {exc.strerror}") from exc
        for name in names[:JOB_FILES_MAX]:
            try:
                jobs.append(self._job(name))
            except FileNotFoundError:
                continue  # the job ended while its directory was being read
            except OSError as exc:
                malformed[name] = f"cannot be read: {exc.strerror}"
            except MalformedAllocation as exc:
                malformed[name] = str(exc)
        self._tell(malformed, reads)
        self._complaints.work()
        running = [job for job in jobs if job.boot_id == self._boot_id]
        self.job_by_sluid = {job.sluid: job.job for job in running if job.sluid is not None}
        return Answer(
            allocations=tuple(job.allocation(self._cluster) for job in running),
            is_whole=not malformed and len(names) <= JOB_FILES_MAX,
        )

    def _job(self, name: str) -> Job:
        with (self._directory / name).open("rb") as file:
            data = file.read(JOB_FILE_BYTES_MAX + 1)
        if len(data) > JOB_FILE_BYTES_MAX:
            raise MalformedAllocation(f"larger than {JOB_FILE_BYTES_MAX} bytes")
        return parse_job(data.decode("utf-8", "replace"), self._gpus)

    def _tell(self, malformed: Mapping[str, str], reads: TickReads) -> None:
        for name, why in malformed.items():
            reads.report(self.NAME).count("malformed")
            if self._malformed.get(name) != why:
                _log.warning("job_file_malformed", extra={"file": str(self._directory / name), "why": why})
        self._malformed = dict(malformed)

    def _failed(self, error: str, why: str) -> SourceFailed:
        self.job_by_sluid = {}
        self._complaints.fail(f"{self._directory}: {why}")
        return SourceFailed(error, why)


class LeaseFile:
    """Leases of this node's GPUs in a TOML file, for what no scheduler gives out."""

    NAME = "lease_file"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._complaints = Complaints(self.NAME)
        self._stamp: tuple[int, int] | None = None
        self._read_ms: int | None = None
        self._leases: tuple[Lease, ...] | None = None

    def poll(self, now_ms: int, reads: TickReads) -> Answer:
        stamp = self._stamp_now()
        is_due = self._read_ms is None or not 0 <= now_ms - self._read_ms < REREAD_MS
        if stamp != self._stamp or is_due:
            self._leases = reads.read(self.NAME, self._read)
            self._stamp, self._read_ms = stamp, now_ms
        if self._leases is None:
            return Answer()
        running = tuple(lease.allocation for lease in self._leases if lease.is_running(now_ms))
        return Answer(allocations=running, is_whole=True)

    def close(self) -> None:
        return

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _read(self) -> tuple[Lease, ...]:
        try:
            leases = leases_of(read_toml(self._path))
        except ConfigurationError as exc:
            self._complaints.fail(str(exc))
            raise SourceFailed("unreadable", str(exc)) from exc
        except MalformedAllocation as exc:
            self._complaints.fail(f"{self._path}: {exc}")
            raise SourceFailed("malformed", str(exc)) from exc
        self._complaints.work()
        return leases
