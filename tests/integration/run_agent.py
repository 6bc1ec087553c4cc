# SPDX-License-Identifier: Apache-2.0
"""The real agent on a SIMULATED node that plays the past fast, sealing each cell as a live one does.

`python -m tests.integration.run_agent STATE_DIR POSIX_SECONDS INTERVAL`; other settings come from the environment. The
command `gpuledger agent run --simulate` lets an hour of a simulated past share one fsync, which is not what is to be
killed or starved of disk here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace

from gpuledger import logs
from gpuledger_agent import config as agent_config
from gpuledger_agent import program, simulate


def main() -> None:
    """Run until SIGTERM."""
    state_dir, from_s, interval_s = sys.argv[1:]
    logs.configure("info")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop.set).start())
    flags = {"state_dir": state_dir, "node_name": "simulated", "interval_seconds": float(interval_s)}
    config = agent_config.load(None, {"GPULEDGER_AGENT_LISTEN": "127.0.0.1:0", **os.environ}, flags).value
    until_s = os.environ.get("UNTIL_S")
    parts = simulate.parts("serving", int(from_s), None if until_s is None else int(until_s), stop)
    program.run(config, replace(parts, is_catching_up=lambda: False))


if __name__ == "__main__":
    main()
