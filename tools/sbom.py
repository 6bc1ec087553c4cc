# SPDX-License-Identifier: Apache-2.0
"""Bills of materials, CycloneDX 1.6: what the locks bring beside gpuledger, to a node and to a collector.

Usage: python tools/sbom.py - writes dist/gpuledger-agent.cdx.json and dist/gpuledger-collector.cdx.json.

Everything is from the locks: names, versions, the hashes of the files that may be installed, and who needs whom. Of
licences it says what the packages themselves declare, where the locked version is installed beside the Python that
runs this. A component whose marker keeps it to some Pythons or systems has the marker as a property. The same locks,
packages and version give the same bytes; there is no time and no serial number in it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from gpuledger import __version__

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {"agent": "agent-kubernetes.txt", "collector": "run.txt"}
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?: *;(?P<marker>[^\\\n]*))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^    #(?: via)? +(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """One package of a lock: what may be installed of it, and who needs it."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]
    needed_by: frozenset[str]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def read_lock(text: str) -> tuple[Locked, ...]:
    """Return the packages of a lock; raises ValueError where an entry has no hash."""
    found = []
    for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", text):
        pin = _PIN.match(entry)
        if pin is None:
            continue
        hashes = tuple(sorted(_HASH.findall(entry)))
        if not hashes:
            raise ValueError(f"{pin['name']} has no hash")
        words = (re.sub(r"\[.*\]", "", word) for word in _VIA.findall(entry))
        needed_by = frozenset(word for word in words if word != "via" and word[0] != "-")
        marker = pin["marker"].strip() if pin["marker"] else None
        found.append(
            Locked(name=pin["name"], version=pin["version"], marker=marker, hashes=hashes, needed_by=needed_by)
        )
    return tuple(found)


def licence_of(package: Locked) -> dict[str, Any] | None:
    """Return what the installed package of just this version declares: an SPDX expression, else a name; or None."""
    try:
        installed = metadata.metadata(package.name)
    except metadata.PackageNotFoundError:
        return None
    if installed["Version"] != package.version:
        return None
    if "License-Expression" in installed:
        return {"expression": installed["License-Expression"]}
    names = [text.rpartition(" :: ")[2] for text in installed.get_all("Classifier") or [] if "License :: OSI" in text]
    if "License" in installed and "\n" not in installed["License"]:  # some have the whole text there
        names.append(installed["License"])
    return {"license": {"name": names[0]}} if names else None


def component(package: Locked) -> dict[str, Any]:
    """Return one package as a component."""
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "externalReferences": [
            {
                "type": "distribution",
                "url": package.purl,
                "comment": "each hash is of one file of this release that the lock lets in",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in package.hashes],
            }
        ],
    }
    licence = licence_of(package)
    if licence is not None:
        made["licenses"] = [licence]
    if package.marker is not None:
        made["properties"] = [{"name": "gpuledger:marker", "value": package.marker}]
    return made


def bill(what: str, packages: Sequence[Locked]) -> dict[str, Any]:
    """Return the bill of materials of `what`, one of LOCKS."""
    root = f"pkg:pypi/gpuledger@{__version__}"
    needs: dict[str, set[str]] = {package.purl: set() for package in packages}
    needs[root] = set()
    purls = {package.name: package.purl for package in packages}
    for package in packages:
        for name in package.needed_by:
            needs[root if name == "gpuledger" else purls[name]].add(package.purl)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "gpuledger",
                "version": __version__,
                "purl": root,
                "description": f"gpuledger, as the lock of its {what} has it",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [component(package) for package in packages],
        "dependencies": [{"ref": ref, "dependsOn": sorted(needed)} for ref, needed in sorted(needs.items())],
    }


def made(what: str) -> str:
    """Return the bill of `what` as text."""
    packages = read_lock((ROOT / "requirements" / LOCKS[what]).read_text(encoding="utf-8"))
    return json.dumps(bill(what, packages), indent=2) + "\n"


def main() -> int:
    """Write both; returns the exit status."""
    (ROOT / "dist").mkdir(exist_ok=True)
    for what in LOCKS:
        file = ROOT / "dist" / f"gpuledger-{what}.cdx.json"
        text = made(what)
        file.write_text(text, encoding="utf-8")
        print(f"{file.relative_to(ROOT)}: {len(json.loads(text)['components'])} components")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
