# SPDX-License-Identifier: Apache-2.0
"""Verdicts as the page and the interface tell them: by the digests that nodes gave, in words, the largest only."""

from pathlib import Path

import pytest

from gpuledger_collector import workload_verdicts
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.workload_verdicts import Verdicts
from tests.fakes.storage import Storage
from tests.unit.collector.test_workload_book import HintingNode, run
from tests.unit.collector.test_workload_cli import SERVING, UNKNOWN


def test_verdicts_are_told_by_digest_with_their_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Storage(tmp_path / "state", accept_simulated=True) as storage:
        for number, told in enumerate((SERVING, UNKNOWN)):
            node = HintingNode(name=f"node-{number}", gpus=2, simulated=True)
            run(node, [told] * 4, f"slurm:c1/{number}")
            storage.take(node)
        storage.refresh()
        extent = storage.files.extent()
        assert extent is not None
        holdings = storage.files.holdings(extent[0] - extent[0] % 3_600_000, extent[1] + 3_600_000)
        verdicts = Verdicts(storage.store, storage.workloads)
        found = verdicts.since(0)
        assert found.keys() == {holding.workload for holding in holdings}
        told_of = {one.workload: one for one in found.values()}
        serving, unknown = told_of["slurm:c1/0"], told_of["slurm:c1/1"]
        assert (serving.kind, unknown.kind) == (Kind.INFERENCE, Kind.UNCLASSIFIED)
        assert serving.sentence.startswith("inference, p 0.95")
        assert "+3.00 inference: rule vllm-serve [process]" in serving.evidence
        assert unknown.evidence[0].startswith("no evidence")
        assert verdicts.since(2**62) == {}
        monkeypatch.setattr(workload_verdicts, "VERDICTS_MAX", 1)
        assert {one.workload for one in verdicts.since(0).values()} == {"slurm:c1/0"}
