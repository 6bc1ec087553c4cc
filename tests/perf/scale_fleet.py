# SPDX-License-Identifier: Apache-2.0
"""SIMULATED nodes by the thousand, made of a few: what real agents sealed is sealed again for each, under its own key.

A pattern is an agent that plays a scenario. A node takes over what its pattern measured, with names, keys, chain and
GPUs of its own, so that a collector finds twelve thousand different nodes, and each answer and seal is genuine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpuledger.reading import GENESIS, PAYLOAD_TYPE, digest
from gpuledger.sealing import NameSealer, SigningKey

KEPT = 8
"""Readings that a node holds at most; the collector asks ten times as often as there is a new one."""
_UUID = re.compile(rb"GPU-[0-9a-f]{8}")
_SERIAL = re.compile(rb"SIM\d{5}(?=\d{5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One reading of a pattern: what stood in its seal, and what came beside it."""

    sequence: int
    payload: bytes
    workloads: bytes | None
    names: Mapping[str, str]
    """Digest -> name of whatever the workloads speak of."""


@dataclass(slots=True)
class Pattern:
    """What one real agent has said so far; `live` is a JSON value, `metrics` an exposition."""

    records: list[Record] = field(default_factory=list)
    live: bytes = b"null"
    live_digests: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    metrics: bytes = b""

    @property
    def last_sequence(self) -> int:
        return self.records[-1].sequence if self.records else 0

    def take(self, document: Mapping[str, Any]) -> None:
        """Take in an answer of /v1/readings."""
        for item in document["readings"]:
            if item["sequence"] <= self.last_sequence:
                continue
            names = {name_digest: name for name_digest, (_, name) in item["openings"].items()}
            self.names |= names
            self.records.append(
                Record(
                    sequence=item["sequence"],
                    payload=base64.b64decode(json.loads(item["envelope"])["payload"]),
                    workloads=None if item["workloads"] is None else item["workloads"].encode("ascii"),
                    names=names,
                )
            )
        live = document["live"]
        self.live = json.dumps(live).encode("ascii")
        holders = {name for gpu in live["gpus"] for name in gpu["holders"] or ()} if live else set()
        self.live_digests = tuple(sorted(holders))


@dataclass(frozen=True, slots=True)
class _Sealed:
    sequence: int
    record: bytes
    """As it stands in an answer."""


class ScaleNode:
    """One node: answers as an agent does; seals when it is first asked after its pattern has a new reading."""

    def __init__(self, number: int, name: str, pattern: Pattern) -> None:
        self.name, self._pattern = name, pattern
        seed = hashlib.sha256(name.encode()).digest()
        self._key = SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
        self._node_id = self._key.node_id
        self._names = NameSealer(seed)
        self._uuid = b"GPU-%08x" % number
        self._serial = b"SIM%05d" % number
        self._previous = GENESIS
        self._sequence = 0
        self._sealed: list[_Sealed] = []
        self._shown: str | None = None
        key = base64.b64encode(self._key.public_bytes).decode("ascii")
        self._head = f'{{"node_id": "{self._node_id}", "node": "{name}", "public_key": "{key}", "journal": '
        self._head += f'"{self._node_id[:16]}", "first_sequence": 1, "simulated": true, '

    def answer(self, query: str) -> bytes:
        """Return the body for /v1/readings with this query."""
        asked = parse_qs(query)
        after, limit = int(asked["after"][0]), int(asked["limit"][0])
        self._shown = asked["checkpoint"][0] if "checkpoint" in asked else self._shown
        self._seal_what_is_new()
        if after <= self._sequence:
            self._sealed = [one for one in self._sealed if one.sequence > after]
        lines = [] if self._shown is None else [self._shown]
        head = f'{self._head}"last_sequence": {self._sequence}, "checkpoints": {json.dumps(lines)}, "live": '
        readings = b",".join([one.record for one in self._sealed if one.sequence > after][:limit])
        return head.encode("ascii") + self._own(self._pattern.live, self._digests()) + b', "readings": [%b]}' % readings

    def metrics(self) -> bytes:
        """Return the body for /metrics."""
        text = _UUID.sub(self._uuid, self._pattern.metrics)
        return self._own(text, self._digests())

    def _digests(self) -> dict[str, str]:
        return {old: self._names.digest_of(self._pattern.names.get(old, old)) for old in self._pattern.live_digests}

    def _seal_what_is_new(self) -> None:
        for record in self._pattern.records:
            if record.sequence > self._sequence:
                self._sealed = [*self._sealed[-KEPT + 1 :], self._seal(record)]

    def _seal(self, record: Record) -> _Sealed:
        digests = {old: self._names.digest_of(name) for old, name in record.names.items()}
        workloads = None if record.workloads is None else self._own(record.workloads, digests)
        value = json.loads(self._own(record.payload, {}))
        value |= {"node_id": self._node_id, "node": self.name, "previous": self._previous}
        if workloads is not None:
            value["workloads"] = digest(workloads)
        if self._shown is not None:
            value["checkpoint"] = self._shown
        payload = json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
        envelope = self._key.seal(PAYLOAD_TYPE, payload)
        self._previous, self._sequence = digest(envelope), record.sequence
        item = {
            "sequence": record.sequence,
            "envelope": envelope.decode("ascii"),
            "workloads": None if workloads is None else workloads.decode("ascii"),
            "openings": {digests[old]: [self._names.salt_of(name).hex(), name] for old, name in record.names.items()},
        }
        return _Sealed(record.sequence, json.dumps(item).encode("ascii"))

    def _own(self, data: bytes, digests: Mapping[str, str]) -> bytes:
        """Return the pattern's bytes with the node's own GPUs and digests; the order of all lists stays."""
        data = _SERIAL.sub(self._serial, _UUID.sub(self._uuid, data))
        for old, new in digests.items():
            data = data.replace(old.encode("ascii"), new.encode("ascii"))
        return data


def make_nodes(sizes: Sequence[int], patterns: Sequence[Pattern]) -> list[list[ScaleNode]]:
    """Return one fleet for each size; no GPU and no key is in two of them."""
    fleets, number = list[list[ScaleNode]](), 0
    for fleet, size in enumerate(sizes):
        nodes = []
        for index in range(size):
            nodes.append(ScaleNode(number, f"sim-{fleet}-{index:05d}", patterns[number % len(patterns)]))
            number += 1
        fleets.append(nodes)
    return fleets
