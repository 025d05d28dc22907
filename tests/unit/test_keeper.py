"""When the keeper sweeps: how soon drift is found that no news tell of, and how much of the time goes into it."""

from __future__ import annotations

import pytest

from watchdog.keeper import SWEEP_S, following, stuck_s

FOUND_S = 5.0
"""As the documents say."""


@pytest.mark.parametrize(
    ("took_s", "listen_s", "due_s"),  # both from the beginning of the sweep
    [
        (0.0, 0.05, 4.0),
        (0.01, 0.06, 4.0),
        (0.1, 0.4, 4.0),
        (1.0, 4.0, 4.0),
        (1.5, 4.0, 4.0),  # news are no reason to come later
        (2.0, 4.0, 4.0),
        (3.0, 6.0, 6.0),
        (60.0, 120.0, 120.0),
    ],
)
def test_the_next_sweep(took_s: float, listen_s: float, due_s: float) -> None:
    assert following(100.0, 100.0 + took_s, sweep_s=4.0) == pytest.approx((100.0 + listen_s, 100.0 + due_s))


@pytest.mark.parametrize("took_s", [0.0, 0.1, 0.5, 1.0])
def test_what_no_news_tell_of_is_found_within_five_seconds(took_s: float) -> None:
    """What drifts just after it was looked at first of all in one sweep, and is looked at last in the next."""
    _, due_s = following(0.0, took_s)
    assert due_s + took_s <= FOUND_S


@pytest.mark.parametrize("took_s", [0.02, 0.1, 1.0])
def test_news_without_end_take_a_quarter_of_the_time(took_s: float) -> None:
    listen_s, _ = following(0.0, took_s)
    assert took_s / listen_s <= 1 / 4 + 1e-9


@pytest.mark.parametrize("took_s", [0.1, 1.0, 2.0, 10.0, 100.0])
def test_others_have_the_lock_half_of_the_time(took_s: float) -> None:
    listen_s, due_s = following(0.0, took_s)
    assert took_s / listen_s <= 1 / 2
    assert due_s >= SWEEP_S


@pytest.mark.parametrize(("since_s", "now_s", "told_s"), [(None, 1e6, 0.0), (0.0, 120.0, 0.0), (0.0, 121.0, 121.0)])
def test_a_sweep_that_hangs_is_told(since_s: float | None, now_s: float, told_s: float) -> None:
    assert stuck_s(since_s, now_s) == told_s
