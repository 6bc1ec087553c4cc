# SPDX-License-Identifier: Apache-2.0
"""Numbers, times and sentences of the page. A printed percentage never flatters the operator.

Rounded down: lower bounds, coverage, measured, engine-active and the state busy; rounded up: upper bounds and all
else. Printed shares of a whole may therefore sum to a little over 100 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from gpuledger.accounting import Bounds
from gpuledger.cells import HOUR_MS, SLICES_PER_GPU
from gpuledger.states import OUT, UNKNOWN, State
from gpuledger_collector.overview import LedgerFigures, Overview, Sums
from gpuledger_collector.palette import LOOKS, Look
from gpuledger_collector.report.shares import range_of, share_down, share_of_state, share_up

ABSENT = "–"
SIMULATED = "SIMULATED"
BUSY_WITHHELD = "work seen"
"""What the state busy is called where too little was measured to call anything busy."""
_GPU_HOUR_SLICE_MS = HOUR_MS * SLICES_PER_GPU


def percent(tenths: int) -> str:
    """Return "41.2 %"."""
    return f"{tenths // 10}.{tenths % 10} %"


def state_text(sums: Sums, state: State) -> str:
    """Return the state's share of installed time, which must be positive."""
    return percent(share_of_state(sums.account, state).tenths)


def range_text(bounds: Bounds | None) -> str:
    """Return "41.2 – 47.3 %"."""
    if bounds is None:
        return ABSENT
    low, high = _ends(bounds)
    return f"{percent(low).removesuffix(' %')} – {percent(high)}"


def range_hours(bounds: Bounds | None) -> str:
    """Return the same as what was divided: "310.8 – 361.2 of 744.0 GPU-h"."""
    if bounds is None:
        return ""
    low, high = gpu_hours(bounds.low_slice_ms), gpu_hours(bounds.high_slice_ms)
    part = low if low == high else f"{low} – {high}"
    return f"{part} of {gpu_hours(bounds.installed_slice_ms)} GPU-h"


def part_hours(part_slice_ms: int, whole_slice_ms: int) -> str:
    """Return "31.0 of 744.0 GPU-h"."""
    return f"{gpu_hours(part_slice_ms)} of {gpu_hours(whole_slice_ms)} GPU-h"


def coverage_hours(sums: Sums) -> str:
    """Return what coverage was divided of."""
    whole = sums.account.installed_slice_ms - sums.account.declared_uncovered_slice_ms
    return "" if whole == 0 else part_hours(whole - sums.account.slice_ms(State.DARK), whole)


def out_hours(sums: Sums) -> str:
    """Return what the share out of service was divided of."""
    whole = sums.account.installed_slice_ms
    return "" if whole == 0 else part_hours(sums.account.slice_ms(*OUT), whole)


def held_share(busy_slice_ms: int, held_slice_ms: int) -> str:
    """Return which share of what a workload had it held without using it, rounded up."""
    whole = busy_slice_ms + held_slice_ms
    return ABSENT if whole == 0 else percent(share_up(held_slice_ms, whole).tenths)


def gibibytes(number: int) -> str:
    """Return "64.0 GiB"."""
    return f"{number / (1 << 30):.1f} GiB"


def kibibytes(number: int) -> str:
    """Return "41 KiB", rounded up."""
    return f"{-(-number // 1024):,} KiB"


def clock(time_ms: int) -> str:
    """Return the UTC time of day."""
    return f"{_utc(time_ms):%H:%M}"


def work_seen(sums: Sums) -> str:
    """Return the lower bound of the time at work, for where the word busy is withheld."""
    busy = sums.account.busy
    return ABSENT if busy is None else percent(_ends(busy)[0])


def _ends(bounds: Bounds) -> tuple[int, int]:
    printed = range_of(bounds)
    return printed.low.tenths, printed.high.tenths


def coverage_text(sums: Sums) -> str:
    """Return 1 - dark / (I - D'), rounded down."""
    account = sums.account
    whole = account.installed_slice_ms - account.declared_uncovered_slice_ms
    return ABSENT if whole == 0 else percent(share_down(whole - account.slice_ms(State.DARK), whole).tenths)


def measured_text(sums: Sums) -> str:
    """Return 1 - (dark + unmeasured) / I, rounded down."""
    account = sums.account
    whole = account.installed_slice_ms
    return ABSENT if whole == 0 else percent(share_down(whole - account.slice_ms(*UNKNOWN), whole).tenths)


def out_text(sums: Sums) -> str:
    """Return what was down, in maintenance or under the operator's own load, rounded up."""
    whole = sums.account.installed_slice_ms
    return ABSENT if whole == 0 else percent(share_up(sums.account.slice_ms(*OUT), whole).tenths)


def declared_text(sums: Sums) -> str:
    """Return D' / I, rounded up."""
    whole = sums.account.installed_slice_ms
    return ABSENT if whole == 0 else percent(share_up(sums.account.declared_uncovered_slice_ms, whole).tenths)


def engine_text(sums: Sums) -> str | None:
    """Return the integral of activity over installed time, rounded down; None where it was never known."""
    whole, active_ns = sums.account.installed_slice_ms, sums.account.active_ns
    if whole == 0 or active_ns is None:
        return None
    return percent(share_down(active_ns * SLICES_PER_GPU, whole * 1_000_000).tenths)


def gpu_hours(slice_ms: int) -> str:
    """Return GPU-hours to a tenth, half up; less than that but not nothing is "<0.1"."""
    if 0 < slice_ms < _GPU_HOUR_SLICE_MS // 20:
        return "<0.1"
    tenths = (slice_ms * 20 + _GPU_HOUR_SLICE_MS) // (2 * _GPU_HOUR_SLICE_MS)
    return f"{tenths // 10:,}.{tenths % 10}"


def count(number: int, noun: str) -> str:
    """Return "1 node" or "2 nodes"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def moment(time_ms: int, now_ms: int) -> str:
    """Return the UTC time, with the date unless it is that of `now_ms`."""
    at, now = _utc(time_ms), _utc(now_ms)
    return f"{at:%H:%M}" if at.date() == now.date() else f"{at.day} {at:%b %H:%M}"


def long_moment(time_ms: int) -> str:
    """Return "22 Nov 2026, 05:10 UTC"."""
    at = _utc(time_ms)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def _utc(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def duration(length_ms: int) -> str:
    """Return "4 d 3 h", "3 h 20 min", "20 min" or "35 s"."""
    seconds = max(0, length_ms) // 1000
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60 % 60, seconds // 3600 % 24, seconds // 86400
    if days > 0:
        return f"{days} d {hours} h" if hours > 0 else f"{days} d"
    if hours > 0:
        return f"{hours} h {minutes} min" if minutes > 0 else f"{hours} h"
    return f"{minutes} min"


def looks(*sums: Sums) -> Mapping[State, Look]:
    """Return how states are shown beside figures; where "busy" is withheld, what was seen is all that is said."""
    if all(part.may_say_busy for part in sums):
        return LOOKS
    return {**LOOKS, State.BUSY: replace(LOOKS[State.BUSY], label=BUSY_WITHHELD, letter="W")}


# ------------------------------------------------------------------------------------------------ sentences


def fleet_title(view: Overview) -> str:
    """Return the front page's title: the range of idle time."""
    idle = range_text(view.total.account.idle)
    return "GPU fleet" if idle == ABSENT else f"GPU fleet: {idle} idle"


def window_title(text: str, *, is_simulated: bool) -> str:
    """Return a page's title, after the mark of simulated data."""
    return f"{SIMULATED} · {text} · gpuledger" if is_simulated else f"{text} · gpuledger"


def period(ledger: LedgerFigures) -> str:
    """Return how the headline names its period."""
    if ledger.start_ms is None or ledger.end_ms is None:
        return ""
    length_ms = ledger.end_ms - ledger.start_ms
    if length_ms >= 23 * HOUR_MS:
        return "In the last 24 hours"
    return f"In the {duration(length_ms)} since the ledger begins"


def exact_period(ledger: LedgerFigures) -> str | None:
    """Return the first and last moment of the period that the figures cover."""
    if ledger.start_ms is None or ledger.end_ms is None:
        return None
    return f"{long_moment(ledger.start_ms).removesuffix(' UTC')} to {long_moment(ledger.end_ms)}"


def headline(view: Overview) -> str:
    """Return one sentence with both bounds, coverage, what was out of service and what was declared."""
    return sentence(view.ledger, view.total, "installed GPU time")


def sentence(ledger: LedgerFigures, sums: Sums, what: str) -> str:
    """Return the same of any GPUs: `what` is the time of which it says how much stood idle."""
    idle = sums.account.idle
    if idle is None:
        return "No figures yet: the ledger holds no complete cell of five minutes."
    low, high = _ends(idle)
    coverage = coverage_text(sums)
    covered = "nothing was to be observed" if coverage == ABSENT else f"coverage {coverage}"
    return (
        f"{period(ledger)} at least {percent(low)} and at most {percent(high)} of {what} stood idle; "
        f"{covered}, {out_text(sums)} out of service, {declared_text(sums)} declared instead of observed."
    )


def second_sentence(view: Overview) -> str | None:
    """Return what was busy, or with too little measured only what the engines were seen to do."""
    busy, engines = view.total.account.busy, engine_text(view.total)
    if busy is None:
        return None
    if not view.total.may_say_busy:
        return None if engines is None else f"Engines were seen active for {engines} of it."
    low, high = _ends(busy)
    active = "" if engines is None else f"; engines were active for {engines} of it"
    return f"At least {percent(low)} and at most {percent(high)} was busy{active}."


def withheld(view: Overview) -> str | None:
    """Return why words are missing, without using them."""
    if view.total.account.installed_slice_ms == 0:
        return None
    if not view.total.may_say_busy:
        return (
            f"Only {measured_text(view.total)} of installed GPU time was measured (the floor is 95 %): "
            "this page says what was seen, and gives no figure of use."
        )
    if not view.total.may_say_occupancy:
        return f"Coverage is {coverage_text(view.total)}, under the floor of 95 %."
    return None
