# SPDX-License-Identifier: Apache-2.0
"""The wheelhouse takes from the lock what holds for the node's Python, whatever Python fills it."""

import re
from pathlib import Path

import pytest
import wheelhouse

LOCK = """\
# a comment
a==1 ; python_full_version < '3.11' and implementation_name != 'PyPy' \\
    --hash=sha256:00 \\
    --hash=sha256:01
    # via b
a==2 ; python_full_version >= '3.11' \\
    --hash=sha256:02
b==3 \\
    --hash=sha256:03
"""


@pytest.mark.parametrize(("version", "kept"), [("3.10", "1"), ("3.11", "2"), ("3.13", "2")])
def test_of_each_package_the_one_for_this_version_is_taken_with_its_hashes(version: str, kept: str) -> None:
    lines = wheelhouse.lock_for(LOCK, version).splitlines()
    assert [line.split()[0] for line in lines if "==" in line] == [f"a=={kept}", "b==3"]
    assert not any(";" in line for line in lines)
    hashes = [line.split(":")[1].split()[0] for line in lines if "--hash" in line]
    assert hashes == (["00", "01", "03"] if kept == "1" else ["02", "03"])


def test_the_real_lock_has_a_toml_reader_for_the_python_that_has_none() -> None:
    lock = wheelhouse.LOCK.read_text(encoding="utf-8")
    assert "tomli==" in wheelhouse.lock_for(lock, "3.10")
    for version in wheelhouse.VERSIONS[1:]:
        assert "tomli==" not in wheelhouse.lock_for(lock, version)
        assert wheelhouse.lock_for(lock, version).count("\npycparser==") == 1


def test_the_real_lock_has_what_asks_a_kubelet() -> None:
    lock = wheelhouse.LOCK.read_text(encoding="utf-8")
    for version in wheelhouse.VERSIONS:
        assert wheelhouse.lock_for(lock, version).count("\ngrpcio==") == 1


def test_both_locks_of_the_agent_hold_the_same_versions() -> None:
    def pins(path: Path) -> set[str]:
        return {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"\S+==", line)}

    assert pins(wheelhouse.LOCK.with_name("agent.txt")) < pins(wheelhouse.LOCK)


def test_hashes_are_required_and_nothing_is_built_for_the_wheelhouse() -> None:
    command = wheelhouse.download_command(Path("lock"), Path("house"), "3.12")
    assert {"--require-hashes", "--only-binary", "cp312", "manylinux_2_28_x86_64"} <= set(command)
    assert "manylinux_2_29_x86_64" not in command


def test_a_version_that_the_agent_does_not_run_on_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert wheelhouse.main(["2.7"]) == 2
    assert capsys.readouterr().err.startswith("usage: ")
