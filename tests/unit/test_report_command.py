# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report weekly`: what it writes, prints and refuses."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuledger.cli import main
from gpuledger.errors import StorageError
from gpuledger_collector.report.files import write_files
from tests.fakes.ledger import FakeLedger
from tests.fakes.ledger_rows import OPENINGS, two_weeks

NAMES = [
    "weekly-2026-W47.md",
    "weekly-2026-W47.html",
    "weekly-2026-W47.csv",
    "weekly-2026-W47-idle.csv",
    "weekly-2026-W47-days.csv",
]


@cache
def fleet() -> FakeLedger:
    hours, holders, findings = two_weeks()
    return FakeLedger(hours, holders, findings, openings=OPENINGS)


def run(*arguments: str, ledger: FakeLedger | None = None) -> Result:
    found = fleet() if ledger is None else ledger
    return CliRunner().invoke(main, ["report", "weekly", *arguments], obj=lambda _: found)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to write files longer than that, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_all_forms_are_written_and_their_paths_and_the_headline_printed(tmp_path: Path) -> None:
    result = run("--state-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    paths = [tmp_path / "reports" / name for name in (*NAMES, "weekly-2026-W47.json")]
    assert lines[:-1] == [str(path) for path in paths]
    assert lines[-1].startswith("Week 2026-W47: at least 63.9 % and at most 71.2 % of 6,720.0 installed GPU-hours")
    assert sorted((tmp_path / "reports").iterdir()) == sorted(paths)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("--state-dir", str(tmp_path), "--out", str(tmp_path / name)).exit_code == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_only_the_formats_asked_for_are_written(tmp_path: Path) -> None:
    result = run("--state-dir", str(tmp_path), "--week", "2026-W46", "--format", "json,md", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weekly-2026-W46.json", "weekly-2026-W46.md"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--state-dir", "s", "--week", "next"], "week 'next' is not an ISO week; write year and week like 2026-W47"),
        (["--state-dir", "s", "--format", "doc"], "--format: 'doc' is not one of md, html, pdf, csv, json"),
        (["--state-dir", "s", "--lang", "de"], "--lang: 'de' is not one of en, zh-CN"),
        ([], "give --config FILE or --state-dir DIR"),
        (["--config", "c", "--state-dir", "s"], "either --config or --state-dir"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_empty_ledger_has_no_last_week(tmp_path: Path) -> None:
    result = run("--state-dir", str(tmp_path), ledger=FakeLedger([]))
    assert result.exit_code == 1
    assert "the ledger is empty" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_named_week_of_an_empty_ledger_is_reported_without_figures(tmp_path: Path) -> None:
    result = run("--state-dir", str(tmp_path), "--week", "2026-W47", ledger=FakeLedger([]))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "Week 2026-W47: no figures, because the ledger is empty."


def test_a_full_disk_leaves_the_earlier_report_and_nothing_half(tmp_path: Path) -> None:
    old = {name: f"old {name}".encode() for name in ("a.md", "b.html")}
    write_files(tmp_path, old)
    with file_size_limit(64), pytest.raises(StorageError, match=r"b\.html: cannot write the report: File too large"):
        write_files(tmp_path, {"a.md": b"new", "b.html": b"x" * 1000})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_an_out_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match="out: cannot write the report"):
        write_files(tmp_path / "out", {"a.md": b"text"})


def test_a_missing_state_directory_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", "weekly", "--state-dir", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert f"{tmp_path / 'none'}: no such state directory" in result.stderr


def test_both_languages_are_written_beside_each_other(tmp_path: Path) -> None:
    result = run("--state-dir", str(tmp_path), "--lang", "en,zh-CN", "--format", "md,csv", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "weekly-2026-W47-days.csv",
        "weekly-2026-W47-days.zh-CN.csv",
        "weekly-2026-W47-idle.csv",
        "weekly-2026-W47-idle.zh-CN.csv",
        "weekly-2026-W47.csv",
        "weekly-2026-W47.md",
        "weekly-2026-W47.zh-CN.csv",
        "weekly-2026-W47.zh-CN.md",
    ]
    assert result.stdout.splitlines()[-1].startswith("2026-W47 周：40 块 GPU")
