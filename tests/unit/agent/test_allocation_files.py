# SPDX-License-Identifier: Apache-2.0
"""Sources of allocations that are files: what they answer, what they count, and when they read again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuledger_agent import allocation_files
from gpuledger_agent.allocation_files import JobFiles, LeaseFile
from gpuledger_agent.allocations import SlurmGpus
from gpuledger_agent.pod_names import PodNames
from gpuledger_agent.sources import SourceReport, TickReads
from gpuledger_agent.workloads import PodName

NOW_MS = 1_795_300_200_000


class Node:
    """The directory of one node, and what its source says at each poll, 1 s apart unless told otherwise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = JobFiles(directory, SlurmGpus(order="index"), None, "boot-1")
        self.now_ms = NOW_MS
        self.sources: dict[str, SourceReport] = {}

    def note(self, job: str, gpus: str = "0", boot: str = "boot-1", sluid: str = "") -> None:
        text = f"job={job}\nuser=ada\ngpus={gpus}\ndevices=\nsluid={sluid}\nboot={boot}\n"
        (self.directory / job).write_text(text)
        self.touch()

    def touch(self) -> None:
        """Give the directory a time stamp of its own: the kernel's own clock may stand still between two changes."""
        stamp = self.directory.stat().st_mtime_ns + 1_000_000
        os.utime(self.directory, ns=(stamp, stamp))

    def poll(self, later_ms: int = 1_000) -> tuple[list[str], bool]:
        """Return (names of the allocations, whether they are all)."""
        self.now_ms += later_ms
        reads = TickReads(self.sources)
        answer = self.source.poll(self.now_ms, reads)
        self.sources = {**self.sources, **reads.ran}
        return [allocation.name for allocation in answer.allocations], answer.is_whole

    @property
    def failures(self) -> dict[str, int]:
        return self.sources["job_files"].failures


@pytest.fixture
def node(tmp_path: Path) -> Node:
    directory = tmp_path / "jobs"
    directory.mkdir()
    return Node(directory)


def test_jobs_come_and_go_with_their_files(node: Node) -> None:
    assert node.poll() == ([], True)
    node.note("12")
    node.note("13")
    assert node.poll() == (["slurm:12", "slurm:13"], True)
    (node.directory / "12").unlink()
    node.touch()
    assert node.poll() == (["slurm:13"], True)
    assert node.failures == {}


def test_a_job_of_another_boot_is_over(node: Node) -> None:
    node.note("12", boot="boot-0")
    assert node.poll() == ([], True)


def test_what_is_not_finished_yet_is_not_read(node: Node) -> None:
    (node.directory / ".12.99").write_text("job=1")
    assert node.poll() == ([], True)


def test_a_malformed_file_costs_itself_and_leaves_other_gpus_unknown_and_is_said_once(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.note("12")
    (node.directory / "13").write_text("nonsense")
    (node.directory / "14").write_text("job=14\n" + "x=" + "y" * 5_000)
    assert node.poll() == (["slurm:12"], False)
    assert node.failures == {"malformed": 2}
    node.poll(30_000)
    assert node.failures == {"malformed": 4}
    said = [record for record in caplog.records if record.msg == "job_file_malformed"]
    assert len(said) == 2
    assert {getattr(record, "why", "") for record in said} == {"a line is not key=value", "larger than 4096 bytes"}
    (node.directory / "13").unlink()
    (node.directory / "14").unlink()
    node.touch()
    assert node.poll() == (["slurm:12"], True)


def test_a_directory_that_is_missing_is_a_failure_said_once_and_not_a_node_without_jobs(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.directory.rmdir()
    assert node.poll() == ([], False)
    assert node.poll() == ([], False)
    node.poll(30_000)
    assert node.failures == {"unreadable": 2}, "it is asked again every 30 s, not every tick"
    assert [record.msg for record in caplog.records] == ["allocation_source_failed"]
    node.directory.mkdir()
    caplog.set_level("INFO")
    assert node.poll() == ([], True)
    assert caplog.records[-1].msg == "allocation_source_recovered"


def test_a_directory_that_anybody_may_write_to_is_not_believed(node: Node) -> None:
    node.note("12")
    node.directory.chmod(0o777)
    assert node.poll() == ([], False)
    assert node.failures == {"writable_by_all": 1}


def test_more_files_than_are_read_are_not_all(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_files, "JOB_FILES_MAX", 2)
    for job in ("11", "12", "13"):
        node.note(job)
    assert node.poll() == (["slurm:11", "slurm:12"], False)


def test_files_are_read_again_when_their_directory_changed_and_every_30_s(node: Node) -> None:
    node.note("12")
    assert node.poll() == (["slurm:12"], True)
    stamp = node.directory.stat().st_mtime_ns
    (node.directory / "12").unlink()
    os.utime(node.directory, ns=(stamp, stamp))
    assert node.poll() == (["slurm:12"], True), "nothing looked as if it had changed"
    assert node.poll(30_000) == ([], True)


def test_the_two_ids_of_running_jobs_are_told(node: Node) -> None:
    node.note("12", sluid="s5K1KKYAYG5D00")
    node.note("13", sluid="s5K1KKYAYG5D01", boot="boot-0")
    node.poll()
    assert node.source.job_by_sluid == {"s5K1KKYAYG5D00": "12"}


# ---------------------------------------------------------------------------------------------- leases

LEASE = '[[lease]]\nholder = "ACME"\ngpus = [0]\nfrom = 2026-11-22T00:00:00Z\nto = {end}\n'


@pytest.fixture
def lease(tmp_path: Path) -> tuple[Path, Callable[[int], tuple[list[str], bool, dict[str, int]]]]:
    path = tmp_path / "leases.toml"
    source = LeaseFile(path)
    sources: dict[str, SourceReport] = {}

    def poll(now_ms: int) -> tuple[list[str], bool, dict[str, int]]:
        reads = TickReads(sources)
        answer = source.poll(now_ms, reads)
        sources.update(reads.ran)
        return [one.name for one in answer.allocations], answer.is_whole, dict(sources["lease_file"].failures)

    return path, poll


def test_a_lease_runs_from_its_begin_to_its_end(
    lease: tuple[Path, Callable[[int], tuple[list[str], bool, dict[str, int]]]],
) -> None:
    path, poll = lease
    path.write_text(LEASE.format(end="2026-11-22T12:00:00Z"))
    noon_ms = 1_795_348_800_000
    assert poll(noon_ms - 1) == (["lease:ACME"], True, {})
    assert poll(noon_ms) == ([], True, {})


def test_a_lease_file_that_is_missing_or_wrong_leaves_its_gpus_unknown(
    lease: tuple[Path, Callable[[int], tuple[list[str], bool, dict[str, int]]]], caplog: pytest.LogCaptureFixture
) -> None:
    path, poll = lease
    assert poll(NOW_MS) == ([], False, {"unreadable": 1})
    path.write_text("[[lease]]\nholder = 5\n")
    assert poll(NOW_MS + 1_000) == ([], False, {"unreadable": 1, "malformed": 1})
    assert poll(NOW_MS + 2_000) == ([], False, {"unreadable": 1, "malformed": 1})
    path.write_text("[[lease")
    os.utime(path, ns=(5, 5))
    assert poll(NOW_MS + 3_000)[2] == {"unreadable": 2, "malformed": 1}
    assert [record.msg for record in caplog.records] == ["allocation_source_failed"] * 3
    assert "lease 1: holder is not a name" in getattr(caplog.records[1], "why", "")


# ---------------------------------------------------------------------------------------------- names of pods

ID = "a" * 64


def test_a_container_is_called_as_its_link_is(tmp_path: Path) -> None:
    (tmp_path / f"train-0.x_ml_main-gpu-{ID}.log").symlink_to("nowhere")
    (tmp_path / "something else").write_text("")
    names = PodNames(tmp_path)
    assert names.of(ID) == PodName(namespace="ml", pod="train-0.x", container="main-gpu")
    assert names.of("b" * 64) is None
    assert names.failures == {}


def test_an_unknown_container_is_looked_for_again_only_once_something_changed(tmp_path: Path) -> None:
    names = PodNames(tmp_path)
    assert names.of(ID) is None
    stamp = tmp_path.stat().st_mtime_ns
    (tmp_path / f"p_n_c-{ID}.log").write_text("")
    os.utime(tmp_path, ns=(stamp, stamp))
    assert names.of(ID) is None
    os.utime(tmp_path, ns=(stamp, stamp + 1))
    assert names.of(ID) == PodName(namespace="n", pod="p", container="c")


def test_links_that_cannot_be_read_are_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = PodNames(tmp_path / "missing")
    assert (names.of(ID), names.of(ID)) == (None, None)
    assert names.failures == {"unreadable": 2}
    assert [record.msg for record in caplog.records] == ["allocation_source_failed"]
