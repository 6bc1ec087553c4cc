# SPDX-License-Identifier: Apache-2.0
"""Names that others gave (nodes, sites, users, workloads), made safe to look at; escaping is each form's own."""

from __future__ import annotations

import unicodedata

CHARACTERS_MAX = 64
SENTENCE_CHARACTERS_MAX = 240
DIGEST_CHARACTERS = 12
NAMELESS = "(no name)"
NOT_RECORDED = "not recorded"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSHOWABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Controls, formats (among them what turns the writing direction), lone surrogates, private use, line separators."""


def cleaned(text: str) -> str:
    """Return the name with every character that is not meant to be seen replaced."""
    return "".join(_REPLACEMENT if unicodedata.category(mark) in _UNSHOWABLE else mark for mark in text)


def shown(text: str, characters_max: int = CHARACTERS_MAX, *, nameless: str = NAMELESS) -> str:
    """Return the name cleaned and no longer than a table bears."""
    # What is cut off need not be looked at: a name may be as long as whoever gave it liked.
    text = cleaned(text[: characters_max + 1])
    if text.strip() == "":
        return nameless
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def opened_or_digest(
    name: str | None, digest: str | None, *, absent: str = NOT_RECORDED, nameless: str = NAMELESS
) -> str:
    """Return the name where somebody opened it, else the first characters of its digest."""
    if name is not None:
        return shown(name, nameless=nameless)
    if digest is None:
        return absent
    text = cleaned(digest)
    return text if len(text) <= DIGEST_CHARACTERS else f"{text[:DIGEST_CHARACTERS]}…"
