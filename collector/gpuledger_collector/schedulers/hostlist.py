# SPDX-License-Identifier: Apache-2.0
"""Slurm's host lists: `gpu[001-003,7],login` is gpu001, gpu002, gpu003, gpu7 and login. Pure.

A library exists under a licence that this project cannot take in.
"""

from __future__ import annotations

import itertools
import re

HOSTS_MAX = 100_000
_PART = re.compile(r"([^\[\],]*)((?:\[[^\[\]]*\][^\[\],]*)*)(?:,|$)")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]([^\[\]]*)")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


class HostlistError(ValueError):
    """A text that is no host list; the message is a sentence."""


def expand(text: str) -> list[str]:
    """Return the names in a host list, in order; raises HostlistError for what is none, or is of too many names."""
    names: list[str] = []
    place = 0
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or match.end() == place:
            raise HostlistError(f"{text[:80]!r} is no host list")
        place = match.end()
        names += _expand_part(text, match[1], match[2], HOSTS_MAX - len(names))
    return names


def _expand_part(text: str, prefix: str, brackets: str, room: int) -> list[str]:
    choices: list[list[str]] = [[prefix]]
    count = 1
    for inside, suffix in _BRACKETS.findall(brackets):
        numbers = [number for item in inside.split(",") for number in _numbers(text, item, room)]
        count *= len(numbers)
        if count > room:
            raise HostlistError(f"{text[:80]!r} is of more than {HOSTS_MAX} hosts")
        choices += [numbers, [suffix]]
    return ["".join(parts) for parts in itertools.product(*choices)] if prefix or brackets else []


def _numbers(text: str, item: str, room: int) -> list[str]:
    match = _RANGE.fullmatch(item)
    if match is None:
        raise HostlistError(f"{text[:80]!r} is no host list: {item!r} is no number or range")
    first, last = match[1], match[2] or match[1]
    if int(last) < int(first) or int(last) - int(first) >= max(room, 1):
        raise HostlistError(f"{text[:80]!r} is no host list: {item!r} is no range, or too long")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
