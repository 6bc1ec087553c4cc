# SPDX-License-Identifier: Apache-2.0
"""`gpuledger report weekly`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

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


def written(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_a_month_is_written_under_its_own_name(tmp_path: Path) -> None:
    arguments = ["report", "monthly", "--state-dir", str(tmp_path), "--month", "2026-11", "--format", "json,html"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path)], obj=lambda _: fleet())
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["monthly-2026-11.html", "monthly-2026-11.json"]
    found = written(tmp_path / "monthly-2026-11.json")
    assert found["period"]["kind"] == "month"
    assert "Month 2026-11: at least" in found["sentence"]
    assert "monthly report" in (tmp_path / "monthly-2026-11.html").read_text()


def test_an_extract_is_of_its_site_and_says_so_everywhere(tmp_path: Path) -> None:
    flags = ["--site", "south", "--format", "json,md,html", "--week", "2026-W47"]
    result = run("--state-dir", str(tmp_path), "--out", str(tmp_path), *flags)
    assert result.exit_code == 0, result.output
    found = written(tmp_path / "weekly-2026-W47-site-south.json")
    assert found["scope"] == [{"field": "site", "value": "south"}]
    assert found["headline"]["gpus"] == 8
    assert {row["site"] for row in found["places"]} == {"south"}
    text = (tmp_path / "weekly-2026-W47-site-south.md").read_text()
    assert "only site south" in text.splitlines()[0]
    assert "An extract (site south)" in text
    assert "train-1" not in text


def test_another_period_can_be_compared_with(tmp_path: Path) -> None:
    flags = ["--week", "2026-W46", "--compare", "2026-W47", "--format", "json"]
    result = run("--state-dir", str(tmp_path), "--out", str(tmp_path), *flags)
    assert result.exit_code == 0, result.output
    comparison = written(tmp_path / "weekly-2026-W46.json")["comparison"]
    assert (comparison["previous"], comparison["absent"], comparison["mean_of"]) == ("2026-W47", None, [])
    assert comparison["changes"][0]["difference_tenths"] == 720 - 639


PRICES = """
currency = "CNY"
[[price]]
class = "H100"
unit = "server_month"
gpus = 8
amount = 75_000
currency = "CNY"
source = "list"
"""


def test_a_price_book_gives_amounts_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(PRICES)
    flags = ["--prices", str(tmp_path / "prices.toml"), "--lang", "en,zh-CN", "--format", "json,md"]
    result = run("--state-dir", str(tmp_path), "--out", str(tmp_path), *flags)
    assert result.exit_code == 0, result.output
    # 2,820 free GPU-hours at 75,000 / 730 / 8.
    amount = f"{2820 * 75_000 / 730 / 8:,.2f}"
    assert f"were worth CNY {amount}." in result.stdout
    assert f"空闲卡时价值 {amount} CNY" in result.stdout
    money = written(tmp_path / "weekly-2026-W47.json")["money"]
    assert money["total"]["foregone_high"] == amount.replace(",", "")
    assert money["total"]["idle_energy_cost"] is None
    assert {(one["what"], one["site"]) for one in money["missing"]} >= {("energy", "north"), ("energy", "south")}
    assert "energy counters of north" in (tmp_path / "weekly-2026-W47.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--compare", "soon"], "month 'soon' is not a month"),
        (["--tenant", "Acme"], "--tenant: needs --config of a collector that has a lease book"),
        (["--prices", "nothing.toml"], "nothing.toml: cannot be read"),
    ],
)
def test_what_a_part_or_price_lacks_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    result = run("--state-dir", str(tmp_path), *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_a_tenants_gpus_are_those_that_its_leases_name(tmp_path: Path) -> None:
    lease = '[[lease]]\nid = "L1"\ntenant = "Acme"\nkind = "paid"\nnodes = ["train-1"]\nfrom = 2026-01-01\n'
    (tmp_path / "leases.toml").write_text(lease)
    (tmp_path / "c.toml").write_text(f'state_dir = "{tmp_path}"\nleases = "{tmp_path}/leases.toml"\n')
    result = run("--config", str(tmp_path / "c.toml"), "--tenant", "Acme", "--format", "json")
    assert result.exit_code == 0, result.output
    found = written(tmp_path / "reports" / "weekly-2026-W47-tenant-Acme.json")
    assert found["headline"]["gpus"] == 8
    assert [row["node"] for row in found["heat_days"]] == ["train-1"]
    other = run("--config", str(tmp_path / "c.toml"), "--tenant", "Nobody")
    assert "has no lease of 'Nobody'" in other.stderr
