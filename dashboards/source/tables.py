# SPDX-License-Identifier: Apache-2.0
"""Tables: the answers of several queries joined on their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.source.panels import Json, Look, Panel, Query, by_name, defaults_of, mappings_of, thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table: a label, or the value of the query whose letter it is."""

    source: str
    title: str
    look: Look | None = None
    is_colored: bool = False
    width: int | None = None


def _override(column: Column, links: Mapping[str, tuple[str, str]]) -> Json | None:
    properties: Json = {}
    if column.look is not None:
        properties |= {"unit": column.look.unit, "noValue": column.look.missing, "mappings": mappings_of(column.look)}
        if column.look.decimals is not None:
            properties["decimals"] = column.look.decimals
        if column.is_colored:
            properties["custom__cellOptions"] = {"type": "color-text"}
            properties["thresholds"] = thresholds(column.look.steps)
    if column.width is not None:
        properties["custom__width"] = column.width
    if column.title in links:
        words, url = links[column.title]
        properties["links"] = [{"title": words, "url": url}]
    return by_name(column.title, **properties) if properties else None


def table(
    title: str,
    description: str,
    *queries: Query,
    columns: Sequence[Column],
    width: int = 24,
    height: int = 8,
    sort: str | None = None,
    links: Mapping[str, tuple[str, str]] | None = None,
) -> Panel:
    """Return a table: the queries' answers joined on their labels, with these columns in this order.

    `sort` names the column by which the largest come first; `links` are by column: (words, URL).
    """
    letters = [chr(ord("A") + position) for position in range(len(queries))]
    names = {f"Value #{letter}" if len(queries) > 1 else "Value": letter for letter in letters}
    wanted = {
        next((name for name, letter in names.items() if letter == column.source), column.source): column
        for column in columns
    }
    overrides = [made for column in columns if (made := _override(column, links or {})) is not None]
    transformations: list[Json] = [{"id": "merge", "options": {}}] if len(queries) > 1 else []
    transformations.append(
        {
            "id": "filterFieldsByName",
            "options": {"include": {"names": list(wanted)}},
        }
    )
    transformations.append(
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: position for position, name in enumerate(wanted)},
                "renameByName": {name: column.title for name, column in wanted.items()},
            },
        }
    )
    return Panel(
        kind="table",
        title=title,
        description=description,
        queries=queries,
        width=width,
        height=height,
        field_config={
            "defaults": defaults_of(Look(), {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}),
            "overrides": overrides,
        },
        options={
            "cellHeight": "sm",
            "footer": {"countRows": False, "fields": "", "reducer": ["sum"], "show": False},
            "showHeader": True,
            "sortBy": [] if sort is None else [{"displayName": sort, "desc": True}],
        },
        transformations=tuple(transformations),
    )
