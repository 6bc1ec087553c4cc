# SPDX-License-Identifier: Apache-2.0
"""Which names may leave the node: openings of digests are filtered before they are written and when they are served.

Pure. A reading holds digests whatever is chosen here; what is chosen is whether the names that open them go with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PLAIN, DIGEST = "plain", "digest"
CHOICES = (PLAIN, DIGEST)
"""PLAIN: openings go beside the readings. DIGEST: they stay on the node."""
_NO_OPENINGS = b'"openings":{}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """Whether names of users and of workloads may leave the node."""

    are_users_open: bool = True
    are_workloads_open: bool = True

    def may_leave(self, workloads: Iterable[str], users: Iterable[str]) -> frozenset[str]:
        """Return those digests of one reading whose openings may leave.

        A name has one digest, whatever it names: one that is also a user's counts as a user's.
        """
        of_users = frozenset(users)
        found = (frozenset(workloads) - of_users) if self.are_workloads_open else frozenset()
        return found | of_users if self.are_users_open else found

    def strip(self, line: bytes) -> bytes:
        """Return a record of the journal as it may leave: one that was sealed when more was open keeps no more."""
        if (self.are_users_open and self.are_workloads_open) or _NO_OPENINGS in line:
            return line
        record = json.loads(line)
        parts: list[Mapping[str, str]] = json.loads(record["workloads"]) if record.get("workloads") else []
        allowed = self.may_leave(
            (part["workload"] for part in parts), (part["user"] for part in parts if part.get("user") is not None)
        )
        openings = record.get("openings", {})
        record["openings"] = {name: opening for name, opening in openings.items() if name in allowed}
        return json.dumps(record, separators=(",", ":")).encode("ascii")
