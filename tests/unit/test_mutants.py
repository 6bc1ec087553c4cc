# SPDX-License-Identifier: Apache-2.0
"""The defects that `make mutation` plants still fit the code; planting them takes minutes and is done by hand."""

from pathlib import Path

from tests.mutants import load

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = load()


def test_every_defect_can_be_planted_in_one_place() -> None:
    misfits = []
    for mutant in MUTANTS:
        count = (ROOT / mutant.path).read_text(encoding="utf-8").count(mutant.old)
        if count != 1 or mutant.old == mutant.new:
            misfits.append(f"{mutant.path}: {mutant.what}: {count} times")
    assert misfits == []


def test_no_defect_is_listed_twice_and_each_file_has_tests() -> None:
    assert len({(mutant.path, mutant.what) for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert mutant.tests
        assert all((ROOT / "tests/unit" / f"{name}.py").is_file() for name in mutant.tests)


def test_the_report_lists_every_defect_and_none_survived() -> None:
    report = (ROOT / "docs/mutation.md").read_text(encoding="utf-8")
    assert [mutant.what for mutant in MUTANTS if f"| {mutant.path} | {mutant.what} | " not in report] == []
    assert "survived" not in report
