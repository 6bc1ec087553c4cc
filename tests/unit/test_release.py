# SPDX-License-Identifier: Apache-2.0
"""What is released: the same bytes from the same source, one version everywhere, and a bill of all that comes along."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import sbom

from gpuledger import __version__

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("common", "agent", "collector", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")


def checkout(to: Path) -> Path:
    """Copy what a build reads, as another checkout would have it: other times, other modes, leftovers of Python."""
    to.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def build(source: Path, to: Path, target: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(to)]
    env = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    (file,) = to.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and source archive of one checkout, and the wheel of another one that is younger."""
    folder = tmp_path_factory.mktemp("built")
    first, second = checkout(folder / "a"), checkout(folder / "b")
    for path in second.rglob("*"):
        os.utime(path, (1_800_000_000, 1_800_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    (second / "common/gpuledger/__pycache__").mkdir()
    (second / "common/gpuledger/__pycache__/states.cpython-311.pyc").write_bytes(b"left over")
    sdist = build(first, folder / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return {
        "wheel": build(first, folder / "1", "wheel"),
        "again": build(second, folder / "2", "wheel"),
        "sdist": sdist,
        "sdist again": build(second, folder / "sdist2", "sdist"),
        "from sdist": build(unpacked, folder / "3", "wheel"),
    }


def test_two_checkouts_give_the_same_wheel_and_the_same_source_archive(built: dict[str, Path]) -> None:
    assert built["wheel"].read_bytes() == built["again"].read_bytes()
    assert built["sdist"].read_bytes() == built["sdist again"].read_bytes()


def test_the_source_archive_gives_the_same_wheel_as_the_checkout(built: dict[str, Path]) -> None:
    assert built["wheel"].read_bytes() == built["from sdist"].read_bytes()


def test_the_wheel_has_every_file_of_the_three_packages_and_no_other(built: dict[str, Path]) -> None:
    packages = ("common/gpuledger", "agent/gpuledger_agent", "collector/gpuledger_collector")
    ours = {
        str(path.relative_to((ROOT / package).parent))
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = set(archive.namelist())
    info = f"gpuledger-{__version__}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == ours
    assert built["wheel"].name == f"gpuledger-{__version__}-py3-none-any.whl"


def test_the_changelog_begins_with_the_version_that_the_program_says() -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] in {__version__, "Unreleased"}
    assert __version__ in headings


def test_the_version_stands_in_one_place_of_the_programs() -> None:
    files = [*(ROOT / "common").rglob("*.py"), *(ROOT / "agent").rglob("*.py"), *(ROOT / "collector").rglob("*.py")]
    found = [path for path in files if f'"{__version__}"' in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(ROOT)) for path in found] == ["common/gpuledger/__init__.py"]
    assert __version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ the bill of materials


@pytest.mark.parametrize("what", sbom.LOCKS)
def test_the_bill_names_every_package_of_the_lock_with_its_hashes_and_who_needs_it(what: str) -> None:
    lock = (ROOT / "requirements" / sbom.LOCKS[what]).read_text(encoding="utf-8")
    bill = json.loads(sbom.made(what))
    pins = set(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    assert {(one["name"], one["version"]) for one in bill["components"]} == pins
    hashes = [file["content"] for one in bill["components"] for file in one["externalReferences"][0]["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", lock))
    graph = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    reached, todo = set(), [bill["metadata"]["component"]["bom-ref"]]
    while todo:
        ref = todo.pop()
        if ref not in reached:
            reached.add(ref)
            todo += graph[ref]
    assert reached == graph.keys(), "all of it is there because gpuledger needs it"
    assert bill["metadata"]["component"]["version"] == __version__


def test_what_gpuledger_needs_itself_is_what_pyproject_names() -> None:
    (root, *others) = sorted(
        json.loads(sbom.made("agent"))["dependencies"], key=lambda entry: "gpuledger" not in entry["ref"]
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["agent"], *extras["kubernetes"]]
    names = {re.match(r"[a-z0-9-]+", text) for text in wanted}
    assert {re.split(r"[/@]", ref)[1] for ref in root["dependsOn"]} == {
        match[0] for match in names if match is not None
    }
    assert any(entry["dependsOn"] for entry in others)


def test_a_package_without_a_hash_has_no_place_in_a_bill() -> None:
    with pytest.raises(ValueError, match="left-pad has no hash"):
        sbom.read_lock("left-pad==1.0\n    # via gpuledger (pyproject.toml)\n")
