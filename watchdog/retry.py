"""When an event that was not delivered is tried again, and when we give it up. Pure.

The schedule is Standard Webhooks' with one step more at the start, each step +-20 %, until three days after the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

SCHEDULE_S: Sequence[float] = (0, 5, 30, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Wait before the try after that many; the last step repeats."""
GIVE_UP_AFTER = timedelta(days=3)
LEAST_TRIES = 5
"""No event is given up before that many: when the clock jumps by years, only the clock says that it is old."""
JITTER = 0.2
SHORT_WAIT_S = 60.0
"""What a receiver that names a shorter wait of its own is held to, so that "Retry-After: 0" is no endless loop."""


def longest_wait_s(attempts: int, schedule: Sequence[float] = SCHEDULE_S) -> float:
    """The longest the schedule ever waits after `attempts` tries."""
    return schedule[min(attempts, len(schedule) - 1)] * (1 + JITTER)


def wait_s(
    attempts: int, jitter: float, retry_after_s: float | None = None, schedule: Sequence[float] = SCHEDULE_S
) -> float:
    """Seconds to wait after `attempts` tries; `jitter` is from -1 to 1.

    A receiver that names a time is alive: it is taken at its word also where the schedule would wait longer.
    """
    step_s = schedule[min(attempts, len(schedule) - 1)]
    if retry_after_s is not None:
        return max(retry_after_s, min(step_s, SHORT_WAIT_S))
    return step_s * (1 + JITTER * jitter)


def next_try(
    attempts: int,
    at: datetime,
    now: datetime,
    jitter: float,
    retry_after_s: float | None = None,
    schedule: Sequence[float] = SCHEDULE_S,
) -> datetime | None:
    """When an event of `at`, tried `attempts` times, is tried again; None when it is given up.

    The last try is at the very end of the three days, however long the step before it is.
    """
    end = at + GIVE_UP_AFTER
    due = now + timedelta(seconds=wait_s(attempts, jitter, retry_after_s, schedule))
    if now >= end:
        return None if attempts >= LEAST_TRIES else due
    return due if retry_after_s is not None else min(due, end)
