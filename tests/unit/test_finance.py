# SPDX-License-Identifier: Apache-2.0
"""Money and energy: amounts to the cent against a sheet of their own, prices of the day, what is missing is named."""

from __future__ import annotations

from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuledger.cells import DAY_MS, HOUR_MS
from gpuledger.errors import ConfigurationError
from gpuledger.states import State
from gpuledger_collector.finance.amounts import GPU_HOUR_SLICE_MS, Missing, PricedHour, fixed_costs, site_money
from gpuledger_collector.finance.book import PriceBook
from gpuledger_collector.finance.files import load_prices
from gpuledger_collector.report.money import cents
from tests.fakes.ledger_rows import H100, MONDAY_MS
from tests.fakes.price_sheet import Sheet

BOOK = """
currency = "CNY"

[[price]]
class = "H100"
unit = "server_month"
gpus = 8
amount = 180_000
currency = "CNY"
to = 2026-11-18
source = "list of 2024"

[[price]]
class = "H100"
unit = "server_month"
gpus = 8
amount = 75_000
currency = "CNY"
from = 2026-11-18
source = "list of 2026"

[[price]]
class = "H100"
site = "fra1"
unit = "gpu_hour"
amount = 2.49
currency = "EUR"
source = "contract"

[[exchange]]
currency = "EUR"
rate = 7.8123
source = "bank"

[[site]]
name = "bj1"
time_zone = "Asia/Shanghai"

[[pue]]
site = "bj1"
value = 1.3
source = "meter"

[[tariff]]
site = "bj1"
currency = "CNY"
source = "contract of power"
bands = [
  { name = "peak", hours = "8-12, 17-21", per_kwh = 1.02 },
  { name = "valley", hours = "23-7", per_kwh = 0.31 },
  { name = "flat", hours = "7-8, 12-17, 21-23", per_kwh = 0.62 },
]

[[fixed_cost]]
site = "bj1"
name = "rent and staff"
per_month = 30_000
currency = "CNY"
source = "accounts"

[[site]]
name = "fra1"
time_zone = "Europe/Berlin"
"""


@pytest.fixture
def book(tmp_path: Path) -> PriceBook:
    (tmp_path / "prices.toml").write_text(BOOK)
    return load_prices(tmp_path / "prices.toml")


@cache
def loaded(path: Path) -> PriceBook:
    return load_prices(path)


def hour(
    at: int, site: str, free: int, busy: int = 0, *, kilojoules: int = 0, sold: tuple[int, int] = (0, 0)
) -> PricedHour:
    """Return an hour of so many GPU-minutes free and busy, `at` hours after Monday 00:00 UTC."""
    minute = GPU_HOUR_SLICE_MS // 60
    energy = {"free": kilojoules * 1_000_000, "busy": kilojoules * 3_000_000} if kilojoules else {}
    return PricedHour(
        site=site,
        model=H100,
        hour_ms=MONDAY_MS + at * HOUR_MS,
        state_slice_ms={State.FREE: free * minute, State.BUSY: busy * minute},
        energy_mj=energy,
        sold_free_low_slice_ms=sold[0] * minute,
        sold_free_high_slice_ms=sold[1] * minute,
    )


hours = st.lists(
    st.builds(
        hour,
        st.integers(0, 167),
        st.just("bj1"),
        st.integers(0, 4_000_000),
        st.integers(0, 4_000_000),
        kilojoules=st.integers(1, 900_000_000),
    ),
    min_size=1,
    max_size=12,
)


@given(hours)
def test_amounts_are_those_of_an_independent_sheet_to_the_cent(
    tmp_path_factory: pytest.TempPathFactory, found: list[PricedHour]
) -> None:
    path = tmp_path_factory.getbasetemp() / "sheet.toml"
    if not path.exists():
        path.write_text(BOOK)
    (money,) = site_money(loaded(path), found, MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    sheet = Sheet()
    for row in found:
        minutes = GPU_HOUR_SLICE_MS // 60
        sheet.enter(
            (row.hour_ms - MONDAY_MS) // HOUR_MS,
            free=row.state_slice_ms[State.FREE] // minutes,
            joules=row.energy_mj["free"] // 1000,
        )
    assert cents(money.foregone_high) == cents(money.foregone_low) == sheet.foregone()
    assert cents(money.energy_cost) == sheet.energy_cost()


def test_the_worked_example_of_the_documents(book: PriceBook) -> None:
    # 180,000 and 75,000 yuan a month of 730 h for 8 GPUs: 30.82 and 12.84 yuan a GPU-hour. Tuesday costs the old price.
    before, after = hour(30, "bj1", 60), hour(60, "bj1", 60)
    (money,) = site_money(book, [before], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    assert cents(money.foregone_high) == Decimal("30.82")
    (money,) = site_money(book, [after], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    assert cents(money.foregone_high) == Decimal("12.84")


def test_the_price_of_a_day_is_that_of_the_sites_day_not_of_utc(book: PriceBook) -> None:
    # Tuesday 17:00 UTC is Wednesday 01:00 in Shanghai, on which the new price begins.
    for at, expected in ((39, "30.82"), (40, "12.84")):
        (money,) = site_money(book, [hour(at, "bj1", 60)], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
        assert cents(money.foregone_high) == Decimal(expected)


def test_a_price_in_another_currency_is_converted_at_the_rate_given(book: PriceBook) -> None:
    (money,) = site_money(book, [hour(0, "fra1", 60)], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    assert money.foregone_high == Fraction("2.49") * Fraction("7.8123")


def test_free_time_under_a_lease_is_never_lost(book: PriceBook) -> None:
    (money,) = site_money(book, [hour(60, "bj1", 120, sold=(60, 90))], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    price = Fraction(75_000, 730 * 8)
    assert (money.foregone_low, money.foregone_high) == (price / 2, price)


def test_held_and_reserved_time_is_in_no_amount_of_revenue(book: PriceBook) -> None:
    one = hour(60, "bj1", 0, 0)
    held = PricedHour(
        site="bj1", model=H100, hour_ms=one.hour_ms, energy_mj={},
        state_slice_ms={State.HELD: GPU_HOUR_SLICE_MS, State.RESERVED: GPU_HOUR_SLICE_MS},
    )  # fmt: skip
    (money,) = site_money(book, [held], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    assert (money.foregone_high, money.lost_slice_ms) == (Fraction(0), 0)


def test_the_tariff_is_that_of_the_local_hour(book: PriceBook) -> None:
    # 3.6 MJ free are one kWh, at PUE 1.3. Monday 01:00 UTC is 09:00 in Shanghai: peak; 16:00 UTC is midnight: valley.
    for at, per_kwh in ((1, "1.02"), (16, "0.31"), (5, "0.62")):
        (money,) = site_money(book, [hour(at, "bj1", 60, kilojoules=3600)], MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
        assert money.energy_kwh == 1
        assert money.energy_cost == Fraction("1.3") * Fraction(per_kwh)


def test_what_is_missing_is_absent_and_named_and_nothing_else_is(book: PriceBook) -> None:
    unpriced = PricedHour(
        site="nowhere", model="A100", hour_ms=MONDAY_MS, energy_mj={}, state_slice_ms={State.FREE: GPU_HOUR_SLICE_MS}
    )
    money = {row.site: row for row in site_money(book, [unpriced, hour(0, "bj1", 60)], MONDAY_MS, MONDAY_MS + DAY_MS)}
    nowhere = money["nowhere"]
    assert (nowhere.foregone_low, nowhere.energy_kwh, nowhere.fixed_costs, nowhere.break_even) == (None,) * 4
    assert nowhere.missing == (
        Missing(what="price", site="nowhere", subject="A100", first_day=date(2026, 11, 16), days=1),
        Missing(what="fixed_costs", site="nowhere"),
        Missing(what="energy", site="nowhere"),
    )
    assert money["bj1"].foregone_high is not None
    assert money["bj1"].missing == (Missing(what="energy", site="bj1"),)


def test_fixed_costs_of_a_week_are_seven_thirtieths_of_novembers(book: PriceBook) -> None:
    # Shanghai's Monday begins at 16:00 UTC on Sunday.
    start_ms = MONDAY_MS - 8 * HOUR_MS
    assert fixed_costs(book, "bj1", start_ms, start_ms + 7 * DAY_MS) == (Fraction(7000), [])
    assert fixed_costs(book, "bj1", start_ms + 12 * HOUR_MS, start_ms + DAY_MS) == (Fraction(500), [])
    assert fixed_costs(book, "fra1", start_ms, start_ms + DAY_MS) == (None, [Missing(what="fixed_costs", site="fra1")])


def test_at_break_even_the_price_of_what_is_sold_meets_costs(book: PriceBook) -> None:
    week = [hour(at, "bj1", 240, 240, kilojoules=3000) for at in range(168)]
    (money,) = site_money(book, week, MONDAY_MS, MONDAY_MS + 7 * DAY_MS)
    share = money.break_even
    assert share is not None
    assert money.full_revenue is not None
    assert money.fixed_costs is not None
    assert money.energy_cost is not None
    # Half the time was idle and drew `energy_cost`; busy time drew three times as much for an hour.
    power = 2 * money.energy_cost * (1 - share) + 6 * money.energy_cost * share
    assert share * money.full_revenue == money.fixed_costs + power


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('unit = "gpu_hour"', 'unit = "hour"'), r"prices.toml:LINE: unit: 'hour' is not one of gpu_hour"),
        (("amount = 2.49", "amount = -1"), r"prices.toml:LINE: amount: -1 is not a number from 0 on"),
        (("amount = 2.49", 'amount = "NaN"'), r"prices.toml:LINE: amount: NaN is not a number"),
        (("to = 2026-11-18\n", ""), r"class: holds on days on which that of line \d+ does"),
        (('currency = "EUR"\nrate', 'currency = "€"\nrate'), r"prices.toml:LINE: currency: '€' is not a currency"),
        (("value = 1.3", "value = 0.9"), r"prices.toml:LINE: value: 0.9 is not from 1 to 10"),
        (('"Asia/Shanghai"', '"Asia/Nowhere"'), r"prices.toml:LINE: time_zone: 'Asia/Nowhere' is not a time zone"),
        (('hours = "23-7"', 'hours = "23-6"'), r"bands: mon 6:00 is in 0 bands"),
        (('hours = "23-7"', 'hours = "22-7"'), r"bands: mon 22:00 is in 2 bands"),
        (("gpus = 8\namount = 180_000", "amount = 180_000"), r"gpus: is missing: it says of how many GPUs a server is"),
        (('site = "bj1"\nname', 'site = "bj2"\nname'), r"site: bj2 has no table \[\[site\]\]"),
        (('currency = "CNY"\n\n[[price]]', "[[price]]"), r"prices.toml:1: currency: give the book's currency"),
        (("[[pue]]", "[[peu]]"), r"prices.toml:LINE: peu: unknown key; legal keys: currency, price"),
        (('source = "bank"', ""), r"source: is missing"),
        (("rate = 7.8123", "rate = 0"), r"rate: 0 is not a number above 0"),
        (("rate = 7.8123", "rate = 1e999999"), r"rate: 1E\+999999 is not a number"),
    ],
)
def test_what_is_wrong_in_a_price_book_is_named_with_its_line(
    change: tuple[str, str], sentence: str, tmp_path: Path
) -> None:
    assert change[0] in BOOK
    (tmp_path / "prices.toml").write_text(BOOK.replace(*change, 1))
    line = BOOK[: BOOK.index(change[0])].count("\n") + 1
    with pytest.raises(ConfigurationError, match=sentence.replace("LINE", str(line))):
        load_prices(tmp_path / "prices.toml")


@given(st.fractions(min_value=0, max_value=10**12))
def test_cents_are_rounded_half_up_from_the_exact_amount(amount: Fraction) -> None:
    exact = cents(amount)
    assert exact is not None
    assert abs(Fraction(exact) - amount) <= Fraction(1, 200)
    assert exact.as_tuple().exponent == -2
    if amount.denominator in {1, 2, 4, 5, 8, 10, 200, 1000}:
        written = Decimal(amount.numerator) / Decimal(amount.denominator)
        assert exact == written.quantize(Decimal("0.01"), ROUND_HALF_UP)
