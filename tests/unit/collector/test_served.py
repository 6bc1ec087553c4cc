# SPDX-License-Identifier: Apache-2.0
"""An answer that is malformed as a whole is refused as a whole, and the field at fault is named."""

import base64
from typing import Any

import pytest

from gpuledger.errors import ReadingError
from gpuledger.sealing import node_id_of
from tests.fakes.readings import MONDAY_MS, FakeNode
from tests.fakes.storage import Storage


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"public_key": base64.b64encode(bytes(32)).decode()}, "is not the fingerprint of the public key"),
        ({"public_key": "?"}, "public_key is not base64"),
        ({"public_key": "AAAA"}, "public_key has 3 bytes, not 32"),
        ({"node_id": node_id_of(b"x")}, "node_id 2d71.* is not the fingerprint"),
        ({"readings": {}}, "readings is not a list of at most 5000"),
        ({"readings": ["x"]}, r"readings\[0\]: not an object"),
        ({"readings": [{"sequence": -1, "envelope": ""}]}, r"readings\[0\]: sequence is not an integer"),
        ({"readings": [{"sequence": True, "envelope": ""}]}, r"readings\[0\]: sequence is not an integer"),
        ({"readings": [{"sequence": 1}]}, r"readings\[0\]: envelope is missing"),
        ({"readings": [{"sequence": 1, "envelope": 5}]}, "envelope or workloads is not a text"),
        ({"readings": [{"sequence": 1, "envelope": "\ud800"}]}, "half a character"),
        ({"readings": [{"sequence": 1, "envelope": "", "openings": []}]}, "openings is not an object"),
        ({"journal": ""}, "journal is not a text of 1 to 256 characters"),
        ({"last_sequence": "9"}, "last_sequence is not an integer"),
        ({"simulated": "no"}, "simulated is not true or false"),
    ],
)
def test_an_answer_that_is_malformed_as_a_whole_is_refused_whole(
    storage: Storage, change: dict[str, Any], said: str
) -> None:
    node = FakeNode()
    node.seal(MONDAY_MS)
    with pytest.raises(ReadingError, match=f"^answer: .*{said}"):
        storage.intake.accept_batch(node.answer() | change, now_ms=storage.now_ms)
    assert storage.store.count_readings() == 0


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_an_answer_that_is_no_object_is_refused(storage: Storage, document: object) -> None:
    with pytest.raises(ReadingError, match="answer: document: not an object"):
        storage.intake.accept_batch(document, now_ms=storage.now_ms)
