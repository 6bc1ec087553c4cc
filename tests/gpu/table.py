# SPDX-License-Identifier: Apache-2.0
"""What was measured beside what is known, as a Markdown table, and what is wrong with it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuledger.states import State
from tests.gpu.plan import Phase

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"
STATE_SHARE_MIN = 0.95
ACTIVE_DIFFERENCE_MAX = 0.10
POWER_DIFFERENCE_MAX = 0.10
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """One scrape of the agent: everything that grows, and the moment of the last tick (POSIX seconds)."""

    edge_s: float
    state_s: Mapping[str, float]
    uncovered_s: float
    active_s: float | None
    energy_j: float | None
    memory_used_bytes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known apart from the agent: the duty the load kept, and the mean of polled power."""

    duty: float | None
    power_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One phase: what is known, and two scrapes of the agent that enclose it."""

    phase: Phase
    truth: Truth
    before: Sums
    after: Sums

    @property
    def length_s(self) -> float:
        return self.after.edge_s - self.before.edge_s

    @property
    def uncovered_s(self) -> float:
        return self.after.uncovered_s - self.before.uncovered_s

    @property
    def state_s(self) -> dict[str, float]:
        grown = {name: amount - self.before.state_s.get(name, 0.0) for name, amount in self.after.state_s.items()}
        return {name: amount for name, amount in grown.items() if amount > 0}

    @property
    def active(self) -> float | None:
        """Return engine-active time over the length; None where activity was never known."""
        if self.after.active_s is None:
            return None
        before_s = 0.0 if self.before.active_s is None else self.before.active_s
        return (self.after.active_s - before_s) / self.length_s

    @property
    def power_w(self) -> float | None:
        if self.after.energy_j is None or self.before.energy_j is None:
            return None
        return (self.after.energy_j - self.before.energy_j) / self.length_s


def faults(row: Row) -> list[str]:
    """Return a sentence for each thing that the agent got wrong in a phase."""
    found = []
    counted_s = sum(row.state_s.values()) + row.uncovered_s
    if abs(counted_s - row.length_s) > 0.002:
        found.append(f"{row.phase.name}: states and uncovered sum to {counted_s:.3f} s, not {row.length_s:.3f} s")
    right_s = sum(row.state_s.get(state.value, 0.0) for state in row.phase.states)
    if right_s < STATE_SHARE_MIN * row.length_s:
        wanted = " or ".join(sorted(state.value for state in row.phase.states))
        found.append(f"{row.phase.name}: only {right_s:.1f} of {row.length_s:.1f} s were {wanted}")
    duty = 0.0 if row.truth.duty is None else row.truth.duty
    if row.active is None:
        found.append(f"{row.phase.name}: activity was never known")
    elif abs(row.active - duty) > ACTIVE_DIFFERENCE_MAX:
        found.append(f"{row.phase.name}: engines were measured active {row.active:.1%}, and were on {duty:.1%}")
    if row.power_w is not None and row.truth.power_w is not None:
        difference = abs(row.power_w - row.truth.power_w) / row.truth.power_w
        if difference > POWER_DIFFERENCE_MAX:
            found.append(f"{row.phase.name}: {row.power_w:.0f} W by energy, {row.truth.power_w:.0f} W by polled power")
    return found


def render(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Return the measured section: who was measured, and one line for each phase."""
    head = ("phase", "engines on", "engines active", "right state", "measured states", "power, energy", "power, polled")
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    lines += [_line((*head, "memory")), _line(["---"] * 8)]
    for row in rows:
        used = row.after.memory_used_bytes
        lines.append(
            _line(
                (
                    row.phase.name,
                    _percent(row.truth.duty),
                    _percent(row.active),
                    " or ".join(state.value for state in State if state in row.phase.states),
                    ", ".join(f"{name} {amount:.1f} s" for name, amount in sorted(row.state_s.items())),
                    _watts(row.power_w),
                    _watts(row.truth.power_w),
                    "-" if used is None else f"{used / _GIB:.1f} GiB",
                )
            )
        )
    wrong = [fault for row in rows for fault in faults(row)]
    lines += ["", *(f"- WRONG: {fault}" for fault in wrong)] if wrong else ["", "Nothing was found wrong."]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _watts(power_w: float | None) -> str:
    return "-" if power_w is None else f"{power_w:.0f} W"


def put_between_marks(document: str, section: str) -> str:
    """Return the document with `section` between its marks; raises ValueError where they are not there, in order."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{BEGIN} and {END} are not in the document")
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"
