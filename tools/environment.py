# SPDX-License-Identifier: Apache-2.0
"""Makes a virtual environment whose pip is the hash-pinned one, on machines without ensurepip or pip too.

Whatever pip starts the work (ensurepip's, an installed one, Debian's wheel, or the pinned wheel itself fetched from the
index that pip's configuration names), it is used for one thing: installing requirements/pip.txt with its hashes.
"""

import configparser
import contextlib
import hashlib
import html.parser
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import venv
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import debian

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
PINNED = ROOT / "requirements" / "pip.txt"
DEBIAN_WHEEL = "usr/share/python-wheels/pip-*.whl"
FETCH_TIMEOUT_S = 120


class BootstrapError(Exception):
    """One way did not work; the text is one sentence without a full stop."""


def main(arguments: Sequence[str]) -> int:
    """Make or repair the environment named by the only argument; returns the exit status."""
    if len(arguments) != 1:
        print("usage: tools/bootstrap DIRECTORY", file=sys.stderr)
        return 2
    target = Path(arguments[0])
    try:
        make(target)
    except (BootstrapError, OSError) as error:
        print(f"bootstrap: {error}.", file=sys.stderr)
        return 1
    return 0


def make(target: Path) -> None:
    """Make the environment and put the pinned pip into it.

    Raises:
        BootstrapError: no way worked; names what to install.
    """
    python = target / "bin" / "python"
    if not _runs([str(python), "-m", "pip", "--version"]):
        _create(target)
    pip, reasons = _find_pip(python)
    if pip is None:
        raise BootstrapError(
            f"no pip was found to put into {target} ({'; '.join(reasons)}): "
            "install Debian's package python3-venv, or set PIP_INDEX_URL"
        )
    _install_pinned(pip)


def _create(target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    if _runs([sys.executable, "-m", "venv", str(target)]):
        return
    # Debian keeps ensurepip in a package of its own; without it only the bare environment can be made.
    shutil.rmtree(target, ignore_errors=True)
    venv.create(target, with_pip=False, symlinks=True)


def _find_pip(python: Path) -> tuple[list[str] | None, list[str]]:
    """The first pip that runs, as a command that acts on the environment, and why those before it do not."""
    reasons: list[str] = []
    for way in (_own_pip, _outer_pip, _debian_pip, _fetched_pip):
        try:
            return way(python), reasons
        except (BootstrapError, debian.DebianError) as error:
            reasons.append(str(error))
    return None, reasons


def _own_pip(python: Path) -> list[str]:
    command = [str(python), "-m", "pip"]
    if not _runs([*command, "--version"]):
        raise BootstrapError("this Python has no ensurepip")
    return command


def _outer_pip(python: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "--python", str(python)]
    if not _runs([*command, "--version"]):
        raise BootstrapError("it has no pip either, or one older than 22.3")
    return command


def _debian_pip(python: Path) -> list[str]:
    return [str(python), f"{_debian_wheel()}/pip"]


def _fetched_pip(python: Path) -> list[str]:
    return [str(python), f"{_fetched_wheel()}/pip"]


def _debian_wheel() -> Path:
    """Debian's pip wheel: the installed one, else taken from Debian's archive."""
    found = sorted(Path("/").glob(DEBIAN_WHEEL)) or sorted((TOOLS / "pip").glob(DEBIAN_WHEEL))
    if found:
        return found[-1]
    if not debian.available():
        raise BootstrapError("this machine has no apt-get to take python3-pip-whl with")
    if debian.is_root():
        debian.install(["python3-pip-whl"])
        base = Path("/")
    else:
        TOOLS.mkdir(exist_ok=True)
        debian.unpack(["python3-pip-whl"], TOOLS / "pip", dependencies=False)
        base = TOOLS / "pip"
    found = sorted(base.glob(DEBIAN_WHEEL))
    if not found:
        raise BootstrapError("Debian's package python3-pip-whl holds no pip wheel")
    return found[-1]


def _fetched_wheel() -> Path:
    """The pinned wheel itself, from the first configured index that has it, its hash checked before use."""
    text = PINNED.read_text(encoding="utf-8")
    version = re.search(r"^pip==(\S+)", text, re.MULTILINE)
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    if version is None or not hashes:
        raise BootstrapError(f"{PINNED.relative_to(ROOT)} pins no pip")
    name = f"pip-{version[1]}-py3-none-any.whl"
    settings = _pip_settings()
    indexes = f"{settings.get('index-url', '')} {settings.get('extra-index-url', '')}".split()
    if not indexes:
        raise BootstrapError("pip's configuration names no package index")
    context = ssl.create_default_context(cafile=settings.get("cert"))
    problem = f"no configured package index has {name}"
    for index in indexes:
        page_url = f"{index.rstrip('/')}/pip/{'index.html' if index.startswith('file:') else ''}"
        try:
            links = _Links(_get(page_url, context).decode("utf-8", "replace")).hrefs
            link = next((href for href in links if urllib.parse.urlsplit(href).path.endswith(f"/{name}")), None)
            if link is None:
                continue
            body = _get(urllib.parse.urljoin(page_url, link), context)
        except (OSError, ValueError) as error:  # URLError is an OSError
            problem = f"a configured package index could not be read: {error}"
            continue
        if hashlib.sha256(body).hexdigest() not in hashes:
            problem = f"a configured package index has a {name} whose hash is not the pinned one"
            continue
        wheel = TOOLS / "pip" / name
        wheel.parent.mkdir(parents=True, exist_ok=True)
        wheel.write_bytes(body)
        return wheel
    raise BootstrapError(problem)


class _Links(html.parser.HTMLParser):
    """The link targets of a package index page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for key, value in attrs if key == "href" and value]


def _get(url: str, context: ssl.SSLContext) -> bytes:
    """The body behind a URL; a user and password written into it are sent as basic authentication."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"https", "http", "file"}:
        raise ValueError("its address is not https, http or file")
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))  # noqa: S310, scheme checked
    if at:
        token = b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT_S, context=context) as answer:  # noqa: S310
        body = answer.read()
    assert isinstance(body, bytes)
    return body


def _pip_settings() -> dict[str, str]:
    """What pip's files and environment say about the index, weakest first as pip reads them."""
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    named = os.environ.get("PIP_CONFIG_FILE")
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip/pip.conf", config_home / "pip/pip.conf"]
    settings: dict[str, str] = {}
    for path in [*files, *([Path(named)] if named else [])]:
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, UnicodeDecodeError):
            parser.read(path, encoding="utf-8")
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    for key in ("index-url", "extra-index-url", "cert"):
        value = os.environ.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            settings[key] = value
    return settings


def _install_pinned(pip: Sequence[str]) -> None:
    options = ["--disable-pip-version-check", "--no-input", "--quiet", "--require-hashes", "--only-binary", ":all:"]
    done = subprocess.run(
        [*pip, "install", *options, "--requirement", str(PINNED)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BootstrapError(
            f"the pinned pip could not be installed: {lines[-1].strip() if lines else 'pip said nothing'}"
        )


def _runs(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
