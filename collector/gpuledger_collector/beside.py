# SPDX-License-Identifier: Apache-2.0
"""What comes with a batch and is not in the log: how far a journal was read, names in the clear, who was met where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuledger_collector.indexed import Database

Place = tuple[str, str, str]
"""Site, cluster, pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Who answered at a target when it was last reached."""

    target: str
    node_id: str
    journal: str
    node: str
    at_ms: int
    """When it was first this one that answered there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What comes with a batch and is not in the log; stored in the batch's transaction."""

    cursor: tuple[str, str, int] | None = None
    """Node id, journal, last sequence read."""
    openings: Mapping[str, str] = field(default_factory=dict)
    """Digest -> name."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Node -> where its target's group says that it stands."""
    contact: Contact | None = None


class Around:
    """What was stored of places and contacts since the start: agents say the same with every answer."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._contacts: dict[str, tuple[str, str, str]] = {}

    def is_known(self, beside: Beside) -> bool:
        """Return whether storing it would change nothing."""
        if beside.cursor is not None or beside.openings:
            return False
        contact = beside.contact
        is_met = contact is None or self._contacts.get(contact.target) == _who(contact)
        return is_met and all(self._places.get(node) == place for node, place in beside.places.items())

    def note(self, beside: Beside) -> None:
        self._places |= beside.places
        if beside.contact is not None:
            self._contacts[beside.contact.target] = _who(beside.contact)


def contact_of(target: str, node_id: str, journal: str, node: str, at_ms: int) -> Contact:
    """Return a row of the table as what it says."""
    return Contact(target=target, node_id=node_id, journal=journal, node=node, at_ms=at_ms)


def _who(contact: Contact) -> tuple[str, str, str]:
    return contact.node_id, contact.journal, contact.node


def put_beside(db: Database, beside: Beside) -> None:
    """Store it, inside a transaction that somebody else holds."""
    if beside.cursor is not None:
        db.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", beside.cursor)
    db.executemany(
        "INSERT OR IGNORE INTO opening VALUES (?, ?)",
        [(bytes.fromhex(digest), name) for digest, name in beside.openings.items()],
    )
    places = [(node, *place) for node, place in beside.places.items()]
    db.executemany("INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?)", places)
    if beside.contact is not None:
        contact = beside.contact
        row = (contact.target, contact.node_id, contact.journal, contact.node, contact.at_ms)
        db.execute(
            "INSERT INTO contact VALUES (?, ?, ?, ?, ?) ON CONFLICT (target) DO UPDATE SET node_id = excluded.node_id,"
            " journal = excluded.journal, node = excluded.node, at_ms = excluded.at_ms WHERE"
            " (node_id, journal, node) <> (excluded.node_id, excluded.journal, excluded.node)",
            row,
        )
