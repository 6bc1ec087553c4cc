# SPDX-License-Identifier: Apache-2.0
"""Nothing is prepared while nobody looks, and whoever looks again does not see what grew old meanwhile."""

import asyncio

import pytest

from gpuledger_collector import shelf as shelf_module
from gpuledger_collector.documents import Document
from gpuledger_collector.shelf import Prepared, Shelf
from tests.fakes.glance import a_published

HOUR_NS = 3_600 * 10**9


class Maker:
    """Prepares documents that say how many were prepared before."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Prepared:
        document = Document(body=str(self.made).encode(), content_type="text/plain")
        self.made += 1
        return Prepared(published=a_published(), metrics=document, openmetrics=document)


async def body_of(shelf: Shelf) -> bytes:
    prepared = await shelf.look()
    assert prepared is not None
    return prepared.metrics.body


async def test_what_nobody_looks_at_is_prepared_once_and_no_more_until_somebody_looks() -> None:
    shelf, maker = Shelf(), Maker()
    assert await shelf.look() is None
    shelf._looked_ns -= HOUR_NS
    for _ in range(3):
        shelf.renew(maker)
    assert maker.made == 1
    looking = asyncio.create_task(body_of(shelf))
    await asyncio.sleep(0)
    assert not looking.done()
    for _ in range(2):
        shelf.renew(maker)
    assert await looking == b"2"
    assert await body_of(shelf) == b"2"


async def test_where_nothing_new_comes_in_time_the_old_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "LOOK_S", 0.0)
    shelf, maker = Shelf(), Maker()
    shelf._looked_ns -= HOUR_NS
    for _ in range(2):
        shelf.renew(maker)
    assert await body_of(shelf) == b"0"
