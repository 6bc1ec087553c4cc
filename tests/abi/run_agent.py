# SPDX-License-Identifier: Apache-2.0
"""Runs the real agent before the scripted library: python -m tests.abi.run_agent STATE_DIR [--interval S] [--for S].

With GPULEDGER_ABI_CLOCK set the agent's clock is the shared virtual one, and it ends where the script's time ends;
without, it is the machine's, and `--for` ends it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from gpuledger import logs
from gpuledger.clock import Clock, SystemClock
from gpuledger_agent import program
from gpuledger_agent.config import AgentConfig
from gpuledger_agent.nvml import Nvml
from gpuledger_agent.processes import SystemProcessTable
from tests.fakes.shared_clock import SharedClock


def main() -> None:
    """Parse the command line and run until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state_dir", type=Path)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--for", dest="duration_s", type=float)
    options = parser.parse_args()
    logs.configure("info")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if options.duration_s is not None:
        timer = threading.Timer(options.duration_s, stop.set)
        timer.daemon = True
        timer.start()
    path = os.environ.get("GPULEDGER_ABI_CLOCK")
    clock: Clock = SystemClock() if path is None else SharedClock(Path(path))
    config = AgentConfig(
        listen=options.listen, state_dir=options.state_dir, node_name="scripted", interval_seconds=options.interval
    )
    parts = program.Parts(clock=clock, nvml=Nvml(), processes=SystemProcessTable(), stop=stop)
    try:
        program.run(config, parts)
    except program.DevicesGone as exc:
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
