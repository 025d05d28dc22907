"""A figure of runs as dots on a logarithmic axis, one row a way, its median as a bar. SVG, written by hand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 210, 70, 44, 40
DOT, SPREAD = 3.5, 4
COLOURS = ("#1f6feb", "#6e7781", "#bf8700", "#8250df")
INK, FAINT = "#57606a", "#d0d7de"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def dots(title: str, rows: Mapping[str, Sequence[float]], unit: str) -> str:
    """The figure; every value must be greater than 0."""
    values = [value for row in rows.values() for value in row]
    lowest = max(tick for tick in TICKS if tick <= min(values) or tick == TICKS[0])
    highest = min((tick for tick in TICKS if tick >= max(values)), default=max(values))

    def x_of(value: float) -> float:
        share = math.log(max(value, lowest) / lowest) / math.log(highest / lowest)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    height = TOP + ROW * len(rows) + 34
    parts = [_text(LEFT, 20, title, "start", 14)]
    for tick in TICKS:
        if lowest <= tick <= highest:
            x = x_of(tick)
            parts.append(f'<path d="M{x:.1f} {TOP}V{height - 28}" stroke="{FAINT}"/>')
            parts.append(_text(x, height - 10, f"{tick:g} {unit}", "middle", 11))
    for number, (name, row) in enumerate(rows.items()):
        y, colour, middle = TOP + ROW * (number + 0.5), COLOURS[number % len(COLOURS)], statistics.median(row)
        parts.append(_text(LEFT - 12, y + 4, name, "end", 12))
        for place, value in enumerate(row):
            up = (place % SPREAD - (SPREAD - 1) / 2) * DOT
            parts.append(
                f'<circle cx="{x_of(value):.1f}" cy="{y + up:.1f}" r="{DOT}" fill="{colour}" fill-opacity="0.45"/>'
            )
        parts.append(f'<path d="M{x_of(middle):.1f} {y - 14:.1f}v28" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(_text(WIDTH - RIGHT + 8, y + 4, f"{middle:.3g} {unit}", "start", 12))
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    style = f'font-family="sans-serif" fill="{INK}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def _text(x: float, y: float, words: str, anchor: str, size: int) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>'
