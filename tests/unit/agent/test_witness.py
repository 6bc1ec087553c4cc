# SPDX-License-Identifier: Apache-2.0
"""The agent remembers what collectors showed it of their logs, and what is smaller never takes the place of it."""

import base64
import json
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpuledger.checkpoint import Checkpoint, line_of, sign_checkpoint
from gpuledger.sealing import SigningKey
from gpuledger_agent.journal import Journal
from gpuledger_agent.witness import LOGS_MAX, Witness, last_sealed


def key_of(name: str) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest()))


def line(size: int, origin: str = "log/a", key: str = "a", root: bytes = bytes(32)) -> str:
    return line_of(sign_checkpoint(Checkpoint(origin=origin, size=size, root=root), key_of(key)))


def public(key: str = "a") -> str:
    return base64.b64encode(key_of(key).public_bytes).decode()


def test_the_newest_of_each_log_is_kept_and_the_log_shown_last_is_sealed() -> None:
    witness = Witness()
    assert (witness.newest, witness.lines()) == (None, [])
    witness.show(line(5), public())
    witness.show(line(7, "log/b", "b"), public("b"))
    witness.show(line(6), public())
    assert witness.newest == line(6)
    assert sorted(witness.lines()) == sorted([line(6), line(7, "log/b", "b")])


def test_a_log_that_became_shorter_or_another_does_not_take_the_place_of_what_it_was() -> None:
    witness = Witness()
    witness.show(line(9), public())
    witness.show(line(5), public())
    witness.show(line(9, root=b"\1" * 32), public())
    assert (witness.newest, witness.lines()) == (line(9), [line(9)])


def test_what_its_key_did_not_sign_is_not_remembered() -> None:
    witness = Witness()
    for shown, key in (
        (line(5), public("b")),
        (line(5), "?"),
        (line(5), "AAAA"),
        ("nothing", public()),
        (line(5).replace(" 5 ", " 6 "), public()),
        ("\ud800", "\ud800"),
    ):
        witness.show(shown, key)
    assert witness.lines() == []


def test_somebody_with_another_key_cannot_put_away_what_a_log_showed() -> None:
    witness = Witness()
    witness.show(line(5), public())
    witness.show(line(10**15, key="b"), public("b"))
    witness.show(line(6), public())
    assert witness.newest == line(6)
    assert set(witness.lines()) == {line(6), line(10**15, key="b")}


def test_so_many_logs_are_remembered_and_the_one_shown_longest_ago_goes_first() -> None:
    witness = Witness()
    for number in range(LOGS_MAX):
        witness.show(line(1, f"log/{number}"), public())
    witness.show(line(1, "log/0"), public())
    witness.show(line(1, "log/new"), public())
    origins = [shown.split(" ")[0] for shown in witness.lines()]
    assert len(origins) == LOGS_MAX
    assert "log/1" not in origins
    assert {"log/0", "log/new"} <= set(origins)


def test_what_was_sealed_last_is_taken_up_by_the_next_session() -> None:
    witness = Witness(line(9))
    assert (witness.newest, witness.lines()) == (line(9), [line(9)])
    witness.show(line(5), public())
    assert witness.lines() == [line(9)]
    witness.show(line(10), public())
    assert witness.lines() == [line(10)]
    other = Witness(line(9))
    other.show(line(5, key="b"), public("b"))
    assert set(other.lines()) == {line(9), line(5, key="b")}
    assert Witness("not a checkpoint").lines() == []


def test_the_newest_reading_of_a_journal_says_what_was_sealed_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10**12, 10**9)
    assert last_sealed(journal) is None

    def seal(sequence: int, **payload: object) -> None:
        envelope = key_of("node").seal("x", json.dumps(payload).encode()).decode()
        journal.append([{"sequence": sequence, "end_ms": sequence, "envelope": envelope}])

    seal(1, checkpoint=line(3))
    assert last_sealed(journal) == line(3)
    seal(2)
    assert last_sealed(journal) is None
    seal(3, checkpoint=7)
    assert last_sealed(journal) is None
    journal.append([{"sequence": 4, "end_ms": 4, "envelope": "nothing"}])
    assert last_sealed(journal) is None
