# SPDX-License-Identifier: Apache-2.0
"""The languages of a report: texts from catalogues of the same keys, numbers and times as each language writes them.

A catalogue is `languages/TAG.toml`. Texts are format strings with named fields; names from outside only ever come in as
fields. A key with `one` and `other` is a plural.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from gpuledger.states import State
from gpuledger_collector.report.amounts import ABSENT, hours, tenths_text
from gpuledger_collector.report.names import CHARACTERS_MAX, opened_or_digest, shown
from gpuledger_collector.report.periods import at
from gpuledger_collector.report.shares import Range, Share

TAGS = ("en", "zh-CN")
"""The languages there are, the default first."""
_FORMS = ("one", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """One language; calling it with a key and fields gives the text."""

    tag: str
    texts: Mapping[str, str]

    def __call__(self, key: str, /, **fields: object) -> str:
        return self.texts[key].format(**fields)

    def plural(self, key: str, number: int, /, **fields: object) -> str:
        """Return the text of a plural key for so many; `n` is the number with its separators."""
        form = f"{key}.one" if number == 1 and f"{key}.one" in self.texts else f"{key}.other"
        return self.texts[form].format(n=f"{number:,}", **fields)

    def count(self, number: int, noun: str) -> str:
        """Return "1 node" or "2 nodes"; `noun` is a key of the section `count`."""
        return self.plural(f"count.{noun}", number)

    def listed(self, items: Iterable[str], last: str = "and") -> str:
        """Return "a, b and c"."""
        found = list(items)
        if len(found) < 2:
            return "".join(found)
        return self("number.comma").join(found[:-1]) + self(f"number.{last}") + found[-1]

    def commas(self, items: Iterable[str]) -> str:
        """Return "a, b, c"."""
        return self("number.comma").join(items)

    # ------------------------------------------------------------------------------------------------ figures

    def tenths(self, tenths: int) -> str:
        """Return tenths of a percent >= 0 as "61.2 %"."""
        return self("number.percent", number=tenths_text(tenths))

    def percent(self, share: Share | None) -> str:
        """Return "61.2 %"."""
        return ABSENT if share is None else self.tenths(share.tenths)

    def percent_range(self, found: Range | None) -> str:
        """Return "61.2 – 63.0 %", or one number where nothing is unknown and rounding keeps it one."""
        if found is None:
            return ABSENT
        if found.low.tenths == found.high.tenths:
            return self.percent(found.low)
        low, high = tenths_text(found.low.tenths), tenths_text(found.high.tenths)
        return self("number.percent_range", low=low, high=high)

    def fraction(self, share: Share | None) -> str:
        """Return "3,290.1 of 5,376.0 GPU-hours"."""
        if share is None:
            return ABSENT
        return self("number.fraction", part=hours(share.part_slice_ms), whole=hours(share.whole_slice_ms))

    def hours_range(self, found: Range | None) -> str:
        """Return "3,290.1 – 3,386.9 of 5,376.0 GPU-hours"."""
        if found is None:
            return ABSENT
        if found.low.part_slice_ms == found.high.part_slice_ms:
            return self.fraction(found.low)
        low, high = hours(found.low.part_slice_ms), hours(found.high.part_slice_ms)
        return self("number.hours_range", low=low, high=high, whole=hours(found.high.whole_slice_ms))

    def seconds(self, amount_ms: int) -> str:
        """Return "1 s", or "250 ms" where seconds are not whole."""
        if amount_ms % 1000 == 0:
            return self("number.seconds", number=amount_ms // 1000)
        return self("number.milliseconds", number=amount_ms)

    # -------------------------------------------------------------------------------------------- times and names

    def day(self, time_ms: int) -> str:
        """Return "Mon 16 Nov"."""
        return self("date.day", **self._date(time_ms))

    def hour(self, time_ms: int) -> str:
        """Return "Mon 16 Nov 00:00"."""
        return self("date.hour", **self._date(time_ms))

    def minute(self, time_ms: int) -> str:
        """Return "Mon 16 Nov 2026 00:00"; who prints it names UTC."""
        return self("date.minute", **self._date(time_ms))

    def utc(self, time_ms: int) -> str:
        """Return "Mon 16 Nov 2026 00:00 UTC"."""
        return self("date.utc", time=self.minute(time_ms))

    def weekdays(self) -> list[str]:
        """Return the names of the days from Monday on."""
        return self("date.weekdays").split(" ")

    def _date(self, time_ms: int) -> dict[str, Any]:
        time = at(time_ms)
        return {
            "weekday": self.weekdays()[time.weekday()],
            "month": self("date.months").split(" ")[time.month - 1],
            "day": time.day,
            "year": time.year,
            "hour": time.hour,
            "minute": time.minute,
        }

    def name(self, text: str | None, characters_max: int = CHARACTERS_MAX) -> str:
        """Return a name from outside as a table bears it."""
        return shown("" if text is None else text, characters_max, nameless=self("name.none"))

    def opened(self, name: str | None, digest: str | None) -> str:
        """Return the name where somebody opened it, else the first characters of its digest."""
        return opened_or_digest(name, digest, absent=self("name.not_recorded"), nameless=self("name.none"))

    def state(self, state: State) -> str:
        """Return the state's name."""
        return self(f"state.{state.value}")


@cache
def language(tag: str) -> Language:
    """Return the language of a tag of TAGS."""
    text = (resources.files(__package__) / "languages" / f"{tag}.toml").read_text(encoding="utf-8")
    return Language(tag=tag, texts=dict(_flat(tomllib.loads(text))))


def _flat(tables: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for section, keys in tables.items():
        for key, value in keys.items():
            if isinstance(value, str):
                yield f"{section}.{key}", value
            else:
                yield from ((f"{section}.{key}.{form}", value[form]) for form in _FORMS if form in value)


ENGLISH = language(TAGS[0])
