"""Times as they are written, read and compared."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog import clock
from watchdog.clock import Moment, from_rfc3339, rfc3339

AWARE = st.datetimes(
    min_value=datetime(1970, 1, 2),
    max_value=datetime(2200, 1, 1),
    timezones=st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2026, 3, 1, tzinfo=UTC), "2026-03-01T00:00:00.000000Z"),
        (datetime(2026, 3, 1, 1, 2, 3, 4, tzinfo=UTC), "2026-03-01T01:02:03.000004Z"),
        (datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2026-02-28T23:00:00.000000Z"),
    ],
)
def test_times_are_written_in_utc_with_microseconds(at: datetime, text: str) -> None:
    assert rfc3339(at) == text
    assert from_rfc3339(text) == at


@given(AWARE, AWARE)
def test_what_is_written_reads_the_same_and_sorts_as_text(one: datetime, other: datetime) -> None:
    assert from_rfc3339(rfc3339(one)) == one
    assert (rfc3339(one) < rfc3339(other)) is (one < other)


def test_an_age_means_nothing_on_another_boot() -> None:
    at = Moment(100.0, datetime(2026, 3, 1, tzinfo=UTC), "this")
    assert at.age_s(40.0, "this") == 60.0
    assert at.age_s(40.0, "before") is None


def test_now() -> None:
    before = clock.moment()
    after = clock.moment()
    assert before.s <= after.s
    assert before.boot == after.boot == clock.boot_id()
    assert len(before.boot) == 36
    assert abs((clock.utc_now() - datetime.now(UTC)).total_seconds()) < 60
    assert clock.utc_now().tzinfo is UTC
    assert abs(clock.now_s() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
