# SPDX-License-Identifier: Apache-2.0
"""A life as a store keeps it: all but its last hour's cells, which its signs restore. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpuledger_collector.classify.evidence import Sums
from gpuledger_collector.classify.kinds import Kind
from gpuledger_collector.classify.life import Life, merged
from gpuledger_collector.classify.signs import HourSigns, amounts, named

_TO_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def to_text(life: Life) -> str:
    """Return a life as JSON. Put together by hand: it is written for every live workload in every cell."""
    sums = life.sums
    of_time = [sums.busy, sums.held, sums.known, sums.listens_known, sums.listens, sums.world, sums.checkpoints]
    span = [life.first_ms, life.last_ms, life.cells, life.hour_ms, life.gpus_max]
    texts = _TO_JSON([sums.rules, life.nodes, life.last_nodes, life.site, life.user, life.source])
    changes = ",".join(f'[{at_ms},"{kind.value}"]' for at_ms, kind in life.changes)
    features = amounts(sums.features) if sums.features else []
    return (
        f'{{"sums":{of_time},"span":{span},"texts":{texts},"changes":[{changes}],"asserted":{_text(life.asserted)},'
        f'"likely":[{_text(life.likely)},{life.likely_cells}],"features":{features},'
        f'"hour_features":{amounts(life.hour_features)}}}'
    )


def _text(kind: Kind | None) -> str:
    return "null" if kind is None else f'"{kind.value}"'


def from_plain(value: Mapping[str, Any], hour: Sequence[HourSigns]) -> Life:
    """Return the life that `to_text` wrote, its JSON read; `hour` are the signs of its last hour."""
    first_ms, last_ms, cells, hour_ms, gpus_max = value["span"]
    likely, likely_cells = value["likely"]
    rules, nodes, last_nodes, site, user, source = value["texts"]
    return Life(
        sums=_sums(value, rules),
        first_ms=first_ms,
        last_ms=last_ms,
        cells=cells,
        asserted=_kind(value["asserted"]),
        likely=_kind(likely),
        likely_cells=likely_cells,
        changes=[(at_ms, Kind(kind)) for at_ms, kind in value["changes"]],
        nodes=nodes,
        last_nodes=last_nodes,
        gpus_max=gpus_max,
        site=site,
        user=user,
        source=source,
        hour_ms=hour_ms,
        hour=merged(hour) if hour else (),
        hour_features=named(value["hour_features"]),
    )


def _sums(value: Mapping[str, Any], rules: dict[str, int]) -> Sums:
    busy, held, known, listens_known, listens, world, checkpoints = value["sums"]
    return Sums(
        busy=busy,
        held=held,
        known=known,
        listens_known=listens_known,
        listens=listens,
        world=world,
        checkpoints=checkpoints,
        rules=rules,
        features=named(value["features"]),
    )


def _kind(value: str | None) -> Kind | None:
    return None if value is None else Kind(value)
