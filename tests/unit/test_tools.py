# SPDX-License-Identifier: Apache-2.0
"""Set-up without a network: what is refused, what is said, what CI turns into a failure."""

import hashlib
from pathlib import Path

import debian
import environment
import parts
import pytest


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index on disk whose only wheel is pip 26.3, pinned; pip's configuration names it."""
    wheel = b"a wheel"
    page = tmp_path / "simple" / "pip" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="../../files/pip-26.2-py3-none-any.whl">26.2</a><a>no link</a>', encoding="utf-8")
    with page.open("a", encoding="utf-8") as stream:
        stream.write('<a href="../../files/pip-26.3-py3-none-any.whl#sha256=00">26.3</a>')
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "pip-26.3-py3-none-any.whl").write_bytes(wheel)
    pinned = tmp_path / "pip.txt"
    pinned.write_text(f"pip==26.3 \\\n    --hash=sha256:{hashlib.sha256(wheel).hexdigest()}\n", encoding="utf-8")
    monkeypatch.setattr(environment, "PINNED", pinned)
    monkeypatch.setattr(environment, "TOOLS", tmp_path / "tools")
    monkeypatch.setattr(environment, "_pip_settings", lambda: {"index-url": (tmp_path / "simple").as_uri()})
    return tmp_path


@pytest.mark.usefixtures("index")
def test_the_pinned_pip_is_fetched_from_the_configured_index() -> None:
    assert environment._fetched_wheel().read_bytes() == b"a wheel"


def test_a_pip_whose_hash_is_not_the_pinned_one_is_refused(index: Path) -> None:
    (index / "files" / "pip-26.3-py3-none-any.whl").write_bytes(b"another wheel")
    with pytest.raises(environment.BootstrapError, match="whose hash is not the pinned one"):
        environment._fetched_wheel()
    assert not (index / "tools").exists()


@pytest.mark.usefixtures("index")
def test_no_configured_index_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_pip_settings", dict)
    with pytest.raises(environment.BootstrapError, match="names no package index"):
        environment._fetched_wheel()


def test_the_environment_overrides_the_files_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "pip.conf"
    named.write_text("[global]\nindex_url = file:///one\n[install]\ncert = c.pem\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(named))
    for name in ("PIP_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    assert environment._pip_settings()["index-url"] == "file:///one"
    assert environment._pip_settings()["cert"] == "c.pem"
    monkeypatch.setenv("PIP_INDEX_URL", "file:///two")
    assert environment._pip_settings()["index-url"] == "file:///two"


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing on PATH: no apt-get, no programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(parts, "BIN", tmp_path / "bin")


@pytest.mark.usefixtures("bare_machine")
@pytest.mark.parametrize(("ci", "status"), [("", 0), ("1", 1)])
def test_a_missing_part_is_named_and_fails_only_under_ci(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, status: int
) -> None:
    monkeypatch.setenv("CI", ci)
    assert parts.main(["prometheus"]) == status
    said = capsys.readouterr().err
    assert "prometheus is missing (Debian's package prometheus is not installed" in said
    assert ("CI is set, so this is a failure" in said) == bool(status)


def test_an_unknown_part_is_a_usage_error_that_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert parts.main(["promtheus"]) == 2
    said = capsys.readouterr().err
    assert "of prometheus, alertmanager, victoria-metrics, slurm, pdf, strace, chromium, cc, nvitop-exporter" in said


@pytest.mark.usefixtures("bare_machine")
def test_a_part_that_only_root_can_install_is_not_even_fetched_by_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "")
    monkeypatch.setattr(debian, "available", lambda: True)
    monkeypatch.setattr(debian, "is_root", lambda: False)
    assert parts.main(["slurm"]) == 0
    assert "slurm is missing (Debian's package slurm-wlm is not installed, and only root" in capsys.readouterr().err
