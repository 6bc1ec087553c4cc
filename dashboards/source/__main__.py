# SPDX-License-Identifier: Apache-2.0
"""Writes the dashboards' JSON beside this package; with --check writes nothing and exits 1 where a file differs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dashboards.source.all import DASHBOARDS
from dashboards.source.dashboard import Dashboard

FOLDER = Path(__file__).resolve().parent.parent


def text_of(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard; the same code gives the same bytes."""
    return json.dumps(dashboard.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a file is not what the code says.")
def main(check: bool) -> None:
    """Write dashboards/*.json."""
    wanted = {FOLDER / f"{dashboard.uid}.json": text_of(dashboard) for dashboard in DASHBOARDS}
    strangers = sorted(set(FOLDER.glob("*.json")) - set(wanted))
    wrong = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if not check:
        for path in wrong:
            path.write_text(wanted[path], encoding="utf-8")
        for path in strangers:
            path.unlink()
        return
    for path in [*wrong, *strangers]:
        click.echo(f"dashboards/{path.name} is not what the code says; run `make docs`", err=True)
    if wrong or strangers:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
