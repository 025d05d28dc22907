"""Whether this process stood still, asked by one thread before any other has run again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from watchdog.metronome import Metronome

LEAST_S = 2.5
"""With it the metronome beats every second."""


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("watchdog.clock.now_s", made)
    return made


@pytest.mark.parametrize(
    ("stood_still_s", "since_s", "stalled_s"),
    [
        (1.0, 99.0, 0.0),
        (3.5, 99.0, 0.0),
        (3.6, 99.0, 2.6),
        (3.6, 103.6, 2.6),
        (3.6, 103.7, 0.0),
        (60.0, 100.0, 59.0),
    ],
    ids=["a beat", "a late beat", "a stall", "asked within it", "asked after it", "a long one"],
)
def test_what_is_a_stall(clock: Clock, stood_still_s: float, since_s: float, stalled_s: float) -> None:
    metronome = Metronome(LEAST_S)
    clock.now_s += stood_still_s
    assert metronome.stalled_s(since_s) == pytest.approx(stalled_s)


def test_a_stall_is_remembered_and_the_beats_after_it_are_none(clock: Clock) -> None:
    metronome = Metronome(LEAST_S)
    clock.now_s += 10.0
    assert metronome.stalled_s(105.0) == pytest.approx(9.0)
    for _ in range(20):
        clock.now_s += 1.0
        assert metronome.stalled_s(105.0) == pytest.approx(9.0)
        assert metronome.stalled_s(111.0) == 0.0


def test_it_beats_by_itself_and_ends() -> None:
    metronome = Metronome(0.02)
    metronome.start()
    metronome.stop()
