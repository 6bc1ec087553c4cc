# SPDX-License-Identifier: Apache-2.0
"""A collector's storage that is killed again and again: `python crashing_collector.py STATE_DIR ROUNDS SEED`.

Each round a child opens the state directory as the program does, takes answers in and refreshes the ledger, and says on
a pipe what it acknowledged; after a random moment it is killed with SIGKILL. Prints one line per acknowledged reading.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from gpuledger.cells import CELL_MS
from gpuledger.states import State
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage

NODES = 3
CELLS = 800
LIFE_SECONDS_MAX = 0.12


def fleet() -> list[FakeNode]:
    nodes = [FakeNode(name=f"node-{number}", gpus=2) for number in range(NODES)]
    for node in nodes:
        node.seal_cells(MONDAY_MS, CELLS, {State.BUSY: 100_000, State.HELD: 50_000})
    return nodes


def now_ms() -> int:
    return MONDAY_MS + CELLS * CELL_MS


def live(directory: Path, nodes: list[FakeNode], rng: random.Random, pipe: int) -> None:
    """Take readings in until killed."""
    with Storage(directory) as storage:
        storage.now_ms = now_ms()
        while True:
            node = rng.choice(nodes)
            first = storage.store.cursor(node.node_id, node.journal)
            some = node.sealed[first : first + rng.randrange(1, 6)]
            storage.take(node, some, place=("fra1", "train", "h100"))
            os.write(pipe, "".join(f"{sealed.digest}\n" for sealed in some).encode())
            if rng.random() < 0.1:
                storage.refresh()


def main(directory: Path, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    nodes = fleet()
    for _ in range(rounds):
        reader, writer = os.pipe()
        child_seed = rng.random()
        child = os.fork()
        if child == 0:
            try:
                live(directory, nodes, random.Random(child_seed), writer)
            finally:
                os._exit(70)  # only an error ends a life by itself
        os.close(writer)
        time.sleep(rng.random() * LIFE_SECONDS_MAX)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit("a life ended by itself: see its error above")
        with os.fdopen(reader) as acknowledged:
            sys.stdout.write(acknowledged.read())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
