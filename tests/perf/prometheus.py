# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus that scrapes what a benchmark runs, as it comes from Debian (tools/parts.py)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.parts import PACKAGES, find_part
from tests.perf.programs import PATIENCE_S, BenchError, Metered, Program, Site, free_port, wait_until_listening

SCRAPE_EVERY_S = 15

Series = dict[str, list[tuple[Fraction, Fraction]]]
"""By UUID ("" without): (scrape time in POSIX seconds, value)."""


class Prometheus:
    """Prometheus with one job for each target; every answer is by the label `uuid`."""

    def __init__(self, folder: Path, targets: Mapping[str, Metered], site: Site) -> None:
        command = find_part("prometheus")
        if command is None:
            raise BenchError(f"prometheus is missing: install Debian's package {PACKAGES['prometheus']}")
        folder.mkdir(exist_ok=True)
        (folder / "prometheus.yml").write_text(_configuration(targets, site), encoding="utf-8")
        said = subprocess.run([str(command), "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"version (\S+)", said.stdout + said.stderr)
        self.version = "?" if found is None else found[1].partition("+")[0]
        port = free_port()
        options = (f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}")
        self.program = Program(
            "prometheus",
            [str(command), f"--config.file={folder / 'prometheus.yml'}", *options],
            folder / "log",
            os.environ,
        )
        self._url = f"http://127.0.0.1:{port}/api/v1/query"
        wait_until_listening(self.program, r"(Server is ready)")

    def values(self, query: str, at_s: float) -> dict[str, Fraction]:
        """Return an instant query's values, NaN left out."""
        found = {
            entry["metric"].get("uuid", ""): entry["value"][1]
            for entry in self._ask(query, at_s)
            if entry["value"][1] != "NaN"
        }
        return {uuid: Fraction(value) for uuid, value in found.items()}

    def series(self, query: str, at_s: float) -> Series:
        """Return a range selector's samples."""
        return {
            entry["metric"].get("uuid", ""): [
                (Fraction(str(time_s)), Fraction(value)) for time_s, value in entry["values"]
            ]
            for entry in self._ask(query, at_s)
        }

    def _ask(self, query: str, at_s: float) -> list[Any]:
        question = urllib.parse.urlencode({"query": query, "time": f"{at_s:.3f}"})
        with urllib.request.urlopen(f"{self._url}?{question}", timeout=PATIENCE_S) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found


def _configuration(targets: Mapping[str, Metered], site: Site) -> str:
    """JSON is YAML."""
    jobs = []
    for name, metered in targets.items():
        scheme, _, rest = metered.endpoint.url.partition("://")
        job: dict[str, Any] = {
            "job_name": name,
            "scheme": scheme,
            "static_configs": [{"targets": [rest.partition("/")[0]]}],
        }
        if scheme == "https":
            job["tls_config"] = {"ca_file": str(site.authority.ca)}
            job["authorization"] = {"credentials": site.token}
        jobs.append(job)
    return json.dumps({"global": {"scrape_interval": f"{SCRAPE_EVERY_S}s"}, "scrape_configs": jobs})
