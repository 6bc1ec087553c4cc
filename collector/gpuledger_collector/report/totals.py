# SPDX-License-Identifier: Apache-2.0
"""From an account to its printed figures, with the words it may not be called by."""

from __future__ import annotations

from gpuledger.accounting import COVERAGE_FLOOR, Account, Bounds
from gpuledger.cells import SLICES_PER_GPU
from gpuledger.states import IDLE, OUT, THETA_PPM, THETAS_PPM, UNKNOWN, State
from gpuledger_collector.report.model import Sensitivity, StateTime, Totals, Withheld
from gpuledger_collector.report.shares import range_of, share_down, share_of_state, share_up


def withheld_words(account: Account) -> tuple[Withheld, ...]:
    """Return the words withheld of an account; coverage that is absent proves nothing and withholds too."""
    words: list[Withheld] = []
    if account.coverage is None or account.coverage < COVERAGE_FLOOR:
        words.append(Withheld.OCCUPANCY)
    if account.measured is None or account.measured < COVERAGE_FLOOR:
        words += [Withheld.USED, Withheld.BUSY]
    return tuple(words)


def totals_of(
    account: Account, *, gpus: int, active_known_ms: int, untold: frozenset[State] = frozenset()
) -> Totals | None:
    """Return the figures of an account; None without installed time.

    `untold` are states that whoever observed cannot tell: no figure is given of them, not even 0.
    """
    installed = account.installed_slice_ms
    idle, busy = account.idle, account.busy
    if idle is None or busy is None:
        return None
    observable = installed - account.declared_uncovered_slice_ms
    withheld = withheld_words(account)
    active = None
    if account.active_ns is not None:
        active = share_down(account.active_ns * SLICES_PER_GPU // 1_000_000, installed)
    return Totals(
        gpus=gpus,
        installed_slice_ms=installed,
        idle=range_of(idle),
        busy=None if Withheld.BUSY in withheld else range_of(busy),
        coverage=None if observable == 0 else share_down(observable - account.slice_ms(State.DARK), observable),
        measured=share_down(installed - account.slice_ms(*UNKNOWN), installed),
        out=None if untold & OUT else share_up(account.slice_ms(*OUT), installed),
        declared_uncovered=(
            None if State.STANDBY in untold else share_up(account.declared_uncovered_slice_ms, installed)
        ),
        engine_active=active,
        active_known_slice_ms=active_known_ms * SLICES_PER_GPU,
        states=tuple(
            StateTime(state=state, slice_ms=account.slice_ms(state), share=share_of_state(account, state))
            for state in State
            if state not in untold
        ),
        withheld=withheld,
    )


def sensitivity_of(account: Account) -> tuple[Sensitivity, ...]:
    """Return idle and busy for every threshold: time with a process moves between busy and held, no other does."""
    if account.installed_slice_ms == 0:
        return ()
    withheld = withheld_words(account)
    binned = sum(account.bin_slice_ms)
    idle_without_process = account.slice_ms(*(IDLE - {State.HELD}))
    rows = []
    for theta_ppm in THETAS_PPM:
        above = account.busy_slice_ms_above(theta_ppm)
        rows.append(
            Sensitivity(
                theta_ppm=theta_ppm,
                is_in_force=theta_ppm == THETA_PPM,
                busy=None if Withheld.BUSY in withheld else range_of(_bounds(account, above)),
                idle=range_of(_bounds(account, idle_without_process + binned - above)),
            )
        )
    return tuple(rows)


def _bounds(account: Account, low_slice_ms: int) -> Bounds:
    return Bounds(
        low_slice_ms=low_slice_ms,
        high_slice_ms=low_slice_ms + account.slice_ms(*UNKNOWN),
        installed_slice_ms=account.installed_slice_ms,
    )
