"""When an event is tried again, and when it is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.retry import GIVE_UP_AFTER, LEAST_TRIES, SCHEDULE_S, SHORT_WAIT_S, longest_wait_s, next_try, wait_s

AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
moments = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))
jitters = st.floats(-1, 1)


@pytest.mark.parametrize(
    ("attempts", "step_s"),
    [
        *[(0, 0), (1, 5), (2, 30), (3, 300), (4, 1800), (5, 7200), (6, 18000), (7, 36000), (8, 50400)],
        *[(9, 72000), (10, 86400), (11, 86400), (99, 86400)],
    ],
)
def test_the_schedule(attempts: int, step_s: float) -> None:
    assert next_try(attempts, AT, AT, 0.0) == AT + timedelta(seconds=step_s)
    assert next_try(attempts, AT, AT, -1.0) == AT + timedelta(seconds=step_s * 0.8)
    assert longest_wait_s(attempts) == step_s * 1.2


def test_a_receiver_that_stays_down_sees_every_step_and_one_last_try_at_the_end() -> None:
    now, tries = AT, [0.0]
    while (due := next_try(len(tries), AT, now, 0.0)) is not None:
        now = due
        tries.append((now - AT).total_seconds())
    assert tries == [sum(SCHEDULE_S[: n + 1]) for n in range(10)] + [GIVE_UP_AFTER.total_seconds()]


@pytest.mark.parametrize(
    ("attempts", "asked_s", "waits_s"),
    [(1, 0, 5), (1, 2, 5), (1, 7, 7), (6, 0, SHORT_WAIT_S), (6, 61, 61), (6, 3600, 3600), (0, 0, 0)],
)
def test_a_receiver_that_names_a_time_gets_it(attempts: int, asked_s: float, waits_s: float) -> None:
    assert wait_s(attempts, 1.0, asked_s) == waits_s
    assert next_try(attempts, AT, AT, 1.0, asked_s) == AT + timedelta(seconds=waits_s)


@given(st.integers(0, 200), moments, moments, jitters, st.none() | st.floats(0, 3600))
def test_always(attempts: int, at: datetime, now: datetime, jitter: float, asked_s: float | None) -> None:
    due = next_try(attempts, at, now, jitter, asked_s)
    if due is None:
        assert now >= at + GIVE_UP_AFTER, "given up too early"
        assert attempts >= LEAST_TRIES, "given up because of the clock alone"
    else:
        assert due >= now
        assert due - now <= timedelta(seconds=max(longest_wait_s(attempts), asked_s or 0.0), microseconds=1)
        assert asked_s is None or due - now >= timedelta(seconds=asked_s, microseconds=-1)


@given(st.lists(jitters, min_size=40, max_size=40))
def test_whatever_the_jitter_it_ends_after_three_days(jitter: list[float]) -> None:
    now, attempts = AT, 0
    while (due := next_try(attempts, AT, now, jitter[attempts])) is not None:
        assert attempts == 0 or due > now
        now, attempts = due, attempts + 1
    assert now == AT + GIVE_UP_AFTER
    assert 9 <= attempts <= 13


def test_a_clock_that_was_wrong_by_years_gives_nothing_up_at_once() -> None:
    """An event of before the clock was set, first tried after that."""
    long_ago = datetime(1970, 1, 1, tzinfo=UTC)
    waits = [next_try(attempts, long_ago, AT, 0.0) for attempts in range(1, LEAST_TRIES + 1)]
    assert waits == [AT + timedelta(seconds=SCHEDULE_S[n]) for n in range(1, LEAST_TRIES)] + [None]
