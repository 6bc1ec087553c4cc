# SPDX-License-Identifier: Apache-2.0
"""A life as a store keeps it: all but its last hour's cells, which its signs restore. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from gpuledger.states import FEATURES
from gpuledger_collector.classify.evidence import Sums
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import Life, merged
from gpuledger_collector.classify.signs import HourSigns, amounts, named, packed, unpacked

_TO_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_WIDTH = len(FEATURES)


def to_bytes(life: Life) -> bytes:
    """Return a life as bytes."""
    sums = life.sums
    texts = (
        sums.rules,
        life.nodes,
        life.last_nodes,
        life.site,
        life.user,
        life.source,
        life.changes,
        life.asserted,
        life.likely,
    )
    numbers = (
        *(life.first_ms, life.last_ms, life.cells, life.hour_ms, life.gpus_max, life.likely_cells),
        *(sums.busy, sums.held, sums.known, sums.listens_known, sums.listens, sums.world, sums.checkpoints),
        *amounts(life.hour_features),
        *(amounts(sums.features) if sums.features else ()),
    )
    return packed(_TO_JSON(texts), numbers)


def from_bytes(data: bytes, signs: Callable[[int], Sequence[HourSigns]]) -> Life:
    """Return the life that `to_bytes` wrote; `signs` tells those of an hour, asked for its last one."""
    texts, numbers = unpacked(data)
    rules, nodes, last_nodes, site, user, source, changes, asserted, likely = texts
    first_ms, last_ms, cells, hour_ms, gpus_max, likely_cells = numbers[:6]
    busy, held, known, listens_known, listens, world, checkpoints = numbers[6:13]
    hour = signs(hour_ms)
    return Life(
        sums=Sums(
            busy=busy,
            held=held,
            known=known,
            listens_known=listens_known,
            listens=listens,
            world=world,
            checkpoints=checkpoints,
            rules=rules,
            features=named(numbers[13 + _WIDTH :]),
        ),
        first_ms=first_ms,
        last_ms=last_ms,
        cells=cells,
        asserted=_kind(asserted),
        likely=_kind(likely),
        likely_cells=likely_cells,
        changes=[(at_ms, Kind(kind)) for at_ms, kind in changes],
        nodes=nodes,
        last_nodes=last_nodes,
        gpus_max=gpus_max,
        site=site,
        user=user,
        source=source,
        hour_ms=hour_ms,
        hour=merged(hour) if hour else (),
        hour_features=named(numbers[13 : 13 + _WIDTH]),
    )


def _kind(value: str | None) -> Kind | None:
    return None if value is None else Kind(value)
