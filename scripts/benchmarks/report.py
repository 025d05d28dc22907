"""What a measurement hands over: text in Markdown, and figures that it shows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

FIRST_QUARTER, LAST_QUARTER, P95, P99 = 0.25, 0.75, 0.95, 0.99


@dataclass(frozen=True)
class Report:
    """One measurement, ready to be printed or to be put into docs/."""

    text: str
    figures: dict[str, str] = field(default_factory=dict)
    """SVG documents by the name of their file."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [header, ["---" for _ in header], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def p95(values: Sequence[float]) -> float:
    """What 95 % of the values do not exceed."""
    return _share(values, P95)


def p99(values: Sequence[float]) -> float:
    """What 99 % of the values do not exceed."""
    return _share(values, P99)


def _share(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def middle_half(values: Sequence[float]) -> str:
    """Between which half of the values are, with their signs."""
    return f"{_share(values, FIRST_QUARTER):+.1f} to {_share(values, LAST_QUARTER):+.1f}"


def met(holds: bool) -> str:
    """Whether a goal was met, in a word."""
    return "met" if holds else "MISSED"
