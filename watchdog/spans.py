"""Time spans as people write them."""

from __future__ import annotations

import re

SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
LONGEST_S = 366 * SECONDS_PER_UNIT["d"]
"""Longer spans are mistakes, and more than some clocks of the system can wait."""
LEAST_INTERVAL_S = 0.05
LONGEST_INTERVAL_S = SECONDS_PER_UNIT["d"]
"""Between two heartbeats."""


class Seconds(float):
    """A time span in seconds, written "500ms", "30s", "5m", "1h" or "2d"; always greater than 0."""


def seconds(value: object) -> Seconds:
    """The time span `value` names; raises ValueError that says what was wanted."""
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    span = float(match[1]) * SECONDS_PER_UNIT[match[2]] if match else 0.0
    if not 0 < span <= LONGEST_S:
        raise ValueError('want a time greater than 0 and at most 366d, such as "500ms", "30s", "5m" or "1h"')
    return Seconds(span)
