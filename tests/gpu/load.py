# SPDX-License-Identifier: Apache-2.0
"""The load as a program: `python -m tests.gpu.load DUTY MEMORY_MIB`.

Says "ready NAME" when the GPU is set up; works until its input ends; then says {"on_s": ..., "elapsed_s": ...}.
"""

import json
import sys
import threading
import time

from tests.gpu.cuda import Engine, open_engine
from tests.gpu.plan import is_behind

PAUSE_S = 0.0005


def keep_duty(engine: Engine, duty: float, stop: threading.Event) -> tuple[int, int]:
    """Work for `duty` of the time until `stop`; returns for how many nanoseconds, and of how many."""
    start_ns = now_ns = time.monotonic_ns()
    on_ns = 0
    while not stop.is_set():
        if is_behind(on_ns, now_ns - start_ns, duty):
            engine.burn()
            before_ns, now_ns = now_ns, time.monotonic_ns()
            on_ns += now_ns - before_ns
        else:
            stop.wait(PAUSE_S if duty > 0 else 0.1)
            now_ns = time.monotonic_ns()
    return on_ns, max(now_ns - start_ns, 1)


def main(duty: float, memory_mib: int) -> None:
    """Run the load."""
    name, engine = open_engine()
    if memory_mib > 0:
        engine.hold(memory_mib << 20)
    for _ in range(20):
        engine.burn()
    stop = threading.Event()
    threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    _say(f"ready {name}")
    on_ns, elapsed_ns = keep_duty(engine, duty, stop)
    _say(json.dumps({"on_s": on_ns / 1e9, "elapsed_s": elapsed_ns / 1e9}))


def _wait_for_end(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
