# SPDX-License-Identifier: Apache-2.0
"""A sheet of amounts as somebody would keep it in a spreadsheet: one line an hour, prices looked up by eye.

It knows the price book of tests/unit/test_finance.py by heart and shares no code with what it checks.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, getcontext

getcontext().prec = 60
OLD, NEW = Decimal(180_000), Decimal(75_000)
TARIFF_BY_CLOCK = (
    ["0.31"] * 7 + ["0.62"] + ["1.02"] * 4 + ["0.62"] * 5 + ["1.02"] * 4 + ["0.62"] * 2 + ["0.31"]
)  # 0:00 to 23:00 in Shanghai


class Sheet:
    """Hours of site bj1, counted from Monday 2026-11-16 00:00 UTC."""

    def __init__(self) -> None:
        self._lines: list[tuple[Decimal, Decimal]] = []

    def enter(self, hour_of_week: int, *, free: int, joules: int) -> None:
        """Enter free GPU-minutes and the joules drawn while free."""
        shanghai = hour_of_week + 8  # hours since Monday 00:00 there
        server_month = OLD if shanghai < 48 else NEW
        revenue = Decimal(free) * server_month / (60 * 8 * 730)
        power = Decimal(joules) * Decimal("1.3") * Decimal(TARIFF_BY_CLOCK[shanghai % 24]) / 3_600_000
        self._lines.append((revenue, power))

    def foregone(self) -> Decimal:
        """Return the sum of the first column, to the cent."""
        return sum((line[0] for line in self._lines), Decimal(0)).quantize(Decimal("0.01"), ROUND_HALF_UP)

    def energy_cost(self) -> Decimal:
        """Return the sum of the second column, to the cent."""
        return sum((line[1] for line in self._lines), Decimal(0)).quantize(Decimal("0.01"), ROUND_HALF_UP)
