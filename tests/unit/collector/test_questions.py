# SPDX-License-Identifier: Apache-2.0
"""What reports ask of nodes and of parts of the fleet: the same from the files as from the rows, added up by hand."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import HOUR_MS
from gpuledger.states import State
from gpuledger_collector.ledger import Finding, HolderRow, HourRow, Ledger
from gpuledger_collector.ledger_files import LedgerFiles
from gpuledger_collector.node_figures import Scope
from tests.fakes.ledger import FakeLedger
from tests.fakes.readings import MONDAY_MS
from tests.unit.collector.test_ledger_files import Annotations, all_hours, ledger_of, places, row, tables

__all__ = ["places"]  # a fixture

moderate = st.dictionaries(st.sampled_from(list(State)), st.integers(0, 2**40), max_size=4)


@given(
    hours=tables,
    states=st.lists(moderate, min_size=8, max_size=8),
    sites=st.sampled_from([(), ("a",), ("a", "b")]),
    models=st.sampled_from([(), ("a",), ("",)]),
    gpus=st.sampled_from([None, ("GPU-1",), ()]),
)
def test_what_is_asked_of_nodes_is_summed_as_from_the_rows_in_every_scope(
    places: Iterable[Path],
    hours: tuple[HourRow, ...],
    states: list[dict[State, int]],
    sites: tuple[str, ...],
    models: tuple[str, ...],
    gpus: tuple[str, ...] | None,
) -> None:
    # Sums of a hundred thousand GPUs fit in 64 bits; those of the other strategy's amounts do not.
    given = zip(hours, states, strict=False)
    rows = [replace(row, account=replace(row.account, state_slice_ms=state)) for row, state in given]
    files = LedgerFiles(next(iter(places)), Annotations())
    files.write_hours(ledger_of(tuple(rows)), all_hours(rows))
    scope = Scope(sites=sites, models=models, gpus=gpus)
    found, expected = files.within(scope), FakeLedger(rows).within(scope)
    span = (MONDAY_MS + 5 * HOUR_MS, MONDAY_MS + 50 * HOUR_MS)
    assert found.node_times(*span) == expected.node_times(*span)
    assert found.node_days(*span) == expected.node_days(*span)
    assert found.down_gpus(*span) == expected.down_gpus(*span)
    sums, wanted = found.report_sums(*span), expected.report_sums(*span)
    for name in ("whole", "places", "sites", "days"):
        assert getattr(sums, name) == getattr(wanted, name)
    for name in ("hours", "place_hours"):
        assert [replace(group, gpus=0) for group in getattr(sums, name)] == [
            replace(group, gpus=0) for group in getattr(wanted, name)
        ]
    assert found.sum_by(["site", "model"], *span) == expected.sum_by(["site", "model"], *span)
    assert found.digest(*span) == files.digest(*span)


def test_holders_and_findings_of_a_scope_are_those_of_its_gpus(tmp_path: Path) -> None:
    one, other = row(0, gpu="GPU-1", node="n1"), replace(row(0, gpu="GPU-2", node="n2"), site="s2")
    holder = HolderRow(
        hour_ms=one.hour_ms, gpu="GPU-1", node="n1", workload="w", user=None, busy_slice_ms=7, held_slice_ms=0,
        memory_bytes_max=None,
    )  # fmt: skip
    holders = (holder, replace(holder, gpu="GPU-2", node="n2"))
    found = tuple(Finding(at_ms=one.hour_ms, kind="k", subject=name, text="t") for name in ("GPU-2", "n1", "x"))
    files = LedgerFiles(tmp_path, Annotations())
    files.write_hours(Ledger(hours=(one, other), holders=holders, findings=found), {one.hour_ms})
    scope = files.within(Scope(sites=("s2",)))
    span = (one.hour_ms, one.hour_ms + HOUR_MS)
    assert [holding.node for holding in scope.holdings(*span)] == ["n2"]
    assert [finding.subject for finding in scope.findings(*span)] == ["GPU-2"]
    assert (scope.queues(*span), scope.commerce(*span)) == ([], [])
