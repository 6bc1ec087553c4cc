# SPDX-License-Identifier: Apache-2.0
"""What schedulers were told reaches verdicts: partitions of jobs, and what made pods."""

import re
from pathlib import Path

from gpuledger.cells import CELL_MS
from gpuledger_collector.allotment import AllotmentRow
from gpuledger_collector.beside import Beside
from gpuledger_collector.classify.declared import DeclaredRule
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.workload_book import WorkloadBook
from tests.fakes.readings import MONDAY_MS
from tests.fakes.signs import NOBODY_KNOWS, RULES, hours
from tests.fakes.storage import Storage

PARTITION = DeclaredRule(
    id="prod", fact="partition", pattern=re.compile("inference-.*"), kind=Kind.INFERENCE, weight=4.0
)
NAMES = {"a" * 64: "slurm:c1/7", "b" * 64: "7", "c" * 64: "pod:ns/chat-0/main", "d" * 64: "pod:ns/chat-1/main"}
NAMES |= {"e" * 64: "chat-0", "f" * 64: "chat-1"}


def allotment(job: str, partition: str) -> AllotmentRow:
    return AllotmentRow(
        hour_ms=MONDAY_MS,
        cluster="c1",
        site="site",
        node="node-1",
        job=job,
        user=None,
        account=None,
        partition=partition,
        gpus=1,
        slice_ms=CELL_MS,
        busy_slice_ms=0,
        held_slice_ms=0,
        reserved_slice_ms=0,
        untold_slice_ms=0,
    )


def book_of(storage: Storage) -> WorkloadBook:
    storage.store.put_besides([Beside(openings=NAMES)])
    return WorkloadBook(storage.store, RULES, (PARTITION,))


def kinds(storage: Storage) -> dict[str, str]:
    return dict(storage.store.rows("SELECT id, kind FROM workload"))


def test_a_job_in_a_partition_that_the_site_has_a_rule_for_is_what_it_says(storage: Storage) -> None:
    signs = hours(*[NOBODY_KNOWS] * 4, workload="a" * 64)
    book_of(storage).take([MONDAY_MS], signs, [allotment("b" * 64, "inference-h100")])
    assert kinds(storage) == {"slurm:c1/7": "inference"}


def test_pods_of_one_owner_are_one_workload_also_when_the_scheduler_is_not_heard(tmp_path: Path) -> None:
    with Storage(tmp_path) as storage:
        signs = [one for digest in ("c", "d") for one in hours(*[NOBODY_KNOWS] * 14, workload=digest * 64)]
        first, second = MONDAY_MS, MONDAY_MS + 12 * CELL_MS
        told = [allotment("e" * 64, "Deployment/chat"), allotment("f" * 64, "Deployment/chat")]
        book_of(storage).take([first], [one for one in signs if one.hour_ms == first], told)
        book_of(storage).take([second], [one for one in signs if one.hour_ms == second])
        rows = storage.store.rows("SELECT id, facts, busy_slice_ms FROM workload")
        assert [row[0] for row in rows] == ["owner:cluster/ns/Deployment/chat"]
        assert '"owner":"Deployment/chat"' in rows[0][1]
        assert rows[0][2] == 28 * CELL_MS * 7
