# SPDX-License-Identifier: Apache-2.0
"""Questions and answers of the port, free of any server: what was asked, and bytes that are ready to be sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

PRIVATE = {"Cache-Control": "private, no-cache"}
"""Answers name people, and change: nobody in between may keep them, and who asked may, but asks again each time."""
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""For what another version has under another address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One answer, ready to be sent.

    `sameness` is what the tag is made of where not all of the body matters; two answers with one tag say the same.
    """

    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    sameness: bytes | None = None

    @property
    def tag(self) -> str:
        """Return the weak entity tag: it is the same for the body compressed or not."""
        content = self.body if self.sameness is None else self.sameness
        return f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request names: the parts of its path by name, and its query in order, both decoded."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: tuple[tuple[str, str], ...] = ()
