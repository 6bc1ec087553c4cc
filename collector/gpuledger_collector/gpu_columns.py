# SPDX-License-Identifier: Apache-2.0
"""Accounts of every GPU of a fleet as columns of integers: an object for each would be dear at 100,000. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

from gpuledger.accounting import Account
from gpuledger_collector.columns import STATES

NAMES = (*STATES, "declared_uncovered_slice_ms")
"""The columns beside the GPU's name, in order."""
_ABSENT = -1
"""Stands for null: no time is negative."""


class GpuColumns:
    """Fulfils figures.GpuAccounts with one row a GPU, each its name and the columns of NAMES."""

    def __init__(self, rows: Iterable[Sequence[object]] = ()) -> None:
        self._rows: dict[str, int] = {}
        self._columns = tuple(array("q") for _ in NAMES)
        for gpu, *amounts in rows:
            self._rows[str(gpu)] = len(self._rows)
            for column, amount in zip(self._columns, amounts, strict=True):
                column.append(amount if isinstance(amount, int) else _ABSENT)

    def of(self, gpus: Iterable[str]) -> Mapping[str, Account]:
        """Return the accounts of those that have any time; only states and what was declared are in them."""
        return {gpu: self._account(self._rows[gpu]) for gpu in gpus if gpu in self._rows}

    def _account(self, row: int) -> Account:
        *states, declared = (column[row] for column in self._columns)
        return Account(
            state_slice_ms={
                state: amount for state, amount in zip(STATES.values(), states, strict=True) if amount != _ABSENT
            },
            declared_uncovered_slice_ms=max(0, declared),
        )
