# SPDX-License-Identifier: Apache-2.0
"""gpuledger workload list|show|label|unlabel: asked and answered in words."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuledger.cells import CELL_MS
from gpuledger.cli import main
from gpuledger.hints import Hints
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.entries import LabelEntry
from gpuledger_collector.label_book import ask
from gpuledger_collector.workload_rows import labels
from tests.fakes.storage import Storage
from tests.unit.collector.test_workload_book import HintingNode, run

SERVING = Hints(rules=("vllm-serve",), listens=True, table="1")
UNKNOWN = Hints(table="1")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    with Storage(tmp_path / "state", accept_simulated=True) as storage:
        for number, told in enumerate((SERVING, UNKNOWN)):
            node = HintingNode(name=f"node-{number}", gpus=2, simulated=True)
            run(node, [told] * 4, f"slurm:c1/{number}")
            storage.take(node)
        storage.refresh()
    return tmp_path / "state"


def command(state_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["workload", *arguments, "--state-dir", str(state_dir)])


def test_the_list_says_what_each_is_for(state_dir: Path) -> None:
    done = command(state_dir, "list", "--days", "3650")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == "SIMULATED"
    assert lines[2].split() == ["0.7", "2", "inference", "slurm:c1/0"]
    assert lines[3].split() == ["0.7", "2", "unclassified", "slurm:c1/1"]
    only = json.loads(command(state_dir, "list", "--days", "3650", "--kind", "inference", "--json").output)
    assert [one["workload"] for one in only["workloads"]] == ["slurm:c1/0"]


def test_why_a_workload_is_said_to_be_inference_is_answered_in_words(state_dir: Path) -> None:
    done = command(state_dir, "show", "slurm:c1/0")
    assert done.exit_code == 0
    assert done.output.startswith("SIMULATED: slurm:c1/0: inference, p 0.95")
    assert "+3.00 inference: rule vllm-serve [process]" in done.output
    assert "+1.00 inference: a process of the engine waits for connections [process]" in done.output
    assert "while taken for inference: 0.5 GPU-hours busy, 0.0 held" in done.output
    assert "2026-11-02T00:10:00Z inference, from readings" in done.output
    found = json.loads(command(state_dir, "show", "slurm:c1/0", "--json").output)
    assert found["kind"] == "inference"
    assert sum(one["busy_slice_ms"] for one in found["times"]) == found["busy_slice_ms"] == 2 * 4 * CELL_MS * 7


def test_a_label_is_logged_counts_at_once_and_can_be_taken_away(state_dir: Path) -> None:
    done = command(state_dir, "label", "slurm:c1/1", "training")
    assert (done.exit_code, done.output.splitlines()[-1][:22]) == (0, "slurm:c1/1: training, ")
    with Storage(state_dir, accept_simulated=True) as storage:
        entry = storage.logged()[-2]
        assert isinstance(entry, LabelEntry)
        assert (entry.workload, entry.kind) == ("slurm:c1/1", "training")
        storage.keeper.rebuild()
        assert labels(storage.store) == {"slurm:c1/1": Kind.TRAINING}
    assert "labelled training" in command(state_dir, "show", "slurm:c1/1").output
    done = command(state_dir, "unlabel", "slurm:c1/1")
    assert done.output.splitlines()[-1].startswith("slurm:c1/1: unclassified")


def test_a_label_beside_a_running_collector_is_taken_in_with_its_next_refresh(state_dir: Path) -> None:
    with Storage(state_dir, accept_simulated=True) as storage:
        done = command(state_dir, "label", "slurm:c1/1", "other")
        assert done.exit_code == 0
        assert "next refresh" in done.output
        assert labels(storage.store) == {}
        storage.refresh()
        assert labels(storage.store) == {"slurm:c1/1": Kind.OTHER}
        assert list((state_dir / "labels").iterdir()) == []


def test_a_request_that_cannot_be_read_stops_nothing(state_dir: Path) -> None:
    with Storage(state_dir, accept_simulated=True) as storage:
        path = ask(state_dir, "slurm:c1/1", "other", 1)
        path.with_name("0.json").write_text("{")
        path.with_name("1.json").write_text('{"workload": "slurm:c1/0", "kind": "nonsense"}')
        storage.refresh()
        assert labels(storage.store) == {"slurm:c1/1": Kind.OTHER}


def test_a_workload_that_is_not_there_is_said_so(state_dir: Path) -> None:
    for arguments in (("show", "slurm:c1/9"), ("label", "slurm:c1/9", "training")):
        done = command(state_dir, *arguments)
        assert done.exit_code == 1
        assert "there is no workload 'slurm:c1/9'" in done.output
    assert not (state_dir / "labels").exists()
