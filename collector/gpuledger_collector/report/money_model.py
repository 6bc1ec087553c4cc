# SPDX-License-Identifier: Apache-2.0
"""Money and energy of idle time as data of the report: decimals rounded half up once, at the end.

Amounts of money are to the cent, kilowatt-hours to the thousandth. A figure without one of its inputs is None, and
`missing` names the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from gpuledger_collector.finance.amounts import Missing


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyOf:
    """One site's figures, or those of all (`site` None)."""

    site: str | None
    lost_slice_ms: int
    """Free and standby time."""
    foregone_low: Decimal | None
    foregone_high: Decimal | None
    idle_kwh: Decimal | None
    """What GPUs drew while they did no work, by their energy counters."""
    idle_site_kwh: Decimal | None
    """The same with the site's overhead (PUE)."""
    idle_energy_cost: Decimal | None
    full_revenue: Decimal | None
    fixed_costs: Decimal | None
    break_even_tenths: int | None
    """Tenths of a percent of installed time, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOff:
    """The arithmetic of switching off one site's nodes that were free throughout: what it saves, what that is worth."""

    site: str
    nodes: int
    gpus: int
    free_slice_ms: int
    site_kwh: Decimal
    saved: Decimal
    price_of_gpu_hour: Decimal
    as_much_slice_ms: int
    """GPU time whose sale brings as much as switching off saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """All of it, in the price book's currency; `book_digest` is SHA-256 of the book's file."""

    currency: str
    book_digest: str
    total: MoneyOf
    sites: tuple[MoneyOf, ...]
    switch_off: tuple[SwitchOff, ...]
    sources: tuple[str, ...]
    """Where the prices in force come from, as the book says."""
    missing: tuple[Missing, ...]
