# SPDX-License-Identifier: Apache-2.0
"""The daily states as a PNG, for mail readers, which draw no SVG. Needs Pillow, which comes with the extra `report`."""

from __future__ import annotations

import io

from gpuledger_collector.palette import LOOKS
from gpuledger_collector.report.model import Weekly

WIDTH, HEIGHT, MARGIN, GAP = 720, 200, 12, 6
DAYS_MAX = 62


def daily_states_png(report: Weekly) -> bytes | None:
    """Return a stacked bar for each day, 100 % high; None without days, or where Pillow is not installed.

    Colours and order of the states are those of the report's own chart. Same report, same bytes.
    """
    try:
        from PIL import Image, ImageDraw  # noqa: PLC0415
    except ImportError:
        return None
    days = report.days[-DAYS_MAX:]
    if not days:
        return None
    image = Image.new("RGB", (WIDTH, HEIGHT), "#ffffff")
    draw = ImageDraw.Draw(image)
    step = (WIDTH - 2 * MARGIN) / len(days)
    for place, day in enumerate(days):
        left = MARGIN + place * step
        right = left + step - GAP
        whole = day.totals.installed_slice_ms
        base = HEIGHT - MARGIN
        spent = {time.state: time.slice_ms for time in day.totals.states}
        below = 0
        for state, look in LOOKS.items():
            amount = spent.get(state, 0)
            if amount == 0:
                continue
            top = base - (below + amount) * (HEIGHT - 2 * MARGIN) / whole
            bottom = base - below * (HEIGHT - 2 * MARGIN) / whole
            draw.rectangle((round(left), round(top), round(right), round(bottom)), fill=look.color)
            below += amount
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=True)
    return written.getvalue()
