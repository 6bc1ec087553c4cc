# SPDX-License-Identifier: Apache-2.0
"""How a state looks everywhere: colour, letter, words, CSS class; never colour alone.

Hues are told apart in the common kinds of colour blindness, and letter, label and (for unknown time) a pattern stand
beside each. The same hues are used in the page, the reports and the dashboards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gpuledger.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One state's colour (#rrggbb), the text colour that reads on it, letter, label, meaning and pattern."""

    state: State
    color: str
    ink: str
    letter: str
    label: str
    meaning: str
    pattern: Literal["solid", "dotted", "hatched"] = "solid"

    @property
    def css_class(self) -> str:
        return f"s-{self.state.value}"


_DARK_INK = "#14181d"
_LIGHT_INK = "#ffffff"

_LOOKS = (
    Look(
        state=State.BUSY,
        color="#2f6db3",
        ink=_LIGHT_INK,
        letter="B",
        label="busy",
        meaning="a process is there and the engines work",
    ),
    Look(
        state=State.HELD,
        color="#e08e0b",
        ink=_DARK_INK,
        letter="H",
        label="held",
        meaning="a process holds the GPU and does not use it",
    ),
    Look(
        state=State.RESERVED,
        color="#b59f3b",
        ink=_DARK_INK,
        letter="R",
        label="reserved",
        meaning="allocated, with no process on it",
    ),
    Look(
        state=State.FREE,
        color="#6aa84f",
        ink=_DARK_INK,
        letter="F",
        label="free",
        meaning="healthy and not allocated, as far as the node can see",
    ),
    Look(
        state=State.STANDBY,
        color="#9fc5a8",
        ink=_DARK_INK,
        letter="S",
        label="standby",
        meaning="not observed, declared as standby beforehand",
    ),
    Look(
        state=State.OPERATOR,
        color="#7b6fb0",
        ink=_LIGHT_INK,
        letter="O",
        label="operator",
        meaning="burn-in, diagnostics or health checks",
    ),
    Look(
        state=State.MAINTENANCE,
        color="#8d99a6",
        ink=_DARK_INK,
        letter="M",
        label="maintenance",
        meaning="declared as maintenance beforehand",
    ),
    Look(
        state=State.DOWN,
        color="#c0392b",
        ink=_LIGHT_INK,
        letter="X",
        label="down",
        meaning="lost, failed or in need of a reset",
    ),
    Look(
        state=State.UNMEASURED,
        color="#b8b8b8",
        ink=_DARK_INK,
        letter="U",
        label="unmeasured",
        meaning="observed, but what was seen does not tell the state",
        pattern="dotted",
    ),
    Look(
        state=State.DARK,
        color="#5f6368",
        ink=_LIGHT_INK,
        letter="?",
        label="dark",
        meaning="not observed and not declared",
        pattern="hatched",
    ),
)

LOOKS: Mapping[State, Look] = {look.state: look for look in _LOOKS}
"""Every state's look, in the order in which states are drawn."""

if tuple(LOOKS) != tuple(State):  # pragma: no cover - a bug, caught at import
    raise AssertionError("every state has one look, in the order of the states")
