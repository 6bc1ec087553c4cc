# SPDX-License-Identifier: Apache-2.0
"""The agent and its peers beside the exact truth of a script, in real time. Writes docs/accuracy.md.

`make bench-accuracy`; ends with 1 where a bound is broken or nothing could be measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.abi.build import ROOT, BuildError
from tests.perf.accuracy_table import Measured, faults, render
from tests.perf.cases import LOST_TO_MS
from tests.perf.comparison import BY_PROMETHEUS, in_virtual_time, lines_of, open_journal, unseen_lines
from tests.perf.page import machine
from tests.perf.peers import GPUCM, GUA, NVITOP
from tests.perf.programs import BenchError
from tests.perf.scene import install, label, listen, play, playing

PAGE = ROOT / "docs" / "accuracy.md"
SECONDS = 600
SECONDS_MIN = LOST_TO_MS // 1_000 + 30


def measure(folder: Path, seconds: float) -> Measured:
    """Run everything; raises BenchError."""
    peers, missing = install()
    with playing(folder, seconds) as (scene, site, stack):
        prometheus = play(scene, site, stack, peers)
        heard = listen(scene, prometheus)
        for agent in scene.agents.values():
            agent.program.end()
        return Measured(
            seconds=float(scene.window.length_s),
            lines=lines_of(scene, heard, open_journal(scene.state_dir("seen"), scene.time, scene.node.script)),
            unseen=list(unseen_lines(scene, heard)),
            virtual=in_virtual_time(scene),
            peers=[label(peer) for peer in (NVITOP, GUA, GPUCM) if peer.name in peers],
            also=[BY_PROMETHEUS],
            missing=missing,
            machine=f"{machine()}; Prometheus {prometheus.version}",
        )


def main() -> int:
    """Measure, write the page, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long to measure, {SECONDS_MIN} at least")
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write the page")
    options = parser.parse_args()
    if options.seconds < SECONDS_MIN:
        parser.error(f"--seconds: {options.seconds:g} is less than {SECONDS_MIN}")
    try:
        with tempfile.TemporaryDirectory(prefix="gpuledger-bench-") as folder:
            measured = measure(Path(folder), options.seconds)
    except (BenchError, BuildError) as exc:
        sys.stderr.write(f"bench-accuracy: {exc}.\n")
        return 1
    options.out.write_text(render(measured), encoding="utf-8")
    found = faults(measured)
    for fault in found:
        sys.stderr.write(f"bench-accuracy: {fault}.\n")
    sys.stdout.write(f"{options.out} is written; {len(found)} bounds are broken.\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
