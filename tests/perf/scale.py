# SPDX-License-Identifier: Apache-2.0
"""A collector for a hundred thousand GPUs: what it costs, and how that grows. Writes docs/scale.md; `make bench-scale`.

Three parts, each kept under build/scale until it is measured again. Ends with 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.abi.build import ROOT
from tests.perf.page import machine
from tests.perf.programs import BenchError
from tests.perf.scale_table import END, Asked, Measured, Peer, Reported, Steady, faults, render

PAGE = ROOT / "docs" / "scale.md"
KEPT = ROOT / "build" / "scale"
PARTS = ("polling", "report", "query")


def measure_polling(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from tests.perf.scale_steady import measure  # noqa: PLC0415 - parts need not bring each other's imports

    found = measure(folder, options.nodes, options.peer_nodes, cells=options.cells, start_s=options.start_seconds)
    return {"steady": [asdict(one) for one in found.steady], "peer": None if found.peer is None else asdict(found.peer)}


def measure_reports(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    from tests.perf.scale_report import report, write_ledger  # noqa: PLC0415 - as above

    found = []
    for gpus in options.report_gpus:
        state_dir = folder / str(gpus)
        write_ledger(state_dir, gpus)
        found.append(asdict(report(state_dir, folder / "reports", gpus)))
        shutil.rmtree(state_dir)
    return found


def measure_queries(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    from tests.perf.scale_query import ours, prometheus, victoria  # noqa: PLC0415 - as above

    return [
        asdict(ours(folder / "ours", options.query_gpus)),
        asdict(prometheus(folder / "prometheus", options.prometheus_series)),
        asdict(victoria(folder / "victoria", options.victoria_series)),
    ]


def read(kept: Path) -> Measured:
    """Return what the parts left."""
    polling, reported, asked = (_read(kept / f"{part}.json") for part in PARTS)
    return Measured(
        machine=machine(),
        steady=[Steady(**one) for one in (polling or {}).get("steady", [])],
        peer=Peer(**polling["peer"]) if polling and polling["peer"] else None,
        reported=[Reported(**one) for one in reported or []],
        asked=[Asked(**one) for one in asked or []],
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(page: Path, generated: str) -> None:
    """Put the generated part in its place; what a person wrote below it stays."""
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    _, found, rest = before.partition(END)
    page.write_text(generated + (rest if found else ""), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that are asked for, write the page, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--nodes", type=int, nargs="+", default=[125, 1_250, 12_500], help="fleets to poll")
    parser.add_argument("--peer-nodes", type=int, default=250, help="fleet that Prometheus scrapes, too")
    parser.add_argument("--cells", type=int, default=2, help="cells of 300 s to measure")
    parser.add_argument("--start-seconds", type=float, default=180, help="time to catch up before that, at most")
    parser.add_argument("--report-gpus", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--query-gpus", type=int, default=2_000)
    parser.add_argument("--prometheus-series", type=int, default=100, help="gauges loaded into Prometheus")
    parser.add_argument("--victoria-series", type=int, default=500, help="gauges loaded into VictoriaMetrics")
    parser.add_argument("--kept", type=Path, default=KEPT, help="where figures are kept")
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write the page")
    options = parser.parse_args(arguments)
    measures = {"polling": measure_polling, "report": measure_reports, "query": measure_queries}
    options.kept.mkdir(parents=True, exist_ok=True)
    try:
        for part in options.parts:
            with tempfile.TemporaryDirectory(prefix="gpuledger-scale-") as folder:
                found = measures[part](Path(folder), options)
            (options.kept / f"{part}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    except BenchError as exc:
        sys.stderr.write(f"bench-scale: {exc}.\n")
        return 1
    measured = read(options.kept)
    write(options.out, render(measured))
    problems = faults(measured)
    for problem in problems:
        sys.stderr.write(f"bench-scale: {problem}.\n")
    sys.stdout.write(f"{options.out} is written; {len(problems)} bounds are broken.\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
