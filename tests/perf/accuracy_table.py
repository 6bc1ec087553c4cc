# SPDX-License-Identifier: Apache-2.0
"""What each program said of a GPU beside the truth, held against the bounds, as docs/accuracy.md. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tests.perf.figures import Statement
from tests.perf.page import GENERATED, table

ERROR_MAX = Fraction(5, 1000)
"""Of the elapsed time: how far from the truth the agent may be in any case."""
TIMES_BETTER_MIN = 20
STRETCH_S = Fraction(1, 10)
"""What GPM's refresh leaves open at the ends of each stretch that an agent saw."""
STRETCHES = 2
"""Before and after the lost minutes."""
TICKS_S = 2
"""A state's time is known to the tick at either end."""
OURS = "gpuledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A statement beside the truth of its own window."""

    statement: Statement
    truth_s: Fraction

    @property
    def error(self) -> Fraction:
        """Distance of the worse bound from the truth, as a share of the elapsed time."""
        return self.statement.worst_s(self.truth_s) / self.statement.window.length_s

    @property
    def outside_s(self) -> Fraction:
        return self.statement.distance_s(self.truth_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One case: what each program said (None: nothing), the agent by its readings under OURS.

    `states_off_ms` is the most by which the time of a state differs from the oracle's. `is_apart`: who looks at
    utilisation means something else by idle here, so it does not count as a peer's worst case.
    """

    name: str
    said: Mapping[str, Said | None]
    states_off_ms: int
    is_apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """One case of which minutes are lost: the agent's statement, the time of two groups of states, and a peer's word.

    `busy_s` and `idle_s` are (low, high, what an agent that was never stopped would have sealed).
    """

    name: str
    ours: Said
    peer: Said | None
    busy_s: tuple[Fraction, Fraction, Fraction]
    idle_s: tuple[Fraction, Fraction, Fraction]


@dataclass(frozen=True, slots=True, kw_only=True)
class Virtual:
    """The same script in virtual time: the agent's worst error, and how many cells differ from the oracle's."""

    error: Fraction
    cells: int
    different: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of the benchmark; `peers` are by how they are run, `missing` those that did not run and why."""

    seconds: float
    lines: Sequence[Line]
    unseen: Sequence[Unseen]
    virtual: Virtual
    peers: Sequence[str]
    also: Sequence[str]
    missing: Mapping[str, str]
    machine: str


def worst(lines: Sequence[Line], program: str) -> Fraction | None:
    """Return a program's largest error over all cases that are comparable; None where it said nothing of any."""
    errors = [said.error for line in lines if not line.is_apart and (said := line.said.get(program)) is not None]
    return max(errors, default=None)


def best_peer(measured: Measured) -> tuple[str, Fraction] | None:
    """Return the peer whose largest error is the least, and that error."""
    found = [(name, error) for name in measured.peers if (error := worst(measured.lines, name)) is not None]
    return min(found, key=lambda pair: pair[1], default=None)


def faults(measured: Measured) -> list[str]:
    """Return a sentence for each bound that is broken."""
    found = []
    for program in (OURS, *measured.also):
        for line in measured.lines:
            said = line.said.get(program)
            if said is None:
                found.append(f"{line.name}: {program} says nothing")
            elif said.error > ERROR_MAX:
                found.append(f"{line.name}: {program} is wrong by {_percent(said.error)} of the time")
    found += [
        f"{unseen.name}: the truth is {float(unseen.ours.outside_s):.3f} s outside the bounds"
        for unseen in measured.unseen
        if unseen.ours.outside_s > STRETCHES * STRETCH_S
    ]
    found += [
        f"{unseen.name}: {float(truth):.1f} s {group} are outside {_range(low, high)} s"
        for unseen in measured.unseen
        for group, (low, high, truth) in (("busy", unseen.busy_s), ("idle", unseen.idle_s))
        if not low - TICKS_S <= truth <= high + TICKS_S
    ]
    if measured.virtual.different > 0:
        found.append(f"in virtual time {measured.virtual.different} cells differ from the oracle's")
    ours, peer = worst(measured.lines, OURS), best_peer(measured)
    if peer is None:
        found.append("no peer ran")
    elif ours is not None and ours * TIMES_BETTER_MIN > peer[1]:
        times = float(peer[1] / ours)
        found.append(f"in the worst case {peer[0]} is wrong by only {times:.1f} times as much")
    return found


def render(measured: Measured) -> str:
    """Return the page."""
    return (
        GENERATED.format(command="make bench-accuracy")
        + _TITLE
        + f"Measured for {measured.seconds:.0f} s of real time on {measured.machine}.\n\n"
        + _errors(measured)
        + _verdict(measured)
        + _unseen(measured)
        + _virtual(measured.virtual)
        + _peers(measured)
        + _NOTES
    )


def _errors(measured: Measured) -> str:
    programs = (OURS, *measured.also, *measured.peers)
    rows = []
    for line in measured.lines:
        ours = line.said[OURS]
        truth = "-" if ours is None else _percent(ours.truth_s / ours.statement.window.length_s)
        off = f"{line.states_off_ms / 1_000:.1f} s"
        rows.append([line.name, truth, *(_signed(line.said.get(program)) for program in programs), off])
    worsts = [worst(measured.lines, program) for program in programs]
    rows.append(
        [
            "**largest error**, spin-wait apart",
            "",
            *("-" if one is None else f"**{_percent(one)}**" for one in worsts),
            "",
        ]
    )
    return table(("case", "truly idle", *programs, "states"), rows)


def _verdict(measured: Measured) -> str:
    ours, peer = worst(measured.lines, OURS), best_peer(measured)
    wrong = faults(measured)
    lines = []
    if ours is not None and peer is not None:
        times = f"{float(peer[1] / ours):,.0f} times" if ours > 0 else "infinitely"
        lines.append(f"The best peer's largest error ({peer[0]}) is {times} the agent's.")
    lines += [f"- WRONG: {sentence}" for sentence in wrong] or ["Every bound is kept."]
    return _ABOUT_ERRORS.format(error=_percent(ERROR_MAX), times=TIMES_BETTER_MIN) + "\n".join(lines) + "\n"


def _unseen(measured: Measured) -> str:
    rows = []
    for one in measured.unseen:
        said = one.ours.statement
        outside_s = one.ours.outside_s
        rows.append(
            [
                one.name,
                f"{float(one.ours.truth_s):.2f}",
                _range(said.low_s, said.high_s),
                "yes" if outside_s == 0 else f"to {float(outside_s):.3f} s",
                *(f"{float(truth):.1f} in {_range(low, high)}" for low, high, truth in (one.busy_s, one.idle_s)),
                _signed(one.peer),
            ]
        )
    head = ("case", "truly idle, s", "gpuledger, s", "inside", "busy, s", "idle, s", "nvitop-exporter")
    return _UNSEEN.format(stretch=float(STRETCH_S), ticks=TICKS_S) + table(head, rows)


def _virtual(virtual: Virtual) -> str:
    return _VIRTUAL.format(cells=virtual.cells, different=virtual.different or "none", error=_percent(virtual.error))


def _peers(measured: Measured) -> str:
    lines = [f"- **{name}** did not run: {reason}." for name, reason in measured.missing.items()]
    return _PEERS + "".join(f"{line}\n" for line in lines)


def _percent(share: Fraction) -> str:
    return f"{100 * float(share):.2f} %" if abs(share) < Fraction(1, 10) else f"{100 * float(share):.1f} %"


def _signed(said: Said | None) -> str:
    if said is None:
        return "-"
    low, high = said.statement.low_s - said.truth_s, said.statement.high_s - said.truth_s
    error = (low if abs(low) > abs(high) else high) / said.statement.window.length_s
    return f"{100 * float(error):+.3f} %" if abs(error) < Fraction(1, 100) else f"{100 * float(error):+.1f} %"


def _range(low: Fraction, high: Fraction) -> str:
    return f"{float(low):.2f} – {float(high):.2f}"


_TITLE = """
# Accuracy

How far from the truth programs are that say how idle a GPU was. The truth is known: a compiled library with NVML's
binary interface plays a script ([tests/abi](../tests/abi/README.md)), and how long the engines were on is the exact
integral of the script, without sampling. All programs run side by side on it in real time, each on the real binding it
brings, as their users run them.

    make bench-accuracy

takes eleven minutes, writes this page and fails where a bound is broken.

"""

_ABOUT_ERRORS = """
Errors are in percent of the elapsed time, not of the idle time; + is too much idle. The agent states a low and a high
bound, and the worse of both counts. It must be right to {error} in every case, and in its worst case {times} times
better than the best peer in its worst. The spin-wait is left out of that comparison: utilisation, which is what peers
read, counts it as work. "States" is the most by which the time of any state differs from the
[oracle](../tests/abi/oracle.py)'s, whose ticks are on the whole second. Real ticks come a moment later: where a wave
keeps step with them, its edge may fall on either side of theta (5 % of a tick) again and again.

"""

_UNSEEN = """
## Lost minutes

An agent that is killed or stopped for two and a half minutes, a GPU that falls off the bus for as long. What was not
seen is not guessed: it stands between the agent's low and high bound, and the truth has to lie there, give or take what
GPM's refresh leaves open at the ends of what was seen ({stretch} s for each stretch, before and after; it shows where
the GPU was idle all the time that nobody knew of it, so that the truth is the high bound itself). "Busy" and "idle" are
the time in those states as (truth) in (bounds); that truth is the oracle's, for an agent that was never stopped, and
has to be inside to {ticks} s. nvitop-exporter was killed at the same moments, or saw the GPU lost; an average takes
minutes without samples to be like the others, and gives nothing where a sample is NaN.

"""

_VIRTUAL = """
## In virtual time

The same script once more without the machine's jitter: the agent's clock and the library's are one. Of {cells} cells of
GPUs, {different} differ from the oracle's in any state, bin, engine or energy, to the millisecond and millijoule. The
agent's largest error is {error} of the elapsed time; any error left is that of a tick it calls unknown, because a GPM
that had not proved itself yet was contradicted by utilisation.

"""

_PEERS = """
## The programs

- **gpuledger**: `gpuledger agent run` with its defaults, TLS and a login; its sealed readings. "By Prometheus" is the
  same agent as Prometheus saw it: the growth of `gpuledger_gpu_active_seconds_total` between two scrapes, over that of
  `gpuledger_agent_tick_timestamp_seconds`.
- **nvitop-exporter**: with its defaults, scraped by Prometheus every 15 s; 1 - `avg_over_time` of
  `gpu_utilization_Percentage` over the whole time.
- **gpu-usage-audit**: `gua daemon` with its defaults (a sample every 30 s); the share of samples that its own rule does
  not call active.
- **gpucm**: `gcm nvml_monitor` with its defaults (a sample every 10 s for 60 s of every 90, of which the largest is
  published); 1 - the mean of what it published.
- dcgm-exporter, nvidia_gpu_exporter and others are no Python packages and want another build; they did not run.
"""

_NOTES = """
## What limits the agent

- A tick's activity is the mean between two GPM samples, while its time is between two ticks. GPM's counters are
  refreshed every 100 ms, and a sample has those of the last refresh, so the window is shifted by up to 100 ms against
  its tick. Where the shift stays the same it does not add up, since each sample ends one window and begins the next.
- The first table takes the worst case: the refresh falls 1 ms after the tick, so that the shift is 0 or 100 ms by
  chance in each tick, and the error grows with the root of the number of changes of the load. With the refresh
  elsewhere it was at most 0.03 % in a run of 390 s. The GPUs that are lost have their refresh between two ticks.
- NVML gives GPM's means as floating-point percentages; the agent keeps parts per million.
- With polled utilisation alone (GPUs before Hopper, without buffered samples) the agent is no better than one sample a
  second; readings say which source was used.
- On a real GPU none of this is proven yet: [hardware.md](hardware.md).
"""
